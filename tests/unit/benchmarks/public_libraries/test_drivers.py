"""Every driver does what a job asks, by its library's own package, where its environment was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.environments import installed
from benchmarks.public_libraries.exchange import (
    KEEP_PROBABILITY,
    LENGTH,
    FieldSpec,
    Job,
    RowsSpec,
    label,
    recent,
    scores_path,
)
from benchmarks.public_libraries.systems import SYSTEMS, DriverError, System, chosen_systems, run_system

ROWS_COUNT = {"train": 600, "validation": 150, "test": 90}
RECENTS_MAX = 4
ITEMS_COUNT = 6


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose click follows from the item: bought if its id is even. The user says nothing."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    for split, count in ROWS_COUNT.items():
        out = folder / split
        out.mkdir()
        item = rng.integers(1, ITEMS_COUNT, count)
        click = (item % 2 == 0).astype(np.float32)
        lengths = rng.integers(0, RECENTS_MAX + 1, count)
        recents = np.where(
            np.arange(RECENTS_MAX) < lengths[:, None], rng.integers(1, ITEMS_COUNT, (count, RECENTS_MAX)), 0
        )
        columns = {
            "user_id": rng.integers(1, 4, count).astype(np.int32),
            "item_id": item.astype(np.int32),
            "domain": rng.integers(1, 3, count).astype(np.int32),
            recent("item_id"): recents.astype(np.int32),
            LENGTH: lengths.astype(np.int32),
            label("click"): click,
            label("multi"): click * rng.integers(0, 2, count).astype(np.float32),
            KEEP_PROBABILITY: np.full(count, 0.5),
        }
        for name, column in columns.items():
            np.save(out / f"{name}.npy", column)
    fields = (
        FieldSpec("user_id", 4, "user"),
        FieldSpec("item_id", ITEMS_COUNT, "item"),
        FieldSpec("domain", 3, "domain"),
    )
    RowsSpec(fields, ("click", "multi"), RECENTS_MAX, ROWS_COUNT, "made").save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("equal", [False, True], ids=["as it comes", "equal"])
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_learns_what_the_rows_say_and_reports_it(
    system: System, equal: bool, rows: Path, tmp_path: Path
) -> None:
    if not installed(system.library):
        pytest.skip(f"no environment of {system.library.distribution}")
    if equal and system.model not in ("dcnv2", "din"):
        pytest.skip("speed is compared for DCN-V2 and DIN")
    job = Job(
        rows=str(rows),
        source="made",
        out=str(tmp_path),
        model=system.model,
        embedding_width=8,
        hidden=(32, 16),
        attention_hidden=(8,),
        cross_layers=1,
        experts_count=2,
        epochs=8,
        batch_rows=32,
        learning_rate=0.01,
        seed=1,
        threads=1,
        equal=equal,
    )
    told: list[str] = []
    report = run_system(system, job, told.append)
    assert report.rows_count == ROWS_COUNT["train"]
    assert report.parameters > 0
    assert report.version == system.library.version
    assert len(report.epochs) == job.epochs
    assert all(epoch.steps == 19 and epoch.seconds > 0 for epoch in report.epochs)  # ⌈600 / 32⌉
    losses = [epoch.validation_log_loss for epoch in report.epochs]
    assert losses[report.best_epoch - 1] == min(losses)
    for split in ("validation", "test"):
        p = np.load(scores_path(tmp_path, split))
        click = np.load(rows / split / f"{label('click')}.npy")
        assert p.shape == click.shape
        assert p[click == 1].min() > p[click == 0].max()
    assert run_system(system, job, told.append) == report
    assert told[-1].endswith("done before")


def test_an_unknown_system_is_refused_with_those_there_are() -> None:
    with pytest.raises(DriverError, match=r"'keras-din' is none of .*torch_rechub-din"):
        chosen_systems("keras-din")


def test_systems_are_chosen_by_name_and_model() -> None:
    assert [s.name for s in chosen_systems("torch_rechub-ple,fuxictr-din")] == [
        "torch_rechub-ple",
        "fuxictr-din",
    ]
    assert {s.model for s in chosen_systems(None, models=("din",))} == {"din"}
