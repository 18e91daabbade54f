"""What an ordinary handler does with a request, the same under every server but ours: bytes in, bytes out.

The plain FastAPI service and the peers (`peers/`) all run this, so that only the server differs. Pydantic checks the
JSON, a dict knows the items' rows, numpy lays out the tensors, one ONNX Runtime session with one thread runs a graph:

    training   every input repeated to as many rows as there are candidates
    served     our own graph, and our item tables

A body is the JSON of POST /score, or ready tensors: `{"graph": name, "inputs": {name: [dtype, shape, bytes]}}` in
MessagePack, or in JSON with Base64. It reads the same registry, vocabularies and store as the service, and gives the
same probabilities. This is the one module of the benchmarks that lays requests of users out by the contract, and it
needs only what REQUIREMENTS names, so that it runs in a peer's own environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from service.contract.artefact import (
    catalogue_folder,
    current_version,
    model_folder,
    read_artefact,
    read_popularity,
    read_snapshot_ref,
    scorer_file,
)
from service.contract.catalogue import read_catalogue
from service.contract.history import (
    Behaviors,
    History,
    build_history,
    decode_behaviors,
    decode_snapshot,
)
from service.contract.served_inputs import PROBABILITY, RequestEncoder, assemble, read_item_tables
from service.contract.store_keys import decode_user_features, features_key, recent_key, snapshot_key

REQUIREMENTS: Final = (
    "hiredis",
    "msgspec",
    "numpy",
    "onnxruntime",
    "pydantic",
    "pydantic-settings",
    "redis",
    "xxhash",
)
"""What this module and the contract import, beside the standard library."""

TRAINING: Final = "training"
SERVED: Final = "served"
GraphName = Literal["training", "served"]

Value = str | int | float | bool | None
Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


class PlainSettings(BaseSettings):
    """Where the model and the store are, and which graph scores requests that are ids."""

    model_config = SettingsConfigDict(env_prefix="PLAIN_")

    registry: Path
    model: str
    training_graph: Path
    graph: GraphName
    store_socket: str


class Candidate(BaseModel):
    """A candidate that has features of its own in this request."""

    item_id: str
    context: dict[str, Value] = {}


class ScoreRequest(BaseModel):
    """The body of POST /score."""

    user_id: str
    at_ms: int
    context: dict[str, Value] = {}
    candidates: list[str | Candidate]


class Result(BaseModel):
    """The probabilities of one candidate, by task."""

    item_id: str
    probabilities: dict[str, float]


class ScoreResponse(BaseModel):
    """The answer of POST /score."""

    domain: str
    model_version: str
    results: list[Result]


class TensorsAnswer(BaseModel):
    """The answer to ready tensors: a row a candidate, a column a task."""

    probabilities: list[list[float]]


class _Tensors(msgspec.Struct):
    graph: GraphName
    domain: str
    inputs: dict[str, tuple[str, list[int], bytes]]


_tensors_decoder: Final = msgspec.msgpack.Decoder(_Tensors)


class Handler:
    """The model, its graphs, and what turns a request into an answer. Of the store it knows the keys only."""

    def __init__(self, settings: PlainSettings) -> None:
        folder = model_folder(settings.registry, settings.model)
        folder = folder / current_version(settings.registry, settings.model)
        self.settings = settings
        self.manifest = read_artefact(folder)
        self.tasks = [task.name for task in self.manifest.tasks]
        catalogue = read_catalogue(catalogue_folder(settings.registry, self.manifest.catalogue.name))
        self._catalogue_ids = {item_id: number for number, item_id in enumerate(catalogue.item_ids, 1)}
        snapshot = read_snapshot_ref(settings.registry, self.manifest.snapshot_line)
        assert snapshot is not None, "no snapshot was published"
        self.snapshot_id = snapshot.snapshot_id
        self._tables = read_item_tables(folder)
        self._encoder = RequestEncoder(self.manifest, self._tables)
        self._popularity = read_popularity(settings.registry, self.manifest.snapshot_line, snapshot)
        self._folder = folder
        self._loaded = cache(self._load)  # a graph that nobody asks for is not loaded
        for domain in self.manifest.domains:
            self.session(settings.graph, domain)

    def session(self, graph: GraphName, domain: str) -> ort.InferenceSession:
        """Return the session of a graph; the served one is another in each domain."""
        served = graph == SERVED
        return self._loaded(self._folder / scorer_file(domain) if served else self.settings.training_graph)

    def _load(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def keys(self, user_id: str) -> list[str]:
        """Return the keys of what the store knows of a user: recent behaviors, snapshot, features."""
        return [
            recent_key(user_id),
            snapshot_key(user_id, self.snapshot_id),
            features_key(user_id, self.snapshot_id),
        ]

    def score(self, request: ScoreRequest, domain: str, stored: Sequence[bytes | None]) -> ScoreResponse:
        """Return the answer to a request of a domain that the model has. `stored` are the values of `keys`."""
        graph = self.settings.graph
        rows = self.run(graph, domain, self.feeds(request, domain, stored, graph))
        results = [
            Result(
                item_id=candidate if isinstance(candidate, str) else candidate.item_id,
                probabilities=dict(zip(self.tasks, row, strict=True)),
            )
            for candidate, row in zip(request.candidates, rows, strict=True)
        ]
        return ScoreResponse(domain=domain, model_version=self.manifest.version, results=results)

    def score_tensors(self, graph: GraphName, domain: str, feeds: Feeds) -> TensorsAnswer:
        """Return the answer to ready tensors."""
        return TensorsAnswer(probabilities=self.run(graph, domain, feeds))

    def run(self, graph: GraphName, domain: str, feeds: Feeds) -> list[list[float]]:
        """Return the probabilities of each candidate and task."""
        rows: list[list[float]] = self.session(graph, domain).run([PROBABILITY], feeds)[0].tolist()
        return rows

    def feeds(
        self, request: ScoreRequest, domain: str, stored: Sequence[bytes | None], graph: GraphName
    ) -> Feeds:
        """Return a graph's inputs for a request."""
        recent, snapshot, features = stored
        history = build_history(
            decode_snapshot(snapshot) if snapshot else None,
            decode_behaviors(recent) if recent else Behaviors.empty(),
            at_ms=request.at_ms,
            limits=self.manifest.history,
        )
        user_features = decode_user_features(features) if features else {}
        user_ids = self._encoder.user_ids(
            request.user_id, user_features, request.context, at_ms=request.at_ms
        )
        candidates = [Candidate(item_id=c) if isinstance(c, str) else c for c in request.candidates]
        items = np.array([self._catalogue_ids.get(c.item_id, 0) for c in candidates], np.uint32)
        item_rows = self._tables.rows_of(items)
        candidate_ids = np.concatenate(
            [
                self._encoder.candidate_ids([candidate.context for candidate in candidates]),
                self._encoder.match_ids(item_rows, history),
                self._encoder.popularity_ids(items, self._popularity, request.context, at_ms=request.at_ms),
            ],
            axis=1,
        )
        number = self.manifest.domains.index(domain)
        if graph == SERVED:
            laid_out = assemble(
                self._tables,
                domain=number,
                user_ids=user_ids,
                rows=item_rows,
                candidate_ids=candidate_ids,
                history=history,
            )
            return {name: laid_out[name] for name in self.manifest.graph_inputs}
        rows = len(candidates)
        return {
            "item": item_rows.astype(np.int64),
            "candidate_ids": candidate_ids,
            "user_ids": np.tile(np.array(user_ids, np.int64), (rows, 1)),
            "domain": np.full(rows, number, np.int64),
            **self._history_rows(history, rows),
        }

    def _history_rows(self, history: History, rows: int) -> dict[str, Array]:
        """Return the training graph's history, repeated for every row; an empty part is one row of size 0."""
        recent_size = np.ones(len(history.recent_item), np.float32)
        behavior_size = np.ones(len(history.behavior_item), np.float32)
        parts = {
            "clusters": (history.item, history.size, history.age, history.strength),
            "recents": (history.recent_item, recent_size, history.recent_age, history.recent_strength),
            "behaviors": (
                history.behavior_item,
                behavior_size,
                history.behavior_age,
                history.behavior_strength,
            ),
        }
        feeds: dict[str, Array] = {}
        for name, columns in parts.items():
            item, size, age, strength = (
                columns if len(columns[0]) else tuple(np.zeros(1, column.dtype) for column in columns)
            )
            feeds[f"{name}_item"] = self._tables.rows_of(item).astype(np.int64)
            feeds[f"{name}_index"] = np.tile(np.arange(len(item)), (rows, 1))
            feeds[f"{name}_size"] = np.tile(size, (rows, 1))
            feeds[f"{name}_age"] = np.tile(age.astype(np.int64), (rows, 1))
            feeds[f"{name}_strength"] = np.tile(strength.astype(np.int64), (rows, 1))
        return feeds


