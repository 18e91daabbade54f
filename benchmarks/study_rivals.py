"""The rivals of a study, on the very rows that its models see, in the files from which the study takes them in.

    python -m benchmarks.study_rivals configs/study.yaml [--threads N] [--force]

Writes `<workspace>/rivals/<name>.npy`, the probability of the first task for each exposure of the dataset, and
beside it `<name>.json`, what it is and the fingerprint of the dataset. One that is there for this dataset stays.
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
from service.contract.files import write_atomically
from training.data.dataset import Dataset
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
    "lightgbm_statistics": "LightGBM, and all statistics that the models see",
}


def write_rival(
    folder: Path, name: str, dataset: Dataset, make: Callable[[], F64], *, library: str, force: bool = False
) -> bool:
    """Make a rival and write its two files, the description last; returns whether it had to be made."""
    about = folder / f"{name}.json"
    if not force and about.is_file():
        known: dict[str, Any] = orjson.loads(about.read_bytes())
        if known.get("fingerprint") == dataset.spec.fingerprint:
            return False
    folder.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)
    started = time.perf_counter()
    np.save(folder / f"{name}.npy", make().astype(np.float32))
    record = {
        "library": library,
        "label": LABELS.get(name, name),
        "fingerprint": dataset.spec.fingerprint,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_atomically(about, orjson.dumps(record, option=orjson.OPT_INDENT_2))
    return True


def counted_columns(bench: Workbench) -> pl.DataFrame:
    """Return the match and popularity features of each exposure, as bucket numbers, which keep their order."""
    data = bench.encoded(Progress(stage="statistics"))
    names = [feature.name for side in COUNTED_SIDES for feature in data.features if feature.side is side]
    columns = data.candidate_ids[:, data.candidate_ids.shape[1] - len(names) :]
    return pl.DataFrame({name: columns[:, i].astype(np.float32) for i, name in enumerate(names)})


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

    def trees(*, candidate_features: bool, statistics: bool = False) -> F64:
        return boosted_trees(
            dataset,
            say,
            threads=arguments.threads,
            candidate_features=candidate_features,
            statistics=counted_columns(bench) if statistics else None,
        )

    makers: dict[str, tuple[str, Callable[[], F64]]] = {
        "popularity": ("benchmarks", lambda: popularity(dataset, say)),
        "lightgbm": ("lightgbm", lambda: trees(candidate_features=False)),
        "lightgbm_placement": ("lightgbm", lambda: trees(candidate_features=True)),
        "lightgbm_statistics": ("lightgbm", lambda: trees(candidate_features=True, statistics=True)),
    }
    for name, (library, make) in makers.items():
        made = write_rival(folder, name, dataset, make, library=library, force=arguments.force)
        say(f"{name}: {'written' if made else 'up to date'}")


if __name__ == "__main__":
    main()
