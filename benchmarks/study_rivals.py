"""The rivals of a study, on the very rows that its models see, in the files from which the study takes them in.

    python -m benchmarks.study_rivals configs/study.yaml [--threads N] [--force]

Writes `<workspace>/rivals/<name>.npy`, the probability of the first task for each exposure of the dataset, and
beside it `<name>.json`, what it is and the fingerprint of the dataset, and of the features where it reads those of the
models. One that is there for these stays.
The study measures it by the same functions as its own rows. The rivals' own choices (trees, shrinking) are made on
the validation rows, which the models' epochs are chosen on too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from benchmarks.rivals import boosted_trees, popularity
from service.contract.features import Side
from service.contract.files import write_atomically
from training.data.encoded import COUNTED_SIDES
from training.progress import Progress
from training.study.config import load_study
from training.workbench import Workbench

F64 = npt.NDArray[np.float64]
Say = Callable[[str], None]

LABELS: Final = {
    "popularity": "popularity",
    "lightgbm": "LightGBM on rich counts",
    "lightgbm_placement": "LightGBM, and the candidate's placement",
    "lightgbm_statistics": "LightGBM, and the statistics, users' features and hours that the models read",
}


def write_rival(
    folder: Path,
    name: str,
    made_from: dict[str, str],
    make: Callable[[], F64],
    *,
    library: str,
    force: bool = False,
) -> bool:
    """Make a rival and write its two files, the description last; returns whether it had to be made.

    `made_from` is the `fingerprint` of the dataset, and the digest of the `features` for one that reads the models'.
    """
    about = folder / f"{name}.json"
    if not force and about.is_file():
        known: dict[str, Any] = orjson.loads(about.read_bytes())
        if {key: known.get(key) for key in made_from} == made_from:
            return False
    folder.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)
    started = time.perf_counter()
    np.save(folder / f"{name}.npy", make().astype(np.float32))
    record = {
        "library": library,
        "label": LABELS.get(name, name),
        **made_from,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_atomically(about, orjson.dumps(record, option=orjson.OPT_INDENT_2))
    return True


def model_columns(bench: Workbench) -> pl.DataFrame:
    """Return what of the models' features trees lack, a row an exposure, as ids.

    Those are the counted features, whose bucket numbers keep their order, the user's, and the moment's; not the user's
    id, of which trees have the user's counts.
    """
    data = bench.encoded(Progress(stage="features"))
    names = [feature.name for side in COUNTED_SIDES for feature in data.features if feature.side is side]
    counted = data.candidate_ids[:, data.candidate_ids.shape[1] - len(names) :]
    own = [feature for side in (Side.USER, Side.CONTEXT) for feature in data.features if feature.side is side]
    known = {"user_id", *(f.name for f in bench.dataset.spec.features_of(Side.CONTEXT))}
    lacking = [i for i, feature in enumerate(own) if feature.name not in known]
    per_request = data.user_ids[data.row_request]
    columns = {name: counted[:, i] for i, name in enumerate(names)}
    columns |= {own[i].name: per_request[:, i] for i in lacking}
    return pl.DataFrame({name: ids.astype(np.float32) for name, ids in columns.items()})


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="study configuration")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--force", action="store_true", help="make those too that are there")
    arguments = parser.parse_args()
    bench = Workbench(load_study(arguments.config)[1])
    dataset, folder = bench.dataset, bench.config.workspace / "rivals"

    def say(line: str) -> None:
        print(f"  {line}", file=sys.stderr, flush=True)

    def trees(*, candidate_features: bool, model_features: bool = False) -> F64:
        return boosted_trees(
            dataset,
            say,
            threads=arguments.threads,
            candidate_features=candidate_features,
            further=model_columns(bench) if model_features else None,
        )

    of_data = {"fingerprint": dataset.spec.fingerprint}
    of_features = {**of_data, "features": bench.features_digest}
    makers: dict[str, tuple[str, dict[str, str], Callable[[], F64]]] = {
        "popularity": ("benchmarks", of_data, lambda: popularity(dataset, say)),
        "lightgbm": ("lightgbm", of_data, lambda: trees(candidate_features=False)),
        "lightgbm_placement": ("lightgbm", of_data, lambda: trees(candidate_features=True)),
        "lightgbm_statistics": (
            "lightgbm",
            of_features,
            lambda: trees(candidate_features=True, model_features=True),
        ),
    }
    for name, (library, made_from, make) in makers.items():
        made = write_rival(folder, name, made_from, make, library=library, force=arguments.force)
        say(f"{name}: {'written' if made else 'up to date'}")


if __name__ == "__main__":
    main()
