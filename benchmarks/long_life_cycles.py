"""What a user of 10,000, 100,000 and a million behaviors costs, and how far a sample of so long a life cycle is off.

    python -m benchmarks.long_life_cycles CONFIG.yaml [--model star] [--rounds N] [--json] [--out FILE] [--page FILE]

A user's life cycle is those of the dataset's users, one after another until there are enough behaviors, clustered and
published as any other; the config's pipeline is run where it has not published yet. *Latency* is that of `POST /score`
over one connection at the service with a store of its own, users of all lengths in turn. *Error* is against attention
over every cluster (`life_cycle_error.py`). Writes a table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.comparison import Comparison, Options, Point
from benchmarks.figures import Cell, pairs_of, rows_of, table
from benchmarks.life_cycle_error import Scored
from benchmarks.life_cycle_error import rows_of as rows_of_error
from benchmarks.measure import Measurements
from benchmarks.progress import say
from benchmarks.published import Published, ensure_published
from benchmarks.report import placed
from benchmarks.results import write_results
from benchmarks.servers import ServerError, split_cores
from benchmarks.systems import OURS, Subject, ours, own_store
from benchmarks.workload import AFTER_SNAPSHOT_MS, Requests, User, Workload, make_workload
from service.contract.artefact import read_artefact, read_popularity
from service.contract.history import Behaviors, Snapshot, encode_snapshot
from training.data.encoded import behaviors_by_user
from training.errors import TrainingError
from training.export.raw_requests import with_catalogue_ids
from training.export.served_graph import ServedGraph
from training.export.served_scorer import ServedScorer
from training.history.snapshots import make_snapshot
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import ITEM_VECTORS_FILE

LENGTHS: Final = (10_000, 100_000, 1_000_000)
N: Final = (200, 500)
ASKS_COUNT: Final = 24
ERROR_ASKS_COUNT: Final = 6
SEED: Final = 3
BEGIN: Final = "<!-- life cycles: written by `python -m benchmarks.long_life_cycles` -->"
END: Final = "<!-- end of life cycles -->"


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="pipeline configuration")
    parser.add_argument("--model", default="star")
    parser.add_argument("--lengths", type=_lengths, default=LENGTHS, help="behaviors, with commas between")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one user and number of candidates")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/long_life_cycles.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    try:
        published = ensure_published(arguments.config, arguments.model)
        whole = {length: life_cycle(published, length) for length in arguments.lengths}
        options = Options(rounds=arguments.rounds, closed_s=arguments.seconds, open_s=0.0)
        latency = list(latency_rows(published, whole, options))
        error = list(error_rows(published, whole))
    except (TrainingError, ServerError, ValueError) as failure:
        sys.exit(f"long_life_cycles: {failure}")
    write_results(arguments.out, latency, packages=("numpy", "onnxruntime", "torch"), more={"error": error})
    results = json.loads(arguments.out.read_text())
    text = rendered(results)
    arguments.page.write_text(placed(arguments.page.read_text(), text, marks=(BEGIN, END)))
    print(json.dumps(results, indent=2) if arguments.json else text)


def _lengths(text: str) -> tuple[int, ...]:
    lengths = tuple(int(part) for part in text.split(","))
    if min(lengths) < 1:
        raise argparse.ArgumentTypeError("expected numbers from 1 on, with commas between")
    return lengths


def life_cycle(published: Published, length: int, *, max_cluster_size: int | None = None) -> Snapshot:
    """Return the whole snapshot of a user of so many behaviors, in catalogue ids.

    Raises:
        ValueError: all users together have fewer.
    """
    bench, at_ms = published.bench, published.snapshot.at_ms
    options = bench.config.history.snapshots
    if max_cluster_size is not None:
        options = options.model_copy(update={"max_cluster_size": max_cluster_size})
    say(f"clustering {length:,} behaviors, at most {options.max_cluster_size} to a cluster")
    vectors = np.load(bench.done("embed") / ITEM_VECTORS_FILE, allow_pickle=False)
    snapshot = make_snapshot(joined(published, length), vectors, at_ms=at_ms, options=options)
    assert snapshot is not None
    return with_catalogue_ids(bench.catalogue_ids, snapshot)


def joined(published: Published, length: int) -> Behaviors:
    """Return the first `length` behaviors of users in a random order, sorted by time."""
    users = behaviors_by_user(published.bench.dataset)
    names = sorted(users)
    np.random.default_rng(SEED).shuffle(names)
    chosen, count = [], 0
    for name in names:
        if count == length:
            break
        own = users[name].newest(length - count)
        chosen.append(own)
        count += len(own)
    if count < length:
        raise ValueError(f"all users together have {count:,} behaviors, {length:,} are asked for")
    every = Behaviors(*(np.concatenate([getattr(b, name) for b in chosen]) for name in Behaviors.__slots__))
    return every.take(np.argsort(every.at_ms, kind="stable"))


def latency_rows(
    published: Published, whole: Mapping[int, Snapshot], options: Options
) -> Iterator[dict[str, Any]]:
    """Yield a row for each length and number of candidates; `over_first` is its p50 over that of the first length."""
    clusters_max = read_artefact(published.artefact).history.clusters_max
    users = {
        length: User(f"user-of-{length}", encode_snapshot(snapshot.sampled(clusters_max)), None)
        for length, snapshot in whole.items()
    }
    rng = np.random.default_rng(SEED)
    at_ms = published.snapshot.at_ms + AFTER_SNAPSHOT_MS
    cores = split_cores()
    with tempfile.TemporaryDirectory(prefix="twinstar-life-cycles-") as name:
        folder = Path(name)
        plan, store = folder / "experiments.yaml", folder / "store"
        plan.write_text(json.dumps({"version": 1, "default_model": published.model}))
        subject = Subject(published.config.publish.registry, published.model, folder / "none", plan, store)
        bench = Comparison(subject, folder, options, Measurements(*cores))
        # A cell is told by its number of behaviors: two lengths may read as many clusters.
        points = [
            Point(n, float(length), _workload(published, user, n, at_ms, rng))
            for n in N
            for length, user in users.items()
        ]
        with (
            own_store(store, published.snapshot.snapshot_id, users.values(), cores[1]),
            bench.servers([ours(subject)], points[0].workload) as up,
        ):
            for number in range(options.rounds):
                say(f"latency, round {number + 1} of {options.rounds}")
                bench.taken.begin_turn()
                bench.closed(up, points, names=[OURS])
    rows = rows_of(s for s in bench.taken.samples if s.cell.connections == 1)
    for point, row in zip(points, rows, strict=True):
        length, cell = int(point.c), Cell(OURS, point.n, point.c, 1)
        del row["c"]
        first = replace(cell, c=float(min(whole)))
        ratios = [a.p50_ms / b.p50_ms for a, b in pairs_of(bench.taken.samples, cell, first)]
        yield {
            "behaviors": length,
            "clusters": len(whole[length].item),
            "clusters_read": users[length].clusters_count,
            "snapshot_bytes": len(users[length].snapshot),
            **row,
            "over_first": [round(float(q), 3) for q in np.quantile(ratios, [0.0, 0.5, 1.0])],
        }


def _workload(published: Published, user: User, n: int, at_ms: int, rng: np.random.Generator) -> Workload:
    requests = Requests(published.bench.dataset, candidates_count=n, bare=False)
    return make_workload(user.user_id, "joined life cycles", [user] * ASKS_COUNT, requests, at_ms, rng)


def error_rows(published: Published, whole: Mapping[int, Snapshot]) -> Iterator[dict[str, Any]]:
    """Yield a row for each length and way to read fewer clusters."""
    config, bench = published.config.publish, published.bench
    manifest = read_artefact(published.artefact)
    trained = load_model(bench, published.model, Progress(quiet=True))
    scored = Scored(
        ServedGraph(published.artefact, bench.catalogue, manifest),
        ServedScorer(trained, manifest.tasks, len(manifest.domains)).eval(),
        bench.catalogue,
        read_popularity(config.registry, config.snapshot_line, published.snapshot),
    )
    rng = np.random.default_rng(SEED + 1)
    at_ms = published.snapshot.at_ms + AFTER_SNAPSHOT_MS
    for length, snapshot in whole.items():
        user = User(f"user-of-{length}", encode_snapshot(snapshot), None)
        asks = _workload(published, user, N[0], at_ms, rng).asks[:ERROR_ASKS_COUNT]
        mean_size = length / len(snapshot.item)

        def larger(count: int, length: int = length, mean_size: float = mean_size) -> Snapshot:
            size = round(bench.config.history.snapshots.max_cluster_size * length / count / mean_size)
            return life_cycle(published, length, max_cluster_size=size)

        for row in rows_of_error(scored, snapshot, asks, larger):
            say(
                f"{length:,} behaviors, {row['way']}, {row['clusters_read']}: {row['logit_difference_mean']:.4f}"
            )
            yield {"behaviors": length, "clusters": len(snapshot.item), **row}


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, and two tables."""
    meta = results["meta"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())

    def latency(row: Mapping[str, Any]) -> Sequence[object]:
        low, median, high = row["over_first"]
        return [
            f"{row['behaviors']:,}",
            f"{row['clusters']:,}",
            f"{row['clusters_read']:,}",
            f"{row['snapshot_bytes']:,}",
            row["n"],
            row["p50_ms"],
            row["p99_ms"],
            f"{median:.2f} ({low:.2f} to {high:.2f})",
        ]

    def error(row: Mapping[str, Any]) -> Sequence[object]:
        return [
            f"{row['behaviors']:,}",
            row["way"],
            f"{row['clusters_read']:,}",
            *(f"{row[key]:.4f}" for key in ("logit_difference_mean", "logit_difference_max")),
            f"{row['probability_difference_max']:.5f}",
            f"{100 * row['swapped_share']:.2f} %",
            row["encode_and_score_ms"],
        ]

    head = [
        "behaviors",
        "clusters",
        "read",
        "bytes read",
        "candidates",
        "p50, ms",
        "p99, ms",
        "p50 over the first",
    ]
    of_error = [
        "behaviors",
        "way",
        "read",
        "mean Δlogit",
        "max Δlogit",
        "max Δp",
        "pairs swapped",
        "encode and score, ms",
    ]
    return "\n\n".join(
        [
            f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}.",
            table(head, [latency(row) for row in results["rows"]]),
            table(of_error, [error(row) for row in results["error"]]),
        ]
    )


if __name__ == "__main__":
    main()
