"""What is measured on the reference model, and on what a pipeline has published."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.comparison import Comparison, Options, Point, Up
from benchmarks.measure import Measurements
from benchmarks.peers.environments import Peer
from benchmarks.plain_handler import SERVED, TRAINING
from benchmarks.progress import say
from benchmarks.published import Published
from benchmarks.reference_model import MODEL, Reference
from benchmarks.servers import ServerError, split_cores
from benchmarks.systems import (
    OURS,
    PLAIN,
    STARLETTE,
    DisagreementError,
    Subject,
    of_peer,
    ours,
    own_store,
    plain,
    starlette,
    store_running,
)
from benchmarks.workload import (
    AFTER_SNAPSHOT_MS,
    SEED,
    Requests,
    User,
    Workload,
    draw_long,
    draw_real,
    load_users,
    make_workload,
)

ASKS_COUNT: Final = 96
SETTLE_S: Final = 5.0
"""Some servers go on starting processes after they have answered."""

CONFIG_CANDIDATES_COUNT: Final = 200


def measure_reference(
    reference: Reference,
    folder: Path,
    options: Options,
    *,
    n: Sequence[int],
    c: Sequence[int],
    points: Sequence[tuple[int, int]],
    peers: Sequence[Peer],
) -> Comparison:
    """Return what was measured on the reference model: the grid, the points, and the peers at the points."""
    subject = Subject(reference.registry, MODEL, reference.training_graph, reference.plan, reference.store)
    cores = split_cores()
    say(f"{MODEL}-{reference.version}; servers on core {cores[0]}, load and store on {cores[1]}")
    bench = Comparison(subject, folder, options, Measurements(*cores))

    def point(candidates: int, clusters: int) -> Point:
        return Point(
            candidates, float(clusters), reference.workload(n=candidates, c=clusters, asks_count=ASKS_COUNT)
        )

    grid = [point(*pair) for pair in dict.fromkeys([(a, b) for a in n for b in c] + list(points))]
    chosen = [one for one in grid if (one.n, int(one.c)) in points]
    single = point(1, 0)  # little but what a request costs by itself
    of_pure = ["--reference", str(reference.folder.absolute()), "--items", str(reference.items_count)]
    of_pure += ["--seconds", str(options.closed_s)]
    environment = subject.plain_environment(SERVED)
    with store_running(reference.store, cores[1]):
        fixed = [ours(subject), plain(subject, SERVED), plain(subject, TRAINING), starlette(subject)]
        names = [system.name for system in fixed if system.name != STARLETTE]
        with bench.servers(fixed, single.workload) as up:
            bench.check(up, [single, *_one_of_each_length(grid)])
            for number in range(options.rounds):
                say(f"grid, round {number + 1} of {options.rounds}: {len(grid)} points")
                bench.taken.begin_turn()
                bench.floors(up)
                bench.closed(up, [single], names=[OURS, STARLETTE])
                bench.closed(up, grid, names=names)
                if chosen:
                    bench.taken.take_pure(of_pure, environment, [(one.n, one.c) for one in chosen])
                bench.tensors(up, chosen, names={system: graph for graph, system in PLAIN.items()})
            for number in range(options.rounds):
                say(f"open loop, round {number + 1} of {options.rounds}: {len(chosen)} points")
                bench.taken.begin_turn()
                bench.open(up, chosen, names=names)
            for peer in peers if chosen else ():
                try:
                    measure_peer(bench, up, peer, chosen)
                except (ServerError, DisagreementError, OSError, ValueError, KeyError) as error:
                    first, *others = str(error).strip().splitlines() or [type(error).__name__]
                    bench.left_out.append(f"{peer.name}: {' … '.join([first, *others[-1:]])}")
                    say(f"{peer.name} is left out: {error}")
    return bench


def measure_peer(bench: Comparison, up: Up, peer: Peer, points: Sequence[Point]) -> None:
    """Measure a peer in turn with ours and the plain service on the same graph."""
    system = of_peer(bench.subject, peer)
    say(f"{peer.name} {peer.version}: starting")
    with bench.servers([system], points[0].workload) as started:
        up = {**up, **started}
        bench.check({OURS: up[OURS], **started}, points)
        bench.check_tensors(up, points[0], name=system.name)
        time.sleep(SETTLE_S)
        for number in range(bench.options.rounds):
            say(f"{peer.name}, round {number + 1} of {bench.options.rounds}: {len(points)} points")
            bench.taken.begin_turn()
            bench.closed(up, points, names=[OURS, PLAIN[SERVED], system.name])
            bench.tensors(started, points, names={system.name: SERVED, peer.name: TRAINING})
        bench.taken.begin_turn()
        bench.open(up, points, names=[system.name])


def measure_published(published: Published, folder: Path, options: Options, *, bare: bool) -> Comparison:
    """Return what was measured on a published model, by real users and by users with long life cycles."""
    rng = np.random.default_rng(SEED)
    cores = split_cores()
    say(f"{published.model}-{published.version}; servers on core {cores[0]}, load and store on {cores[1]}")
    users = load_users(
        published.config.publish.store, published.snapshot.snapshot_id, published.bench.dataset
    )
    asked, workloads = make_workloads(published, users, rng, bare=bare)
    plan, graph, store = folder / "experiments.yaml", folder / "training_graph.onnx", folder / "store"
    plan.write_text(json.dumps({"version": 1, "default_model": published.model}))
    published.write_training_graph(graph)
    subject = Subject(published.config.publish.registry, published.model, graph, plan, store)
    bench = Comparison(subject, folder, options, Measurements(*cores))
    points = [Point(CONFIG_CANDIDATES_COUNT, w.clusters_mean, w) for w in workloads]
    for w in workloads:
        say(f"{w.name}: {len(w.asks)} users ({w.users}), {w.clusters_mean:.1f} clusters at the mean")
    systems = [ours(subject), plain(subject, SERVED), plain(subject, TRAINING)]
    names = [system.name for system in systems]
    with (
        own_store(store, published.snapshot.snapshot_id, asked, cores[1]),
        bench.servers(systems, workloads[0]) as up,
    ):
        bench.check(up, points)
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            bench.taken.begin_turn()
            bench.floors(up)
            bench.closed(up, points, names=names)
        for _ in range(options.rounds):
            bench.taken.begin_turn()
            bench.open(up, points, names=names)
    return bench


def make_workloads(
    published: Published, users: Sequence[User], rng: np.random.Generator, *, bare: bool
) -> tuple[list[User], list[Workload]]:
    """Return all users that are asked for, and what is asked of them."""
    requests = Requests(published.bench.dataset, candidates_count=CONFIG_CANDIDATES_COUNT, bare=bare)
    at_ms = published.snapshot.at_ms + AFTER_SNAPSHOT_MS
    real = draw_real(users, rng)
    long, kind = draw_long(users, rng)
    return [*real, *long], [
        make_workload("real users", "real", real, requests, at_ms, rng),
        make_workload("long life cycles", kind, long, requests, at_ms, rng),
    ]


def _one_of_each_length(points: Sequence[Point]) -> list[Point]:
    """Return the point of fewest candidates for each number of clusters."""
    return list({point.c: point for point in sorted(points, key=lambda p: -p.n)}.values())
