"""GET /livez, /readyz and /metrics."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.schema import Liveness, Problem, Readiness
from service.pipeline.hydrate import NO_HISTORY
from service.runtime import Runtime

router = APIRouter()


@router.get("/livez", summary="Is the process alive", responses={200: {"model": Liveness}})
async def livez(request: Request) -> Response:
    """Answer as long as the process can."""
    return Response(orjson.dumps({"status": "alive"}), media_type="application/json")


@router.get(
    "/readyz",
    summary="Can it score",
    responses={200: {"model": Readiness}, 503: {"model": Problem, "description": "Not ready, and why"}},
)
async def readyz(request: Request) -> Response:
    """Answer 200 once artefacts are loaded, 503 with the reasons before.

    A store that is gone does not make the service unready: it scores without history, and says so here.
    """
    runtime: Runtime = request.app.state.runtime
    serving = runtime.serving
    content = {
        "status": "ready",
        "degraded": [] if await runtime.store.is_up() else [NO_HISTORY],
        "models": [
            {
                "name": model.manifest.name,
                "version": model.manifest.version,
                "precision": model.scorer.precision,
                "why_fp32": model.why_fp32,
                "snapshot_at_ms": model.snapshot.at_ms if model.snapshot else None,
            }
            for model in serving.models.values()
        ],
    }
    return Response(orjson.dumps(content), media_type="application/json")


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return what all workers count, in Prometheus' text format."""
    runtime: Runtime = request.app.state.runtime
    return Response(runtime.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})
