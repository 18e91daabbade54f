from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import bench
from benchmarks.comparison import TRAINING_CELLS_MAX, Comparison, Options, Point
from benchmarks.figures import Cell
from benchmarks.load import read_requests
from benchmarks.measure import Measurements, Task
from benchmarks.servers import ServerError
from benchmarks.systems import BOUND, OURS, PLAIN, PURE, STARLETTE
from benchmarks.workload import Ask, Workload


class Failing:
    """A server that gives no answers, running or not."""

    port = 1

    def __init__(self, name, *, running):
        self.name, self._running = name, running

    def cpu_s(self):
        return 0.0

    def is_running(self):
        return self._running


def point(n, c):
    return Point(n, float(c), Workload("few", "made up", float(c), (Ask("both", b"{}"),)))


@pytest.fixture
def comparison(subject, tmp_path):
    return Comparison(subject, tmp_path, Options(1, 0.1, 0.1), Measurements(None, None))


def test_the_training_graph_is_left_out_where_it_would_lay_out_too_much_and_is_named_once(comparison):
    most = TRAINING_CELLS_MAX // 10_000
    assert comparison._is_able(PLAIN["training"], point(most, 10_000))
    assert not comparison.left_out
    for _ in range(2):
        assert not comparison._is_able(PLAIN["training"], point(most + 1, 10_000))
    assert comparison._is_able(OURS, point(most + 1, 10_000))

    assert len(comparison.left_out) == 1
    assert PLAIN["training"] in comparison.left_out[0]


def task_of(name, tmp_path, *, running):
    (tmp_path / "requests").write_bytes(b"")
    return Task(
        Cell(name, 10, 0.0, 1), Failing(name, running=running), tmp_path / "requests", "", seconds=0.1
    )


def test_a_plain_service_that_has_ended_is_noted_and_not_asked_again(comparison, tmp_path):
    comparison._take(task_of(PLAIN["training"], tmp_path, running=False))

    assert not comparison._is_able(PLAIN["training"], point(10, 0))
    assert "its process ended" in comparison.left_out[0]


@pytest.mark.parametrize(("name", "running"), [(OURS, False), (PLAIN["training"], True)])
def test_any_other_failure_ends_the_run(comparison, tmp_path, name, running):
    with pytest.raises(ServerError, match=name):
        comparison._take(task_of(name, tmp_path, running=running))


@pytest.mark.slow
def test_one_run_measures_every_kind_of_row_and_writes_them_in_their_form(
    reference, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "bench.json"
    arguments = ["--quick", "--peers", "--reference", str(reference.folder), "--items", "1000"]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--out", str(out), "--json"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)

    bench.main()

    written = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == written
    found = {(r["system"], r["input"], r["loop"]) for r in written["rows"]}
    plain = {(name, i, loop) for name in PLAIN.values() for i, loop in (("ids", "closed"), ("ids", "open"))}
    assert found == plain | {
        (OURS, "ids", "closed"),
        (OURS, "ids", "open"),
        *((name, "tensors", "closed") for name in (*PLAIN.values(), PURE, BOUND)),
        (STARLETTE, "ids", "closed"),
        ("twinstar-livez", "ids", "closed"),
        ("twinstar-livez", "ids", "open"),
        ("starlette-livez", "ids", "closed"),
    }
    assert all(row["rps"] > 0 and row["cpu_us_per_request"] > 0 for row in written["rows"])
    assert [row["rate_rps"] is not None for row in written["rows"]] == [
        row["loop"] == "open" for row in written["rows"]
    ]
    assert {bar["name"] for bar in written["bars"]} >= {
        "served graph over its fp32 GEMM bound",
        "CPU of a request over ONNX Runtime alone",
        "p99 over p50 at half of capacity",
    }
    assert reference.version in written["about"]
    assert {ratio["system"] for ratio in written["ratios"]} == {OURS}


def test_every_system_that_takes_bodies_as_they_are_is_sent_the_same_bytes(comparison, subject):
    from benchmarks.systems import ours, plain

    where = point(10, 0)
    systems = [ours(subject), plain(subject, "served")]
    tasks = [comparison._ids_task(s, Failing(s.name, running=True), where, 1, 0.1) for s in systems]
    wrapped = replace(systems[0], name="wrapped", wrapped=True)
    other = comparison._ids_task(wrapped, Failing("wrapped", running=True), where, 1, 0.1)

    assert tasks[0].requests == tasks[1].requests != other.requests
    assert read_requests(tasks[0].requests) != read_requests(other.requests)
