"""What each backbone and each interest module costs to serve: its exported graph in ONNX Runtime, one thread.

    python -m benchmarks.served_cost [--rounds N] [--out FILE.json] [--page FILE.md]

A backbone stands alone, an interest module beside STAR, each with its default options, on a made-up request of 200
candidates (`made_up_request.py`), in processor time. All are measured round by round, in an order that changes, so that
what else the machine does meets all alike; STAR stands twice, and how far its second is from its first is the noise.
Beside each is the trained model's own forward of the same request in torch, which must give the same logits, and the
matrix products that its graph computes, alone (`gemm_bound.py`): the least that it could take. Last, what counting
match statistics and popularity takes (`made_up_counts.py`). Writes the table into docs/models.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.figures import table
from benchmarks.gemm_bound import GemmGraph, products_of
from benchmarks.made_up_counts import counting_calls, match_levels_count
from benchmarks.made_up_request import (
    BEHAVIORS_COUNT,
    CANDIDATES_COUNT,
    CLUSTERS_COUNT,
    DOMAINS,
    RECENTS_COUNT,
    Request,
    Served,
    batch_of,
    made_up_request,
    serve,
)
from benchmarks.report import placed
from benchmarks.results import write_results
from service.contract.artefact import SEARCH_FILE, scorer_file
from training.config import ModelConfig
from training.plugins import plugin_names

STAR: Final = "star"
AGAIN: Final = "star, again"
OPTIONS: Final[Mapping[str, dict[str, Any]]] = {"sim_hard": {"by": "product_type"}}
"""Options that a plug-in cannot do without."""
VARIANTS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "dcnv2, rank 32": ("backbone", {"name": "dcnv2", "rank": 32}),
    "ple, one level": ("backbone", {"name": "ple", "levels": 1}),
    "twin, keep all": ("interest", {"name": "twin", "keep": None}),
    "twin_v2, keep 100": ("interest", {"name": "twin_v2", "keep": 100}),
}
"""What some options of a method make of its cost."""
ROUNDS: Final = 60
RUNS: Final = (5, 5, 1, 5)
"""Calls of each kind in a round."""
TITLES: Final = {"backbone": "backbone", "interest": "STAR with", "counted": "in numpy, before the graph"}
BEGIN: Final = "<!-- served cost: written by `python -m benchmarks.served_cost` -->"
END: Final = "<!-- end of served cost -->"


@dataclass(frozen=True)
class Measured:
    """What is measured: `kind` is `backbone`, `interest` or `counted`, `item_floats` what is stored per item.

    calls: one request of all candidates, one of a single candidate, and if there is a model, its forward in torch and
        the products of its graph.
    """

    name: str
    kind: str
    item_floats: int
    calls: tuple[Callable[[], object], ...]


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/served_cost.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"))
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="twinstar-served-cost-") as folder:
        request = made_up_request(np.random.default_rng(7))
        measured = [*made(Path(folder), request), *counting(request)]
        samples_us = measure(measured, rounds=arguments.rounds)
    rows = rows_of(measured, samples_us)
    for row in rows:
        row["load_average_before"] = round(load_before, 1)
    write_results(arguments.out, rows, packages=("numpy", "onnxruntime", "torch"))
    text = rendered(json.loads(arguments.out.read_text()))
    arguments.page.write_text(placed(arguments.page.read_text(), text, marks=(BEGIN, END)))
    print(text)


def choices() -> dict[str, tuple[str, ModelConfig]]:
    """Return what is measured by name: its kind, and a model of it. STAR is first, and second."""
    asked = {STAR: ("backbone", {"name": STAR}), AGAIN: ("backbone", {"name": STAR})}
    asked |= {name: ("backbone", {"name": name}) for name in plugin_names("training.backbones")}
    for name in plugin_names("training.interest"):
        asked[name] = ("interest", {"name": name, **OPTIONS.get(name, {})})
    asked |= VARIANTS
    return {name: (kind, _model(kind, plugin)) for name, (kind, plugin) in asked.items()}


def _model(kind: str, plugin: dict[str, Any]) -> ModelConfig:
    chosen = {"backbone": plugin} if kind == "backbone" else {"backbone": STAR, "interests": [plugin]}
    return ModelConfig.model_validate(chosen)


def made(folder: Path, request: Request) -> list[Measured]:
    """Build and export all models, and check that they score as they were trained."""
    batch = batch_of(request)
    found: list[Measured] = []
    for number, (name, (kind, config)) in enumerate(choices().items()):
        print(f"exporting {name}", file=sys.stderr, flush=True)
        served = serve(config, folder / str(number))
        served.check(request)
        tables = served.tables
        floats = tables.shared.shape[1] + tables.by_domain.shape[0] * tables.by_domain.shape[2]
        bound = _products(served, request, folder / str(number))
        found.append(Measured(name, kind, floats, (*_calls(served, request, batch), bound.run)))
    return found


def _products(served: Served, request: Request, folder: Path) -> GemmGraph:
    """Return the products of a request's graphs."""
    feeds = served.searched(served.feeds(request))
    graphs = [scorer_file(DOMAINS[0]), *([SEARCH_FILE] if served.search is not None else [])]
    products = [product for name in graphs for product in products_of(folder / name, feeds)]
    return GemmGraph(folder / "products.onnx", products, np.random.default_rng(10))


