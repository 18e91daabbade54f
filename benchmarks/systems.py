"""The systems that a benchmark of /score compares: how each is started and asked, and whether they agree."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from benchmarks.environments import python_of
from benchmarks.load import http_request
from benchmarks.peers.environments import Peer, TensorsForm
from benchmarks.plain_handler import SERVED, TRAINING, GraphName
from benchmarks.servers import Server, on_cores, running
from benchmarks.workload import Ask, User
from service.stores import open_store, valkey_server

OURS: Final = "twinstar"
PLAIN: Final[Mapping[GraphName, str]] = {TRAINING: "plain-training-graph", SERVED: "plain-served-graph"}
STARLETTE: Final = "starlette-served"
PURE: Final = "onnxruntime-served"
BOUND: Final = "fp32-gemm-bound"

DIFFERENCE_MAX: Final = 1e-4
RELATIVE_DIFFERENCE_MAX: Final = 1e-2
RELATIVE_TO_MIN: Final = 1e-4
"""Natural rates lie not far above DIFFERENCE_MAX, so differences are also taken relative to the probability, or
to this where it is smaller: ONNX Runtime's Sigmoid is right to about 1e-7, however small its result is."""

NOTHING_MISSING: Final = '"degraded":[]'
"""What every answer of ours must hold: one that was scored without its history is cheaper and counts for nothing."""

STORE_TIMEOUT_MS: Final = 2_000
"""The other systems have no deadline for their store; ours must not answer with less because the machine was busy."""

UVICORN: Final = ("-m", "uvicorn", "--no-access-log", "--timeout-keep-alive", "75", "--factory")
"""Its default of 5 s closes connections under the client where eight requests in line take longer than that."""

INFER_PATH: Final = "/v2/models/score/infer"


class DisagreementError(Exception):
    """The systems do not compute the same: comparing their speed would say nothing."""


@dataclass(frozen=True)
class Difference:
    """The greatest difference of any probability, as it is and relative to the probability."""

    probability: float
    relative: float


@dataclass(frozen=True)
class Scores:
    """What an answer says: probabilities (N, T), and the items in its order, None where it names none."""

    item_ids: list[str] | None
    probability: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """What is measured on: a published model, its training graph, a plan that routes all to it, and its store."""

    registry: Path
    model: str
    training_graph: Path
    plan: Path
    store: Path

    def plain_environment(self, graph: GraphName) -> dict[str, str]:
        """Return the variables of the plain handler."""
        return {
            "PLAIN_REGISTRY": str(self.registry.absolute()),
            "PLAIN_MODEL": self.model,
            "PLAIN_TRAINING_GRAPH": str(self.training_graph.absolute()),
            "PLAIN_GRAPH": graph,
            "PLAIN_STORE_SOCKET": str(valkey_server.socket_path(self.store.absolute())),
        }


