"""What stands around the app, and what becomes of an error that nothing expects."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.api.direct import DirectRoutes
from service.app import _telemetry_options, create_app
from service.settings import Settings
from service.telemetry.requests import RequestTelemetry

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    plan = tmp_path / "experiments.yaml"
    plan.write_text("version: 1\ndefault_model: none\n")
    return create_app(Settings(registry=tmp_path, store_url="memory://", experiments_file=plan))


async def ask(app: FastAPI, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://twinstar") as client:
        return await client.get(path, headers={"X-Request-ID": "own-id"})


async def test_our_layers_stand_around_those_of_fastapi(app: FastAPI) -> None:
    outermost = app.build_middleware_stack()
    assert isinstance(outermost, RequestTelemetry)
    assert isinstance(outermost._app, DirectRoutes)


async def test_an_error_beside_our_routes_is_a_problem_with_an_id_and_is_counted(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> dict[str, object]:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(app, "openapi", fails)
    response = await ask(app, "/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    assert response.headers["x-request-id"] == response.json()["request_id"] == "own-id"
    assert "secret" not in response.text
    metrics = (await ask(app, "/metrics")).text
    assert 'twinstar_requests_total{code="500",route="unmatched"} 1.0' in metrics


@pytest.mark.parametrize(("variable", "looks"), [("OTEL_SERVICE_NAME", True), ("OTHER", False)])
async def test_opentelemetry_is_looked_for_where_its_variables_are_set(variable: str, looks: bool) -> None:
    options = _telemetry_options({variable: "x"})
    assert (options == {}) is looks
    assert looks or set(options["telemetry"].values()) == {False}
