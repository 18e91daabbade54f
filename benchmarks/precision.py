"""What the int8 variant of a served graph saves: of the graph, and of whole requests to the service.

    python -m benchmarks.precision [--rounds N] [--out FILE.json] [--page FILE.md]

STAR of 512, 256 and 128 units with TWIN-V2. Of the graph: both graphs in ONNX Runtime, one thread, on made-up requests
(`made_up_request.py`), in processor time. Of requests: the reference model (`reference_model.py`) at two services, one
in each precision, requests a second of a closed loop. Both take turns in every round, so that what else the machine
does meets both alike. Writes the tables into docs/performance.md. What a variant does to scores is not measured here:
these parameters are as they are drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.bars import CONNECTIONS
from benchmarks.comparison import Comparison, Options, Point
from benchmarks.figures import Sample, ratios, table
from benchmarks.made_up_request import DOMAINS, Served, made_up_request, serve, session_of
from benchmarks.measure import Measurements
from benchmarks.progress import say
from benchmarks.reference_model import MODEL as REFERENCE
from benchmarks.reference_model import Reference
from benchmarks.report import placed
from benchmarks.results import write_results
from benchmarks.servers import split_cores
from benchmarks.systems import OURS, Subject, ours, store_running
from service.contract.served_inputs import PROBABILITY
from training.config import ModelConfig
from training.export.int8_file import write_int8

MODEL: Final = {"backbone": {"name": "star", "hidden": [512, 256, 128]}, "interests": [{"name": "twin_v2"}]}
SIZES: Final = ((200, 200), (200, 1000), (500, 200), (500, 1000))
"""Candidates and clusters."""
ROUNDS: Final = 60
RUNS: Final = 4
"""Requests of each graph in a round."""
INT8: Final = f"{OURS}-int8"
SERVICE_ROUNDS: Final = 5
SERVICE_SECONDS: Final = 2.0
ASKS_COUNT: Final = 48
BEGIN: Final = "<!-- precision: written by `python -m benchmarks.precision` -->"
END: Final = "<!-- end of precision -->"


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the graphs")
    parser.add_argument(
        "--reference", type=Path, default=Path("runs/reference"), help="where that model lies"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/precision.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="twinstar-precision-") as name:
        folder = Path(name) / "graph"
        served = serve(ModelConfig.model_validate(MODEL), folder)
        write_int8(folder, DOMAINS[:1])
        sessions = {"fp32": served.session, "int8": session_of(folder, "int8")}
        rows = [
            row_of(n, clusters, measure(served, sessions, n, clusters, rounds=arguments.rounds))
            | {"load_average_before": round(load_before, 1)}
            for n, clusters in SIZES
        ]
    requests = request_rows(measure_requests(Reference(arguments.reference)))
    write_results(arguments.out, rows, packages=("numpy", "onnxruntime"), more={"requests": requests})
    text = rendered(json.loads(arguments.out.read_text()))
    arguments.page.write_text(placed(arguments.page.read_text(), text, marks=(BEGIN, END)))
    print(text)


def measure(
    served: Served, sessions: Mapping[str, Any], n: int, clusters: int, *, rounds: int
) -> dict[str, list[float]]:
    """Return microseconds of processor time a request, by graph and round; a first round warms up."""
    requests = [
        served.feeds(
            made_up_request(np.random.default_rng(seed), candidates_count=n, clusters_count=clusters)
        )
        for seed in range(2 * RUNS)
    ]
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(-1, rounds):
        names = list(sessions) if number % 2 else list(sessions)[::-1]
        for name in names:
            began_ns = time.process_time_ns()
            for run in range(RUNS):
                sessions[name].run([PROBABILITY], requests[(number + run) % len(requests)])
            if number >= 0:
                spent[name].append((time.process_time_ns() - began_ns) / RUNS / 1000)
    return spent


def row_of(n: int, clusters: int, spent_us: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return medians over the rounds, and the quartiles of their ratio."""
    ratios = np.array(spent_us["fp32"]) / np.array(spent_us["int8"])
    low, ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "n": n,
        "clusters": clusters,
        **{f"{name}_us": round(float(np.median(us)), 1) for name, us in spent_us.items()},
        "ratio": round(float(ratio), 3),
        "ratio_quartiles": [round(float(low), 3), round(float(high), 3)],
        "rounds": len(ratios),
    }


def measure_requests(reference: Reference) -> list[Sample]:
    """Return samples of the service in both precisions, side by side."""
    reference.ensure()
    subject = Subject(
        reference.registry, REFERENCE, reference.training_graph, reference.plan, reference.store
    )
    cores = split_cores()
    fp32 = ours(subject)
    int8 = replace(fp32, name=INT8, environment={**fp32.environment, "TWINSTAR_PRECISION": "int8"})
    points = [Point(n, float(c), reference.workload(n=n, c=c, asks_count=ASKS_COUNT)) for n, c in SIZES]
    options = Options(rounds=SERVICE_ROUNDS, closed_s=SERVICE_SECONDS, open_s=0.0)
    with tempfile.TemporaryDirectory(prefix="twinstar-precision-") as name:
        bench = Comparison(subject, Path(name), options, Measurements(*cores))
        with (
            store_running(reference.store, cores[1]),
            bench.servers([fp32, int8], points[0].workload) as up,
        ):
            for number in range(options.rounds):
                say(f"requests, round {number + 1} of {options.rounds}")
                bench.taken.begin_turn()
                bench.closed(up, points, names=[OURS, INT8] if number % 2 else [INT8, OURS])
    return bench.taken.samples


def request_rows(samples: list[Sample]) -> list[dict[str, Any]]:
    """Return how many times as many requests a second are answered in int8, by size."""
    return [
        {"n": ratio.n, "clusters": int(ratio.c), "median": ratio.median, "low": ratio.low, "high": ratio.high}
        for ratio in ratios(samples, INT8, OURS)
        if ratio.metric == "rps" and ratio.connections == CONNECTIONS
    ]


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, and a table."""
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    header = ["candidates", "clusters", "fp32, µs", "int8, µs", "fp32 over int8", "middle half of rounds"]
    lines = [
        [
            row["n"],
            row["clusters"],
            float(row["fp32_us"]),
            float(row["int8_us"]),
            float(row["ratio"]),
            "{:.2f} to {:.2f}".format(*row["ratio_quartiles"]),
        ]
        for row in rows
    ]
    whole = [
        [row["n"], row["clusters"], f"{row['median']:.2f} ({row['low']:.2f} to {row['high']:.2f})"]
        for row in results["requests"]
    ]
    return "\n\n".join(
        [
            f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}; median of {rows[0]['rounds']} "
            f"rounds, load average {rows[0]['load_average_before']} when it began.",
            table(header, lines),
            f"Requests a second of the service, {CONNECTIONS} connections, median of the rounds and their range:",
            table(["candidates", "clusters", "int8 over fp32"], whole),
        ]
    )


if __name__ == "__main__":
    main()