class BlockingHandler(Handler):
    """The handler of servers that call it in a thread or process of its own."""

    def __init__(self, settings: PlainSettings) -> None:
        super().__init__(settings)
        self._store = Redis(unix_socket_path=settings.store_socket)

    def answer(self, body: bytes) -> bytes:
        """Return the answer to a body. The domain is the context's: not every server hands headers on."""
        if not is_json(body):
            return json_of(self.score_tensors(*tensors_of(body)))
        return self._answer(ScoreRequest.model_validate_json(body))

    def answer_document(self, document: dict[str, Any]) -> bytes:
        """Return the answer to a body whose JSON was parsed already; ready tensors are in Base64."""
        if "inputs" in document:
            return json_of(self.score_tensors(*tensors_of_document(document)))
        return self._answer(ScoreRequest.model_validate(document))

    def _answer(self, request: ScoreRequest) -> bytes:
        return json_of(self.score(request, domain_of(request), self.stored(request.user_id)))

    def stored(self, user_id: str) -> list[bytes | None]:
        """Return what the store knows of a user."""
        values: Any = self._store.mget(self.keys(user_id))
        return list(values)


class AsyncHandler(Handler):
    """The handler of servers that have an event loop."""

    def __init__(self, settings: PlainSettings) -> None:
        super().__init__(settings)
        self._store = AsyncRedis(unix_socket_path=settings.store_socket)

    async def answer(self, body: bytes) -> bytes:
        """Return the answer to a body. The domain is the context's: not every server hands headers on."""
        if not is_json(body):
            return json_of(self.score_tensors(*tensors_of(body)))
        request = ScoreRequest.model_validate_json(body)
        return json_of(self.score(request, domain_of(request), await self.stored(request.user_id)))

    async def stored(self, user_id: str) -> list[bytes | None]:
        """Return what the store knows of a user."""
        values: Any = await self._store.mget(self.keys(user_id))
        return list(values)

    async def close(self) -> None:
        """Give the store's connections back."""
        await self._store.aclose()


