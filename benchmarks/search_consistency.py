"""How much of what attention itself ranks first TWIN's search returns, on trained models.

    python -m benchmarks.search_consistency configs/demo.yaml [--models star,pepnet] [--out FILE.json]

For each TWIN or TWIN-V2 module of each model: on the test visits, keeping a quarter of each history, and on histories
of 1,000, 2,000 and 10,000 entries drawn from the items, keeping 100. Each with fresh keys, and with keys that are
off by a share of their spread, as a cache's are that was filled before the last updates. Needs the pipeline of the
config to have run up to `train`; what is measured is told in training/metrics/search_consistency.py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.results import write_results
from training.config import load_config
from training.metrics.search_consistency import (
    consistency_on_histories,
    consistency_on_long_histories,
)
from training.modules.target_attention import TargetAttention
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import Workbench

LENGTHS: Final = (1_000, 2_000, 10_000)
KEEP: Final = 100
KEEP_RATIO: Final = 0.25
NOISES: Final = (0.0, 0.02, 0.05, 0.2)
"""How far keys are off, in shares of their spread; 0: fresh."""
VISITS_MAX: Final = 500
ITEMS_MAX: Final = 20_000


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="pipeline configuration")
    parser.add_argument("--models", help="by name, separated by commas; all without it")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_consistency.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Workbench(load_config(arguments.config))
    chosen = arguments.models.split(",") if arguments.models else list(bench.config.models)
    rows = [row for model in chosen for row in measured(bench, model)]
    write_results(arguments.out, rows, packages=("numpy", "torch"))
    for row in rows:
        print(
            f"{row['model']:<10} {row['interest']:<8} {row['histories']:<6} length {row['length_mean']:>8,.0f}"
            f"  keep {row['keep_mean']:>6.0f}  noise {row['noise']:.2f}  returned {row['mean']:.4f}"
            f"  least {row['least']:.2f}"
        )


def measured(bench: Workbench, name: str) -> list[dict[str, Any]]:
    """Return the rows of one trained model: a module, kind and length of histories, and noise each."""
    model = load_model(bench, name, Progress(stage="consistency"))
    data = bench.encoded_for(bench.config.models[name], Progress(stage="consistency"))
    random = np.random.default_rng(0)
    visits, catalogue = data.visits_of("test"), np.arange(1, len(data.item_ids))
    visits = np.sort(random.choice(visits, min(VISITS_MAX, len(visits)), replace=False))
    some = np.sort(random.choice(catalogue, min(ITEMS_MAX, len(catalogue)), replace=False))
    with torch.inference_mode():
        items = model.embed_items(torch.from_numpy(some))
    rows: list[dict[str, Any]] = []
    for interest, module in model.interests.items():
        if not isinstance(module, TargetAttention) or model.reads[interest] == "recents":
            continue  # it searches by other scores, or not at all
        for noise in NOISES:
            print(f"{name}, {interest}, noise {noise}", file=sys.stderr, flush=True)
            real = consistency_on_histories(
                model, interest, data, visits, keep_ratio=KEEP_RATIO, stale_noise=noise
            )
            drawn = [
                consistency_on_long_histories(module, items, length=length, keep=KEEP, stale_noise=noise)
                for length in LENGTHS
            ]
            rows += [
                {
                    "model": name,
                    "interest": interest,
                    "histories": histories,
                    "noise": noise,
                    **asdict(consistency),
                }
                for histories, of_kind in (("real", [real]), ("drawn", drawn))
                for consistency in of_kind
            ]
    return rows


if __name__ == "__main__":
    main()
