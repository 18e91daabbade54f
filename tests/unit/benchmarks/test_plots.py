from __future__ import annotations

from benchmarks import plots
from benchmarks.systems import BOUND, OURS, PLAIN, PURE


def row(system, n, c, *, cpu=1000.0, input="ids", loop="closed", connections=1):
    return {
        "system": system,
        "n": n,
        "c": float(c),
        "connections": connections,
        "input": input,
        "loop": loop,
        "cpu_us_per_request": cpu,
    }


ROWS = [
    *(row(name, n, c) for name in (OURS, *PLAIN.values()) for n in (100, 200) for c in (0, 1000)),
    row("fast-served", 200, 1000, cpu=1500.0),
    row("fast", 200, 1000, input="tensors", cpu=9000.0),
    *(row(name, 200, 1000, input="tensors", cpu=500.0) for name in (PURE, BOUND)),
    row(OURS, 1, 0, cpu=None),
]


def test_the_grid_has_a_panel_for_each_number_of_clusters_and_names_the_systems(tmp_path):
    plots.grid(tmp_path / "grid.svg", ROWS)

    text = (tmp_path / "grid.svg").read_text()
    assert all(f">{words}<" in text for words in ("0 clusters", "1,000 clusters", OURS, *PLAIN.values()))


def test_peers_stand_beside_ours_on_the_same_graph_and_the_bounds(tmp_path):
    plots.peers(tmp_path / "peers.svg", ROWS)

    text = (tmp_path / "peers.svg").read_text()
    assert all(f">{name}<" in text for name in (OURS, "fast-served", PLAIN["served"], PURE, BOUND))
    assert ">fast<" not in text and f">{PLAIN['training']}<" not in text


def test_a_plot_depends_on_its_rows_alone_and_needs_none(tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.grid(tmp_path / name, ROWS)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()

    plots.grid(tmp_path / "none.svg", [])
    plots.peers(tmp_path / "none.svg", [])