@dataclass(frozen=True)
class Call:
    """One POST."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    media_type: str

    def http(self) -> bytes:
        """Return it as the bytes that a client sends."""
        return http_request(
            "POST", self.path, headers=self.headers, body=self.body, media_type=self.media_type
        )

    def ask(self, server: Server) -> bytes:
        """Return the body of the answer.

        Raises:
            ServerError: it is no 200.
        """
        return server.post(self.path, self.body, {"Content-Type": self.media_type, **dict(self.headers)})


@dataclass(frozen=True)
class System:
    """How a system is started and asked.

    tensors_path: where it takes ready tensors, None where it takes none.
    wrapped: whether a body is sent as a tensor of bytes, by the Open Inference Protocol.
    expect: what every answer to ids must hold.
    has_readyz: whether GET /readyz says when it is ready; else a request is tried until it is answered.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    python: Path | str = sys.executable
    tensors_path: str | None = None
    tensors_form: TensorsForm = "binary"
    wrapped: bool = False
    expect: str = ""
    has_readyz: bool = True

    def started(self, folder: Path, cores: set[int] | None, first: Ask) -> AbstractContextManager[Server]:
        """Run it for as long as the context lasts; its log lies in the folder.

        Raises:
            ServerError: it did not become ready.
        """

        def is_ready(server: Server) -> bool:
            return server.get("/readyz") == 200 if self.has_readyz else bool(self.call(first).ask(server))

        return running(
            self.name,
            self.command,
            self.environment,
            cores=cores,
            log=folder / f"{self.name}.log",
            python=self.python,
            is_ready=is_ready,
        )

    def call(self, ask: Ask) -> Call:
        """Return how ids are sent to it."""
        return self._call("/score", (("X-Domain", ask.domain),), ask.body, "application/json")

    def tensors_call(self, body: bytes) -> Call:
        """Return how ready tensors are sent to it, in the form that it takes."""
        assert self.tensors_path is not None
        binary = self.tensors_form == "binary"
        return self._call(
            self.tensors_path, (), body, "application/octet-stream" if binary else "application/json"
        )

    def _call(self, path: str, headers: tuple[tuple[str, str], ...], body: bytes, media_type: str) -> Call:
        if not self.wrapped:
            return Call(path, headers, body, media_type)
        head, data = wrapped(body)
        length = ("Inference-Header-Content-Length", str(len(head)))
        return Call(INFER_PATH, (*headers, length), head + data, "application/octet-stream")

    def scores(self, answer: bytes) -> Scores:
        """Return what an answer of it says."""
        return scores_of(orjson.loads(unwrapped(answer) if self.wrapped else answer))


def ours(subject: Subject) -> System:
    """Return `python -m service` with its defaults but for the store's deadline."""
    environment = {
        "TWINSTAR_REGISTRY": str(subject.registry.absolute()),
        "TWINSTAR_STORE_URL": f"embedded://{subject.store.absolute()}",
        "TWINSTAR_EXPERIMENTS_FILE": str(subject.plan.absolute()),
        "TWINSTAR_WORKERS": "1",
        "TWINSTAR_STORE_TIMEOUT_MS": str(STORE_TIMEOUT_MS),
    }
    return System(OURS, ("-m", "service"), environment, expect=NOTHING_MISSING)


def plain(subject: Subject, graph: GraphName) -> System:
    """Return the plain FastAPI service on a graph."""
    return System(
        PLAIN[graph],
        (*UVICORN, "benchmarks.plain_service:create_app"),
        subject.plain_environment(graph),
        tensors_path="/tensors",
    )


def starlette(subject: Subject) -> System:
    """Return bare Starlette, on our graph."""
    return System(
        STARLETTE,
        (*UVICORN, "benchmarks.bare_starlette:create_app"),
        subject.plain_environment(SERVED),
    )


def of_peer(subject: Subject, peer: Peer) -> System:
    """Return a peer on our graph; which graph ready tensors are for, they say."""
    return System(
        f"{peer.name}-served",
        tuple(peer.command),
        {**subject.plain_environment(SERVED), **peer.environment},
        python=python_of(peer),
        tensors_path=peer.tensors_path,
        tensors_form=peer.tensors,
        wrapped=peer.wrapped,
        has_readyz=False,
    )


@contextmanager
def store_running(folder: Path, cores: set[int] | None) -> Iterator[None]:
    """Run the embedded store of a folder for as long as the context lasts."""
    folder = folder.absolute()
    with on_cores(cores):
        in_use = valkey_server.enter(folder)
    try:
        yield
    finally:
        valkey_server.leave(folder, in_use)


@contextmanager
def own_store(
    folder: Path, snapshot_id: str, users: Iterable[User], cores: set[int] | None
) -> Iterator[None]:
    """Run an embedded store with some users for as long as the context lasts."""
    with store_running(folder, cores):
        asyncio.run(_write(folder, snapshot_id, users))
        yield


