"""The cost of /score beside plain FastAPI and public model servers, in one run, on the same requests.

    python -m benchmarks.bench [--quick] [--n 100 200] [--c 0 200] [--peers mosec bentoml] [--rounds N] ...
    python -m benchmarks.bench --config configs/demo.yaml [--model star] [--bare]

Measures the reference model (`reference_model.py`), which is written first where it is not there; with --config, what a
pipeline has published, by users and requests of its dataset, without peers. Environments of peers are installed first;
one that cannot be installed or started is named, and the run goes on.

The store and the load have one core, the servers another, one worker each. Servers are measured in turn, round by
round, after it was checked that they give the same probabilities. Writes FILE.json; `python -m benchmarks.report` makes
the tables and plots of docs/performance.md from it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.bars import BARE_FLOOR, FLOOR, Bar, bars_of
from benchmarks.comparison import Comparison, Options
from benchmarks.environments import install, installed
from benchmarks.figures import Ratio, ratios, rows_of, table
from benchmarks.peers.environments import PEERS, Peer
from benchmarks.progress import say
from benchmarks.published import ensure_published
from benchmarks.reference_model import CLUSTERS_COUNTS, ITEMS_COUNT, MODEL, Reference
from benchmarks.results import write_results
from benchmarks.runs import measure_published, measure_reference
from benchmarks.servers import ServerError
from benchmarks.systems import OURS, DisagreementError
from benchmarks.workload import WorkloadError
from service.contract.errors import ContractError
from service.stores.base import StoreError
from training.errors import TrainingError

N: Final = (100, 200, 500, 1000)
POINTS: Final = ((200, 200), (200, 1000), (500, 1000))
"""(N, C) where peers, open loops, ready tensors and ONNX Runtime alone are measured."""
ROUNDS: Final = 3
CLOSED_S: Final = 0.5
OPEN_S: Final = 2.0
PACKAGES: Final = (
    "fastapi",
    "httptools",
    "numpy",
    "onnxruntime",
    "pydantic",
    "redis",
    "starlette",
    "torch",
    "uvicorn",
    "uvloop",
)


def installed_peers(names: Sequence[str], left_out: list[str]) -> list[Peer]:
    """Install peers and return those that are there; the others are noted with their reason."""
    found: list[Peer] = []
    for peer in (PEERS[name] for name in names):
        if not installed(peer):
            say(f"{peer.name} {peer.version}: installing in {peer.folder}")
        try:
            install(peer)
            found.append(peer)
        except (subprocess.CalledProcessError, OSError) as error:
            left_out.append(f"{peer.name}: not installed: {error}")
            say(f"{peer.name} is left out: {error}")
    return found


def main() -> None:
    """Measure, print and write."""
    parser = _parser()
    arguments = parser.parse_args()
    options = Options(arguments.rounds, arguments.seconds, arguments.open_seconds)
    points = [pair for pair in POINTS if pair[0] in arguments.n and pair[1] in arguments.c]
    if arguments.quick:
        options = Options(1, 0.3, 0.5)
        arguments.n, arguments.c = (200,), (200,)
        points = [(200, 200)]
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    say(f"load average {load}: run on a quiet machine")
    left_out: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix="twinstar-bench-") as name:
            if arguments.config is not None:
                published = ensure_published(arguments.config, arguments.model)
                bench = measure_published(published, Path(name), options, bare=arguments.bare)
                about = f"{published.model}-{published.version} of {arguments.config}"
            else:
                peers = installed_peers(arguments.peers, left_out)
                reference = Reference(arguments.reference, arguments.items)
                if not reference.is_written:
                    say(f"writing the reference model into {reference.folder}")
                reference.ensure()
                about = f"{MODEL}-{reference.version}, {reference.items_count} items"
                bench = measure_reference(
                    reference, Path(name), options, n=arguments.n, c=arguments.c, points=points, peers=peers
                )
    except (TrainingError, ContractError, StoreError, ServerError, WorkloadError, DisagreementError) as error:
        sys.exit(f"bench: {error}")
    samples = bench.taken.samples
    rows, bars, found = rows_of(samples), bars_of(samples), _ratios(bench)
    more: dict[str, Any] = {
        "about": about,
        "load_average": load,
        "rounds": options.rounds,
        "left_out": left_out + bench.left_out,
        "bars": [bar.row() for bar in bars],
        "ratios": [asdict(ratio) for ratio in found],
    }
    versions = {
        peer.distribution: peer.version for peer in PEERS.values() if f"{peer.name}-served" in _names(rows)
    }
    write_results(arguments.out, rows, packages=PACKAGES, versions=versions, more=more)
    if arguments.json:
        print(arguments.out.read_text(), end="")
    else:
        show(rows, bars, found, more["left_out"])
    say(f"written to {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round at N=200 C=200")
    parser.add_argument("--n", type=int, nargs="+", default=N, help="candidates of the grid")
    parser.add_argument(
        "--c",
        type=int,
        nargs="+",
        default=CLUSTERS_COUNTS,
        choices=CLUSTERS_COUNTS,
        help="clusters of the grid",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        default=tuple(PEERS),
        choices=tuple(PEERS),
        metavar="PEER",
        help="none: no peers",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=CLOSED_S, help="of a closed loop")
    parser.add_argument("--open-seconds", type=float, default=OPEN_S, help="of an open loop")
    parser.add_argument("--reference", type=Path, default=Path("runs/reference"), metavar="FOLDER")
    parser.add_argument("--items", type=int, default=ITEMS_COUNT, help="items of the reference model")
    parser.add_argument("--config", type=Path, help="measure what this pipeline has published instead")
    parser.add_argument("--model", default="star", help="of that pipeline")
    parser.add_argument(
        "--bare", action="store_true", help="with --config: candidates as ids alone, without their placement"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def _ratios(bench: Comparison) -> list[Ratio]:
    samples = bench.taken.samples
    others = dict.fromkeys(s.cell.system for s in samples if s.cell.system not in (OURS, FLOOR, BARE_FLOOR))
    return [ratio for other in others for ratio in ratios(samples, OURS, other)]


def _names(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row["system"] for row in rows}


def show(
    rows: Sequence[Mapping[str, Any]], bars: Sequence[Bar], found: Sequence[Ratio], left_out: Sequence[str]
) -> None:
    """Print the rows, by how much ours is better, and the bars."""
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    for other in dict.fromkeys(ratio.other for ratio in found):
        own = [ratio for ratio in found if ratio.other == other]
        cells = dict.fromkeys((r.n, r.c, r.connections, r.input, r.loop) for r in own)
        metrics = list(dict.fromkeys(ratio.metric for ratio in own))
        lines = []
        for cell in cells:
            by_metric = {r.metric: str(r) for r in own if (r.n, r.c, r.connections, r.input, r.loop) == cell}
            lines.append(
                [
                    cell[0],
                    f"{cell[1]:.1f}",
                    *map(str, cell[2:]),
                    *(by_metric.get(metric) for metric in metrics),
                ]
            )
        print(f"\nTimes that {OURS} is better than {other}: median of the rounds (lowest to highest)\n")
        print(table(["n", "c", "connections", "input", "loop", *metrics], lines))
    print("\nBars: median of the rounds (lowest to highest)\n")
    print(
        table(
            ["bar", "n", "c", "against", "ratio", "pass", "goal", "met"],
            [
                [
                    bar.name,
                    bar.n,
                    bar.c,
                    bar.against,
                    f"{bar.median:.2f} ({bar.low:.2f} to {bar.high:.2f})",
                    bar.passes,
                    bar.goal,
                    bar.verdict,
                ]
                for bar in bars
            ],
        )
    )
    for line in left_out:
        print(f"Left out: {line}")


if __name__ == "__main__":
    main()
