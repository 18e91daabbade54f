from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from benchmarks import processes, threads
from benchmarks.large_artefact import MODEL, item_id_of, write_registry
from benchmarks.processes import MIB, memory_of
from benchmarks.report import placed
from service.experiments.plan import read_plan
from service.models.live import load_serving

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"
ITEMS_COUNT = 12_345
META = {"command": "c", "date": "d", "machine": "m", "versions": {"numpy": "2"}}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_registry(tmp_path_factory.mktemp("large") / "made", items_count=ITEMS_COUNT)


@pytest.mark.slow
def test_the_registry_is_one_that_the_service_serves(registry: tuple[Path, Path]) -> None:
    folder, plan = registry
    model = load_serving(folder, read_plan(plan)).models[MODEL]
    rows = model.encoder.tables.rows_of(
        model.catalogue.ids_of([item_id_of(0), item_id_of(ITEMS_COUNT - 1), item_id_of(ITEMS_COUNT)])
    )
    assert rows.tolist() == [1, ITEMS_COUNT, 0]
    assert model.manifest.items_count == ITEMS_COUNT + 1


@pytest.mark.slow
def test_threads_are_measured_in_turn_and_together(registry: tuple[Path, Path]) -> None:
    rows = threads.measured(registry[0], (1, 2), rounds=2)
    assert [(row["threads"], row["n"]) for row in rows] == [(1, 200), (2, 200), (1, 1000), (2, 1000)]
    assert all(0 < row["p10_ms"] <= row["p50_ms"] <= row["p99_ms"] for row in rows)
    rows = [{"processes": 1, "load_average_before": 0.5, **row} for row in rows]
    text = threads.rendered({"meta": META, "rows": rows})
    assert text.count("\n| 1 ") == 4
    assert text in placed(PAGE.read_text(), text, marks=(threads.BEGIN, threads.END))


def test_own_memory_is_what_was_written_and_not_what_is_mapped(tmp_path: Path) -> None:
    path, size = tmp_path / "file", 32 * MIB
    path.write_bytes(os.urandom(size))
    before = memory_of(os.getpid())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) > 0
        with_map = memory_of(os.getpid())
    # Pages of its own: what a heap gives may be there already.
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as written:
        written.write(b"x" * size)
        with_written = memory_of(os.getpid())
    assert with_map.resident_bytes - before.resident_bytes > 0.9 * size
    assert with_map.own_bytes - before.own_bytes < 0.1 * size
    assert with_written.own_bytes - with_map.own_bytes > 0.9 * size
    assert with_written.own_bytes <= with_written.proportional_bytes <= with_written.resident_bytes


def test_the_page_has_a_place_for_the_table() -> None:
    row = {
        "items": 10,
        "artefact_bytes": MIB,
        "workers": 2,
        "page_cache": "cold",
        "ready_s": 1.5,
        "processor_s": 1.25,
    }
    row |= dict.fromkeys(("resident_bytes", "own_bytes", "own_bytes_max", "all_workers_bytes"), 3 * MIB)
    text = processes.rendered({"meta": META, "rows": [{**row, "load_average_before": 0.5}]})
    assert "| 2       |       cold |     1.50 |         1.25 |          3.00 |" in text
    assert text in placed(PAGE.read_text(), text, marks=(processes.BEGIN, processes.END))
