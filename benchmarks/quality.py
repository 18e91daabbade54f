"""The models of a pipeline beside what a user would pick instead, on the very same test rows.

    python -m benchmarks.quality CONFIG.yaml [--out FILE.json] [--threads N]

The pipeline must have run up to `train`. Besides the natural metrics of each system per domain, the difference of
AUC and GAUC to popularity is given with a 95 % interval by bootstrap over users, paired.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.results import write_results
from benchmarks.rivals import boosted_trees, measured, popularity
from training.config import load_config
from training.data.dataset import Dataset
from training.fit import predict, probabilities
from training.metrics.natural import auc, gauc, natural_weights
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import Workbench

F64 = npt.NDArray[np.float64]

RESAMPLES_COUNT: Final = 200
SEED: Final = 5
BASELINE: Final = "popularity"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality.json"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    bench = Workbench(load_config(arguments.config))
    dataset = bench.dataset

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    systems = {BASELINE: popularity(dataset, say)}
    systems["lightgbm"] = boosted_trees(dataset, say, threads=arguments.threads, candidate_features=False)
    for model in bench.config.models:
        say(f"{model}: scoring the test rows")
        systems[model] = scores_of(bench, model)
    rows: list[dict[str, Any]] = []
    for name, probability in systems.items():
        interval = difference_interval(dataset, probability, systems[BASELINE])
        first, *others = measured(dataset, probability, system=name)
        rows += [{**first, **interval}, *others]
    packages = ("lightgbm", "numpy", "onnxruntime", "polars", "torch")
    write_results(arguments.out, rows, packages=packages)
    for row in rows:
        facts = ("auc", "gauc", "gauc_request", "log_loss", "pcoc", "calibration_error")
        numbers = "  ".join(f"{fact} {row[fact]:.4f}" for fact in facts)
        extra = "  ".join(f"{k} {v}" for k, v in row.items() if k.endswith("over_popularity"))
        print(f"{row['system']:<12} {row['domain']:<8} {numbers}  {extra}")


def scores_of(bench: Workbench, model: str) -> F64:
    """Return a model's probability of the first task for every exposure, NaN outside the test rows, (B,)."""
    config = bench.config.models[model]
    data = bench.encoded_for(config, Progress(stage=model))
    visits = data.visits_of("test")
    logits = predict(load_model(bench, model, Progress(stage=model)), data, visits)
    p = probabilities(logits, bench.tasks_of(config))
    out = np.full(len(data.item), np.nan)
    out[data.rows_of(visits)] = p[:, 0]
    return out


def difference_interval(dataset: Dataset, probability: F64, baseline: F64) -> dict[str, list[float]]:
    """Return [difference, lower, upper] to the baseline of AUC and GAUC on the test rows, over users."""
    test = (dataset.exposures["split"] == "test").to_numpy()
    rows = dataset.exposures.filter(test)
    click = rows[dataset.spec.tasks[0].name].to_numpy()
    weight = natural_weights(click, rows["keep_probability"])
    user = np.unique(rows["user_id"].to_numpy(), return_inverse=True)[1]
    p, q = probability[test], baseline[test]

    def differences(times: F64) -> tuple[float, float]:
        w = weight * times
        kept = w > 0
        y, a, b, u = click[kept], p[kept], q[kept], user[kept]
        return (
            (auc(y, a, w[kept]) or 0.0) - (auc(y, b, w[kept]) or 0.0),
            (gauc(y, a, w[kept], u) or 0.0) - (gauc(y, b, w[kept], u) or 0.0),
        )

    rng = np.random.default_rng(SEED)
    users_count = int(user.max()) + 1
    drawn = []
    for _ in range(RESAMPLES_COUNT):
        times = np.bincount(rng.integers(0, users_count, users_count), minlength=users_count)
        drawn.append(differences(times.astype(np.float64)[user]))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    whole = differences(np.ones(len(weight)))
    return {
        f"{name}_over_popularity": [round(float(x), 5) for x in (whole[i], low[i], high[i])]
        for i, name in enumerate(("auc", "gauc"))
    }


if __name__ == "__main__":
    main()
