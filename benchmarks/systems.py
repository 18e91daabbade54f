"""The two systems that a benchmark of /score compares, on one store and one core, and whether they agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.published import Published
from benchmarks.servers import Server, on_cores, running
from benchmarks.workload import Ask, User
from service.stores import open_store, valkey_server

OURS: Final = "twinstar"
OTHER: Final = "plain-training-graph"
DIFFERENCE_MAX: Final = 1e-4
RELATIVE_DIFFERENCE_MAX: Final = 1e-2
RELATIVE_TO_MIN: Final = 1e-4
"""Natural rates lie not far above DIFFERENCE_MAX, so differences are also taken relative to the probability, or
to this where it is smaller: ONNX Runtime's Sigmoid is right to about 1e-7, however small its result is."""

NOTHING_MISSING: Final = {OURS: '"degraded":[]', OTHER: ""}
"""What every answer must hold: one that was scored without its history is cheaper and counts for nothing."""

STORE_TIMEOUT_MS: Final = 2_000
"""The other system has no deadline for its store; ours must not answer with less because the machine was busy."""


class DisagreementError(Exception):
    """The systems do not compute the same: comparing their speed would say nothing."""


@dataclass(frozen=True)
class Difference:
    """The greatest difference of any probability, as it is and relative to the probability."""

    probability: float
    relative: float


@contextmanager
def own_store(
    folder: Path, snapshot_id: str, users: Iterable[User], cores: set[int] | None
) -> Iterator[None]:
    """Run an embedded store with some users for as long as the context lasts."""
    with on_cores(cores):
        in_use = valkey_server.enter(folder)
    try:
        asyncio.run(_write(folder, snapshot_id, users))
        yield
    finally:
        valkey_server.leave(folder, in_use)


async def _write(folder: Path, snapshot_id: str, users: Iterable[User]) -> None:
    store = await open_store(f"embedded://{folder}")
    try:
        await store.write_snapshot(snapshot_id, (user.record() for user in users))
    finally:
        await store.close()


@contextmanager
def both_systems(
    published: Published, folder: Path, store: Path, core: set[int] | None
) -> Iterator[dict[str, Server]]:
    """Run both on one core. Ours is `python -m service` with its defaults but
    for the store's deadline; its plan routes all users to one model."""
    graph, plan = folder / "training_graph.onnx", folder / "experiments.yaml"
    plan.write_text(json.dumps({"version": 1, "default_model": published.model}))
    published.write_training_graph(graph)
    registry = str(published.config.publish.registry.absolute())
    ours = {
        "TWINSTAR_REGISTRY": registry,
        "TWINSTAR_STORE_URL": f"embedded://{store}",
        "TWINSTAR_EXPERIMENTS_FILE": str(plan),
        "TWINSTAR_WORKERS": "1",
        "TWINSTAR_STORE_TIMEOUT_MS": str(STORE_TIMEOUT_MS),
    }
    other = {
        "PLAIN_REGISTRY": registry,
        "PLAIN_MODEL": published.model,
        "PLAIN_GRAPH": str(graph),
        "PLAIN_STORE_SOCKET": str(valkey_server.socket_path(store)),
    }
    uvicorn = ["uvicorn", "--factory", "benchmarks.plain_service:create_app", "--no-access-log"]
    with (
        running(OURS, ["-m", "service"], ours, cores=core, log=folder / "ours.log") as a,
        running(OTHER, ["-m", *uvicorn], other, cores=core, log=folder / "other.log") as b,
    ):
        yield {OURS: a, OTHER: b}


def check_agreement(servers: dict[str, Server], asks: Sequence[Ask]) -> Difference:
    """Return the greatest differences over some requests.

    Raises:
        DisagreementError: one is over its limit, or ours answered with less than it should.
    """
    probability = relative = 0.0
    for ask in asks:
        answers = {
            name: orjson.loads(server.post("/score", ask.body, {"X-Domain": ask.domain}))
            for name, server in servers.items()
        }
        if answers[OURS]["degraded"]:
            raise DisagreementError(f"{OURS} answered with less: {answers[OURS]['degraded']}")
        found = difference(answers[OURS], answers[OTHER])
        probability, relative = max(probability, found.probability), max(relative, found.relative)
    if not (probability <= DIFFERENCE_MAX and relative <= RELATIVE_DIFFERENCE_MAX):
        raise DisagreementError(f"probabilities differ by up to {probability:.1e}, or {relative:.1%}")
    return Difference(probability, relative)


def difference(ours: dict[str, Any], other: dict[str, Any]) -> Difference:
    """Return the greatest differences of two answers.

    Raises:
        DisagreementError: they are of other candidates, or in another order.
    """
    if [r["item_id"] for r in ours["results"]] != [r["item_id"] for r in other["results"]]:
        raise DisagreementError("the answers are of other candidates, or in another order")
    tasks = list(other["results"][0]["probabilities"])
    a = np.array([[r[task] for task in tasks] for r in ours["results"]])
    b = np.array([[r["probabilities"][task] for task in tasks] for r in other["results"]])
    off = np.abs(a - b)
    return Difference(float(off.max()), float((off / np.maximum(b, RELATIVE_TO_MIN)).max()))