def counting(request: Request) -> list[Measured]:
    """Return what is counted for a request, in numpy, before its graph runs."""
    floats = {"match": match_levels_count()}
    one = request.first(1)
    return [
        Measured(name, "counted", floats.get(name, 0), (partial(call, request), partial(call, one)))
        for name, call in counting_calls(request, np.random.default_rng(8)).items()
    ]


def _calls(served: Served, request: Request, batch: Any) -> tuple[Callable[[], object], ...]:
    all_feeds, one_feeds = served.feeds(request), served.feeds(request.first(1))

    def forward() -> object:
        with torch.inference_mode():
            return served.model(batch)

    return (
        lambda: served.run(all_feeds),
        lambda: served.run(one_feeds),
        forward,
    )


def measure(measured: Sequence[Measured], *, rounds: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return microseconds of processor time a call, (rounds, models, calls), NaN where there is none.

    Each round has an order of its own, so that none is always after the same one.
    """
    out = np.full((rounds, len(measured), len(RUNS)), np.nan)
    rng = np.random.default_rng(9)
    for number in range(-1, rounds):  # the first round warms up and is written over
        for place in rng.permutation(len(measured)):
            for column, (call, runs) in enumerate(zip(measured[place].calls, RUNS, strict=False)):
                began_ns = time.process_time_ns()
                for _ in range(runs):
                    call()
                out[number, place, column] = (time.process_time_ns() - began_ns) / runs / 1000
    return out


def rows_of(
    measured: Sequence[Measured], samples_us: np.ndarray[Any, np.dtype[np.float64]]
) -> list[dict[str, Any]]:
    """Return a row a model: medians over the rounds, and the quartiles of its ratio to STAR in the same round."""
    star = samples_us[:, [model.name for model in measured].index(STAR)]
    rows: list[dict[str, Any]] = []
    for place, model in enumerate(measured):
        own = samples_us[:, place]
        low, ratio, high = np.quantile(own[:, 0] / star[:, 0], [0.25, 0.5, 0.75])
        rows.append(
            {
                "name": model.name,
                "kind": model.kind,
                "n": CANDIDATES_COUNT,
                "clusters": CLUSTERS_COUNT,
                "recents": RECENTS_COUNT,
                "behaviors": BEHAVIORS_COUNT,
                "item_floats": model.item_floats,
                "served_us": round(float(np.median(own[:, 0])), 1),
                "one_candidate_us": round(float(np.median(own[:, 1])), 1),
                "over_star": round(float(ratio), 3),
                "over_star_quartiles": [round(float(low), 3), round(float(high), 3)],
                "added_us": round(float(np.median(own[:, 0] - star[:, 0])), 1),
                "training_forward_us": _median_if_any(own[:, 2], digits=1),
                "products_us": _median_if_any(own[:, 3], digits=1),
                "over_products": _median_if_any(own[:, 0] / own[:, 3], digits=3),
                "rounds": len(own),
            }
        )
    return rows


def _median_if_any(values: np.ndarray[Any, np.dtype[np.float64]], *, digits: int) -> float | None:
    """Return the median over the rounds, None of what was not measured."""
    return None if np.isnan(values[0]) else round(float(np.median(values)), digits)


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, a table for each kind, and the noise."""
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    again = next(row for row in rows if row["name"] == AGAIN)
    low, high = again["over_star_quartiles"]
    first = rows[0]
    header = [
        "floats an item",
        "200 candidates, µs",
        "one, µs",
        "over STAR",
        "middle half of rounds",
        "torch, µs",
        "its products, µs",
        "over them",
    ]
    assert first["n"] == 200

    def line(row: Mapping[str, Any]) -> list[object]:
        a, b = row["over_star_quartiles"]
        times = [float(row[key]) for key in ("served_us", "one_candidate_us", "over_star")]
        others = [row[key] for key in ("training_forward_us", "products_us", "over_products")]
        return [
            f"`{row['name']}`",
            row["item_floats"],
            *times,
            f"{a:.2f} to {b:.2f}",
            *(None if value is None else float(value) for value in others),
        ]

    parts = [
        f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}; median of {first['rounds']} rounds, "
        f"load average {first['load_average_before']} when it began. Noise: STAR against itself is "
        f"{again['over_star']:.2f} ({low:.2f} to {high:.2f}).",
    ]
    for kind, title in TITLES.items():
        chosen = sorted((row for row in rows if row["kind"] == kind and row["name"] != AGAIN), key=_place)
        parts.append(table([title, *header], [line(row) for row in chosen]))
    return "\n\n".join(parts)


def _place(row: Mapping[str, Any]) -> tuple[bool, str]:
    """Return where a row stands in its table: STAR first, then by name."""
    return row["name"] != STAR, row["name"]


if __name__ == "__main__":
    main()
