"""What a team would write on the day it wants its model served: FastAPI, pydantic, redis and ONNX Runtime.

    uvicorn --factory benchmarks.plain_service:create_app      with the PLAIN_ variables of `PlainSettings`

One endpoint, pydantic models in and out, one session with one thread, the training graph with every input
repeated to as many rows as there are candidates. It reads the same registry, vocabularies and store as the
service and gives the same probabilities; `python -m benchmarks.bench` checks that before it measures.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio import Redis

from service.contract.artefact import (
    catalogue_folder,
    current_version,
    model_folder,
    read_artefact,
    read_popularity,
    read_snapshot_ref,
)
from service.contract.catalogue import read_catalogue
from service.contract.history import (
    Behaviors,
    History,
    build_history,
    decode_behaviors,
    decode_snapshot,
)
from service.contract.served_inputs import RequestEncoder, read_item_tables
from service.contract.store_keys import decode_user_features, features_key, recent_key, snapshot_key

Value = str | int | float | bool | None
Array = npt.NDArray[np.generic]


class PlainSettings(BaseSettings):
    """Where the model and the store are."""

    model_config = SettingsConfigDict(env_prefix="PLAIN_")

    registry: Path
    model: str
    graph: Path
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


class Model:
    """The training graph, and what turns a request into its inputs."""

    def __init__(self, settings: PlainSettings) -> None:
        folder = model_folder(settings.registry, settings.model)
        folder = folder / current_version(settings.registry, settings.model)
        self.manifest = read_artefact(folder)
        self.catalogue = read_catalogue(catalogue_folder(settings.registry, self.manifest.catalogue.name))
        snapshot = read_snapshot_ref(settings.registry, self.manifest.snapshot_line)
        assert snapshot is not None, "no snapshot was published"
        self.snapshot_id = snapshot.snapshot_id
        self.encoder = RequestEncoder(self.manifest, read_item_tables(folder))
        self.popularity = read_popularity(settings.registry, self.manifest.snapshot_line, snapshot)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(settings.graph, options, providers=["CPUExecutionProvider"])

    def predict(
        self, request: ScoreRequest, domain: str, stored: Sequence[bytes | None]
    ) -> list[list[float]]:
        """Return the probabilities of each candidate and task. `stored` are recent, snapshot and features."""
        recent, snapshot, features = stored
        history = build_history(
            decode_snapshot(snapshot) if snapshot else None,
            decode_behaviors(recent) if recent else Behaviors.empty(),
            at_ms=request.at_ms,
            limits=self.manifest.history,
        )
        user_features = decode_user_features(features) if features else {}
        user_ids = self.encoder.user_ids(request.user_id, user_features, request.context, at_ms=request.at_ms)
        candidates = [Candidate(item_id=c) if isinstance(c, str) else c for c in request.candidates]
        rows = len(candidates)
        items = self.catalogue.ids_of(candidate.item_id for candidate in candidates)
        contexts = [candidate.context for candidate in candidates]
        item_rows = self.encoder.tables.rows_of(items)
        feeds = {
            "item": item_rows.astype(np.int64),
            "candidate_ids": np.concatenate(
                [
                    self.encoder.candidate_ids(contexts),
                    self.encoder.match_ids(item_rows, history),
                    self.encoder.popularity_ids(items, self.popularity, request.context, at_ms=request.at_ms),
                ],
                axis=1,
            ),
            "user_ids": np.tile(np.array(user_ids, np.int64), (rows, 1)),
            "domain": np.full(rows, self.manifest.domains.index(domain), np.int64),
            **self._history(history, rows),
        }
        probability: list[list[float]] = self.session.run(["probability"], feeds)[0].tolist()
        return probability

    def _history(self, history: History, rows: int) -> dict[str, Array]:
        """Return the history's inputs, each repeated for every row; an empty part is one row of size 0."""
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
            feeds[f"{name}_item"] = self.encoder.tables.rows_of(item)
            feeds[f"{name}_index"] = np.tile(np.arange(len(item)), (rows, 1))
            feeds[f"{name}_size"] = np.tile(size, (rows, 1))
            feeds[f"{name}_age"] = np.tile(age.astype(np.int64), (rows, 1))
            feeds[f"{name}_strength"] = np.tile(strength.astype(np.int64), (rows, 1))
        return feeds


def create_app() -> FastAPI:
    """Return the app."""
    settings = PlainSettings()  # type: ignore[call-arg]  # from the environment
    held: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        held["model"] = Model(settings)
        held["store"] = Redis(unix_socket_path=settings.store_socket)
        yield
        await held["store"].aclose()

    app = FastAPI(title="Plain", lifespan=lifespan)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/score")
    async def score(request: ScoreRequest, x_domain: Annotated[str, Header()]) -> ScoreResponse:
        model: Model = held["model"]
        if x_domain not in model.manifest.domains:
            raise HTTPException(422, "no such domain")
        stored = await held["store"].mget(
            recent_key(request.user_id),
            snapshot_key(request.user_id, model.snapshot_id),
            features_key(request.user_id, model.snapshot_id),
        )
        tasks = [task.name for task in model.manifest.tasks]
        probability = model.predict(request, x_domain, stored)
        results = [
            Result(
                item_id=c if isinstance(c, str) else c.item_id,
                probabilities=dict(zip(tasks, row, strict=True)),
            )
            for c, row in zip(request.candidates, probability, strict=True)
        ]
        return ScoreResponse(domain=x_domain, model_version=model.manifest.version, results=results)

    return app