async def _write(folder: Path, snapshot_id: str, users: Iterable[User]) -> None:
    store = await open_store(f"embedded://{folder}")
    try:
        await store.write_snapshot(snapshot_id, (user.record() for user in users))
    finally:
        await store.close()


def check_agreement(asked: Sequence[tuple[System, Server]], asks: Sequence[Ask]) -> dict[str, Difference]:
    """Return the greatest differences of each system from the first, over some requests.

    Raises:
        DisagreementError: one is over its limit, or one answered with less than it should.
    """
    found: dict[str, Difference] = {}
    for ask in asks:
        reference: Scores | None = None
        for system, server in asked:
            answer = system.call(ask).ask(server)
            if system.expect.encode() not in answer:
                raise DisagreementError(f"{system.name} answered without {system.expect}: {answer[:200]!r}")
            scores = system.scores(answer)
            if reference is None:
                reference = scores
                continue
            found[system.name] = _larger(found.get(system.name), difference(scores, reference), system.name)
    return found


def check_tensors(
    system: System, server: Server, bodies: Sequence[bytes], references: Sequence[Scores]
) -> Difference:
    """Return the greatest difference of the answers to ready tensors from what the same requests scored as ids.

    Raises:
        DisagreementError: one is over its limit.
    """
    found: Difference | None = None
    for body, reference in zip(bodies, references, strict=True):
        scores = system.scores(system.tensors_call(body).ask(server))
        found = _larger(found, difference(scores, reference), system.name)
    assert found is not None
    return found


def _larger(before: Difference | None, now: Difference, name: str) -> Difference:
    if not (now.probability <= DIFFERENCE_MAX and now.relative <= RELATIVE_DIFFERENCE_MAX):
        raise DisagreementError(
            f"{name}: probabilities differ by up to {now.probability:.1e}, or {now.relative:.1%}"
        )
    if before is None:
        return now
    return Difference(max(before.probability, now.probability), max(before.relative, now.relative))


def difference(scores: Scores, reference: Scores) -> Difference:
    """Return the greatest difference of two answers.

    Raises:
        DisagreementError: they are of other candidates, or in another order.
    """
    named = scores.item_ids is not None and reference.item_ids is not None
    if (named and scores.item_ids != reference.item_ids) or (
        scores.probability.shape != reference.probability.shape
    ):
        raise DisagreementError("the answers are of other candidates, or in another order")
    off = np.abs(scores.probability - reference.probability)
    relative = off / np.maximum(reference.probability, RELATIVE_TO_MIN)
    return Difference(float(off.max()), float(relative.max()))


def scores_of(document: Mapping[str, Any]) -> Scores:
    """Return what an answer says: ours, the plain handler's to ids, or its to ready tensors."""
    if "probabilities" in document:
        return Scores(None, np.array(document["probabilities"]))
    rows = [dict(result) for result in document["results"]]
    item_ids = [row.pop("item_id") for row in rows]
    rows = [row.get("probabilities", row) for row in rows]
    tasks = list(rows[0])
    return Scores(item_ids, np.array([[row[task] for task in tasks] for row in rows]))


def wrapped(body: bytes) -> tuple[bytes, bytes]:
    """Return a body as a request of the Open Inference Protocol with binary tensors: its JSON, and what follows it."""
    data = len(body).to_bytes(4, "little") + body
    tensor = {
        "name": "body",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    asked = {"inputs": [tensor], "outputs": [{"name": "answer", "parameters": {"binary_data": True}}]}
    return orjson.dumps(asked), data


def unwrapped(answer: bytes) -> bytes:
    """Return the tensor of bytes in an answer of the Open Inference Protocol, which follows the answer's JSON."""
    text = answer.decode("latin-1")  # a character a byte
    _, end = json.JSONDecoder().raw_decode(text)
    length = int.from_bytes(answer[end : end + 4], "little")
    return answer[end + 4 : end + 4 + length]