def is_json(body: bytes) -> bool:
    """Return whether a body is JSON; else it is ready tensors."""
    return body[:1] == b"{"


def domain_of(request: ScoreRequest) -> str:
    """Return the domain that a request names in its context."""
    return str(request.context["domain"])


def json_of(answer: BaseModel) -> bytes:
    """Return the bytes of an answer."""
    return answer.model_dump_json().encode()


def tensors_of(body: bytes) -> tuple[GraphName, str, Feeds]:
    """Return the graph, the domain and the inputs that a binary body names."""
    return _feeds_of(_tensors_decoder.decode(body))


def tensors_of_document(document: dict[str, Any]) -> tuple[GraphName, str, Feeds]:
    """Return the graph, the domain and the inputs that a parsed JSON body names."""
    return _feeds_of(msgspec.convert(document, _Tensors))


def _feeds_of(asked: _Tensors) -> tuple[GraphName, str, Feeds]:
    feeds = {
        name: np.frombuffer(data, dtype).reshape(shape) for name, (dtype, shape, data) in asked.inputs.items()
    }
    return asked.graph, asked.domain, feeds


def tensors_body(graph: GraphName, domain: str, feeds: Feeds, *, base64: bool = False) -> bytes:
    """Return ready tensors as a body: MessagePack, or JSON with Base64 for servers that read JSON themselves."""
    inputs = {
        name: (array.dtype.str, list(array.shape), np.ascontiguousarray(array).tobytes())
        for name, array in feeds.items()
    }
    tensors = _Tensors(graph, domain, inputs)
    return msgspec.json.encode(tensors) if base64 else msgspec.msgpack.encode(tensors)
