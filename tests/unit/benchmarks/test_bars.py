from __future__ import annotations

import pytest

from benchmarks.bars import BARE_FLOOR, FLOOR, LIMITS, Limits, bars_of
from benchmarks.figures import Cell, Sample
from benchmarks.systems import BOUND, OURS, PLAIN, PURE, STARLETTE


def sample(cell, *, rps=1.0, p50=1.0, p99=1.0, cpu=1.0, turn=1):
    return Sample(cell, rps, p50, p99, cpu, turn)


def found(samples):
    return {(bar.name, bar.n): bar for bar in bars_of(samples)}


def test_a_limit_is_met_from_its_own_side():
    least, most = Limits(passes=2, goal=3, more_is_better=True), Limits(passes=3, goal=2)

    assert [least.verdict(v) for v in (1.9, 2.0, 2.9, 3.0)] == ["missed", "pass", "pass", "goal"]
    assert [most.verdict(v) for v in (3.1, 3.0, 2.1, 2.0)] == ["missed", "pass", "pass", "goal"]
    assert Limits().verdict(1) == "stated"


def test_the_graph_is_over_its_bound_and_a_request_over_the_graph_by_cpu_of_the_same_turn():
    pure, bound = (Cell(name, 500, 1000.0, 1, "tensors") for name in (PURE, BOUND))
    ours = Cell(OURS, 500, 1000.0, 1)
    samples = [
        *(sample(cell, cpu=cpu, turn=1) for cell, cpu in ((pure, 30), (bound, 20), (ours, 60))),
        *(sample(cell, cpu=cpu, turn=2) for cell, cpu in ((pure, 60), (bound, 20), (ours, 90))),
    ]

    bars = found(samples)

    over_bound = bars["served graph over its fp32 GEMM bound", 500]
    assert (over_bound.median, over_bound.low, over_bound.high) == (2.25, 1.5, 3.0)
    assert bars["CPU of a request over ONNX Runtime alone", 500].median == 1.75
    assert len(bars) == 2


def test_throughput_is_over_both_plain_services_and_over_the_peer_that_is_nearest():
    systems = {OURS: 100, PLAIN["training"]: 5, PLAIN["served"]: 25, "slow-served": 10, "fast-served": 50}
    samples = [sample(Cell(name, 200, 1000.0, 8), rps=rps) for name, rps in systems.items()]

    bars = found(samples)

    assert bars["requests per second over plain FastAPI, training graph", 200].median == 20
    assert bars["requests per second over plain FastAPI, served graph", 200].median == 4
    peer = bars["requests per second over the best peer", 200]
    assert (peer.median, peer.against) == (2, "fast-served")


@pytest.mark.parametrize(
    ("p99", "floor", "verdict"),
    [(2.5, 0.1, "pass"), (9.0, 3.9, "missed"), (9.0, 4.0, "pass"), (9.0, None, "missed")],
)
def test_a_tail_passes_by_its_own_median_or_by_what_an_empty_request_takes(p99, floor, verdict):
    samples = [sample(Cell(OURS, 500, 1000.0, 32, loop="open"), p50=1.0, p99=p99)]
    if floor is not None:
        samples.append(sample(Cell(FLOOR, 0, 0.0, 32, loop="open"), p99=floor))

    bar = found(samples)["p99 over p50 at half of capacity", 500]

    assert (bar.median, bar.verdict) == (p99, verdict)


def test_what_a_request_costs_by_itself_is_beside_bare_starlette():
    samples = [
        sample(Cell(FLOOR, 0, 0.0, 1), cpu=60),
        sample(Cell(BARE_FLOOR, 0, 0.0, 1), cpu=40),
        sample(Cell(OURS, 1, 0.0, 1), cpu=300),
        sample(Cell(STARLETTE, 1, 0.0, 1), cpu=200),
    ]

    bars = found(samples)

    assert bars["CPU of an empty /livez over bare Starlette", 0].median == 1.5
    assert bars["CPU of a one-candidate /score over bare Starlette", 1].median == 1.5


def test_bars_of_nothing_are_none_and_every_bar_has_its_limits():
    assert bars_of([]) == []
    assert all(limits.passes is None or limits.passes > 0 for limits in LIMITS.values())
