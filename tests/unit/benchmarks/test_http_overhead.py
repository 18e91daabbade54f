from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.http_overhead import (
    BEGIN,
    COUNTS,
    END,
    OURS,
    Cell,
    Sample,
    cells,
    parsed_stages,
    rendered,
    rows_of,
    run,
)
from benchmarks.report import placed
from benchmarks.results import write_results
from service.contract.artefact import current_version, model_folder, read_artefact
from service.pipeline.decode import decode_score
from service.pipeline.form import Form
from tests.support.known_registry import CATALOGUE_ITEMS, build_registry

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"
BARE = Cell("uvicorn", "nothing", 0, None, b"x")
ASKED = Cell(OURS, "ids", 200, "JSON", b"xyz")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return build_registry(tmp_path_factory.mktemp("registry")).folder


def test_every_request_asks_for_its_candidates_in_its_form(registry):
    manifest = read_artefact(model_folder(registry, "star") / current_version(registry, "star"))
    found = [cell for cell in cells(manifest, CATALOGUE_ITEMS) if cell.system == OURS and cell.n]
    assert {(cell.n, cell.form) for cell in found} >= {
        (n, f) for n in COUNTS for f in ("JSON", "MessagePack")
    }
    for cell in found:
        head, _, body = cell.request.partition(b"\r\n\r\n")
        form = Form.JSON if cell.form == "JSON" else Form.MSGPACK
        assert f"Content-Length: {len(body)}".encode() in head
        request = decode_score(body, form, candidates_max_count=500, new_items_max_count=10)
        assert len(request.item_ids) == cell.n
        assert set(request.item_ids) <= set(CATALOGUE_ITEMS)
        with_features = {name for context in request.candidate_contexts for name in context}
        assert with_features == ({"location"} if cell.asked == "ids with features" else set())


def test_stages_are_read_from_what_the_service_exposes():
    text = (
        "# TYPE twinstar_stage_duration_seconds histogram\n"
        'twinstar_stage_duration_seconds_bucket{le="0.1",stage="score"} 3.0\n'
        'twinstar_stage_duration_seconds_count{stage="score"} 3.0\n'
        'twinstar_stage_duration_seconds_sum{stage="score"} 0.0021\n'
        'twinstar_stage_duration_seconds_sum{stage="decode"} 1.5e-05\n'
    )
    assert parsed_stages(text) == {"score": 0.0021, "decode": 0.000015}


def stages(score_us, **others):
    return {"hydrate": 50.0, "encode": 150.0, "score": score_us, "decode": 20.0, "respond": 30.0, **others}


def test_what_is_around_the_scoring_is_all_but_the_store_the_tensors_and_the_graph():
    samples = [
        Sample(BARE, 80.0, {}),
        Sample(ASKED, 1000.0, stages(500.0)),
        Sample(BARE, 100.0, {}),
        Sample(ASKED, 1300.0, stages(600.0)),
        Sample(BARE, 90.0, {}),
        Sample(ASKED, 9000.0, stages(4500.0)),  # a machine that was busy
    ]
    bare, asked = rows_of(samples)
    assert (bare["cpu_us_per_request"], bare["around_us"], bare["over_score"]) == (90.0, 90.0, None)
    assert asked["cpu_us_per_request"] == 1300.0
    assert asked["around_us"] == 500.0  # of 300, 500 and 4300
    assert asked["over_score"] == 2.0  # of 2.0, 2.17 and 2.0
    assert asked["decode_us"] == 20.0 and asked["rounds"] == 3


def test_results_are_rendered_between_the_marks_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/anywhere/http_overhead.py"])
    rows = rows_of([Sample(BARE, 80.0, {}), Sample(ASKED, 1000.0, stages(500.0))])
    write_results(
        tmp_path / "http.json", [{**row, "load_average_before": 0.1} for row in rows], packages=("uvicorn",)
    )
    text = rendered(json.loads((tmp_path / "http.json").read_text()))
    page = placed(PAGE.read_text(), text, marks=(BEGIN, END))
    (line,) = [line for line in page.splitlines() if line.startswith("| `twinstar`") and " ids |" in line]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "`twinstar`", "ids", "200", "JSON", "1,000", "300", "20.0", "30.0", "500", "2.00",
    ]  # fmt: skip


def test_all_servers_answer_and_their_processor_time_is_measured(registry, monkeypatch):
    monkeypatch.setattr("benchmarks.http_overhead.ROUND_S", 0.1)
    rows = rows_of(run(registry, "star", rounds=1))
    assert {row["system"] for row in rows} == {"uvicorn", "starlette", "fastapi", OURS}
    for row in rows:
        assert row["cpu_us_per_request"] >= 0
        assert ("score_us" in row) == (row["system"] == OURS and row["n"] > 0)
        assert msgspec.json.encode(row)
