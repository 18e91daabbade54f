"""What OpenAPI promises is what the service takes and gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from service.api import schema
from service.errors import InvalidRequest
from service.events.decode import decode_events
from service.pipeline.decode import decode_score
from tests.integration.service.conftest import World, Worlds
from tests.integration.service.test_events import INVALID as INVALID_EVENTS
from tests.integration.service.test_refusals import INVALID as INVALID_SCORES

pytestmark = pytest.mark.anyio

# What depends on settings or on the model routed to, a schema cannot know.
BEYOND_A_SCHEMA = {"too many candidates", "too many candidates with features", "task unknown", "too many"}
# JSON numbers that pydantic takes in a union with float, and msgspec refuses.
LAXER = {"context integer over 64 bits", "context integer under 64 bits"}


@pytest.fixture
async def document(worlds: Worlds) -> dict[str, Any]:
    async with worlds("memory://") as world:
        content: dict[str, Any] = (await world.client.get("/openapi.json")).json()
        return content


async def test_every_example_is_answered(worlds: Worlds) -> None:
    async with worlds("memory://") as world:
        world.clock.at_ms = 1_900_000_000_000
        schemas = (await world.client.get("/openapi.json")).json()["components"]["schemas"]
        (example,) = schemas["ScoreBody"]["examples"]
        response = await world.score(example)
        assert response.status_code == 200, response.text
        answer = schema.ScoreAnswer.model_validate_json(response.content, strict=True)
        assert set(response.json()) == set(schema.ScoreAnswer.model_fields), answer
        (example,) = schemas["BatchBody"]["examples"]
        response = await world.client.post("/score/batch", json=example, headers={"X-Domain": "mailer"})
        assert response.status_code == 200, response.text
        batch = schema.BatchAnswer.model_validate_json(response.content, strict=True)
        assert [type(answer) for answer in batch.answers] == [schema.ScoreAnswer] * 2
        assert set(response.json()) == set(schema.BatchAnswer.model_fields)
        (example,) = schemas["EventsBody"]["examples"]
        response = await world.client.post("/events", json=example)
        assert response.status_code == 200, response.text
        schema.EventsAnswer.model_validate_json(response.content, strict=True, extra="forbid")


async def test_health_and_problems_are_as_promised(world: World) -> None:
    schema.Liveness.model_validate_json((await world.client.get("/livez")).content, extra="forbid")
    schema.Readiness.model_validate_json((await world.client.get("/readyz")).content, extra="forbid")
    schema.Problem.model_validate_json((await world.score({})).content, extra="forbid")
    schema.Problem.model_validate_json((await world.client.get("/nothing")).content, extra="forbid")


async def test_bodies_headers_and_problems_are_described(document: dict[str, Any]) -> None:
    score = document["paths"]["/score"]["post"]
    assert [p["name"] for p in score["parameters"]] == ["X-Domain", "X-Request-Id"]
    assert set(score["responses"]["200"]["headers"]) >= {"X-Model-Version", "X-Experiment-Arms"}
    batch = document["paths"]["/score/batch"]["post"]
    assert [p["name"] for p in batch["parameters"]] == ["X-Domain", "X-Request-Id"]
    for path in ("/score", "/score/batch", "/events"):
        operation = document["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        name = content["schema"]["$ref"].removeprefix("#/components/schemas/")
        assert document["components"]["schemas"][name]["additionalProperties"] is False
        for status in ("400", "413", "415", "422", "503"):
            assert list(operation["responses"][status]["content"]) == ["application/problem+json"]


async def test_messagepack_is_described_where_it_is_spoken(document: dict[str, Any]) -> None:
    both = ["application/json", "application/msgpack"]
    for path, answer in (("/score", "ScoreAnswerColumns"), ("/score/batch", "BatchAnswerColumns")):
        operation = document["paths"][path]["post"]
        bodies, answers = operation["requestBody"]["content"], operation["responses"]["200"]["content"]
        assert list(bodies) == list(answers) == both
        assert bodies[both[0]] == bodies[both[1]]
        assert answers[both[1]]["schema"]["$ref"] == f"#/components/schemas/{answer}"
    assert list(document["paths"]["/events"]["post"]["requestBody"]["content"]) == both[:1]
    columns = document["components"]["schemas"]["Columns"]
    assert columns["additionalProperties"] == {"type": "string", "format": "binary"}


async def test_no_reference_leads_nowhere(document: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    def references(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"]} if "$ref" in part else set()
            return own.union(*map(references, part.values()))
        return set[str]().union(*map(references, part)) if isinstance(part, list) else set()

    assert references(document) <= known


async def test_docs_are_there(worlds: Worlds) -> None:
    async with worlds("memory://") as world:
        assert (await world.client.get("/docs")).status_code == 200


@pytest.mark.parametrize("name", INVALID_SCORES)
def test_the_schema_of_scores_refuses_what_the_decoder_refuses(name: str) -> None:
    content, _ = INVALID_SCORES[name]
    with pytest.raises(InvalidRequest):
        decode_score(
            _json(content), candidates_max_count=0 if name in BEYOND_A_SCHEMA else 50, new_items_max_count=10
        )
    if name not in BEYOND_A_SCHEMA | LAXER:
        with pytest.raises(ValidationError):
            schema.ScoreBody.model_validate_json(_json(content))


@pytest.mark.parametrize("name", INVALID_EVENTS)
def test_the_schema_of_events_refuses_what_the_decoder_refuses(name: str) -> None:
    content, _ = INVALID_EVENTS[name]
    with pytest.raises(InvalidRequest):
        decode_events(_json(content), events_max_count=1000)
    if name not in BEYOND_A_SCHEMA:
        with pytest.raises(ValidationError):
            schema.EventsBody.model_validate_json(_json(content))


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()
