"""Candidates that the model has no row of: scored from the features in the request, as is right by construction."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from service.contract import artefact
from tests.integration.service.conftest import World, Worlds
from tests.integration.service.test_refusals import assert_problem
from tests.integration.service.test_score import TOLERANCE, assert_scores
from tests.support.known_artefact import AT_MS, Past
from tests.support.known_registry import DOMAINS, PEPNET, STAR, USERS, KnownRegistry, loyalty_of, model_of

pytestmark = pytest.mark.anyio

Candidate = dict[str, Any]

CANDIDATES: list[Candidate] = [
    {"item_id": "apple"},
    {"item_id": "new-1", "features": {"aisle": "fresh", "price": 1}},
    {"item_id": "new-2", "features": {"aisle": "fresh", "price": 2.0}},
    {"item_id": "new-3", "features": {"aisle": "toys", "price": 1e9}},  # an aisle that no item is of
    {"item_id": "new-4", "features": {"aisle": "bakery"}},
    {"item_id": "new-5", "features": {"aisle": "unheard of", "price": 12, "colour": "red"}},
    {"item_id": "new-1", "features": {"aisle": "bakery", "item_id": "apple"}},  # twice, told otherwise
    {"item_id": "egg", "features": {"aisle": "fresh"}},  # in the catalogue, and in no model
    {"item_id": "corn", "features": {"aisle": "toys", "price": 50}},  # has a row, which is what counts
    {"item_id": "new-6", "features": {"aisle": "herbs"}, "context": {"location": "A"}},
    "new-7",  # type: ignore[list-item]
    {"item_id": "new-8", "features": {}},
    {"item_id": "new-9", "features": {"aisle": "unheard of", "price": None, "colour": "red"}},
]
COLD = ("new-7", "new-8", "new-9")
"""Of these nothing is told that any model knows."""


def known(candidate: Candidate | str) -> Candidate:
    """Return a candidate as the known models are asked for it."""
    if isinstance(candidate, str):
        return {"item_id": candidate}
    return {
        "item_id": candidate["item_id"],
        "item_features": candidate.get("features"),
        **candidate.get("context", {}),
    }


async def check(world: World, user: str, domain: str, candidates: list[Candidate]) -> None:
    response = await world.score({"user_id": user, "candidates": candidates}, domain)
    model = model_of(user, domain, world.plan)
    assert_scores(
        response,
        model,
        [known(candidate) for candidate in candidates],
        domain=domain,
        user_id=user,
        features={"loyalty": loyalty_of(user)} if user in USERS else {},
        clusters=world.clusters.get(user, ()),
    )
    cold = [
        c["item_id"]
        for c in map(known, candidates)
        if c["item_id"] not in model.items and model.new_item(c.get("item_features") or {}) == model.cold
    ]
    assert {*COLD} & {c["item_id"] for c in map(known, candidates)} <= {*cold}
    assert response.json()["unknown_items"] == list(dict.fromkeys(cold))


@pytest.mark.parametrize("domain", DOMAINS)
async def test_new_known_and_cold_candidates_are_each_scored_right_in_any_order(
    world: World, domain: str
) -> None:
    rng = random.Random(domain)
    seen = set()
    for user in (*USERS, "nobody"):
        candidates = rng.sample(CANDIDATES, len(CANDIDATES))
        await check(world, user, domain, candidates)
        await check(world, user, domain, candidates[: rng.randint(1, 4)])
        seen.add(model_of(user, domain, world.plan).name)
    assert seen == ({"star"} if domain == "both" else {"star", "pepnet"})


def test_what_is_told_of_the_items_makes_a_difference() -> None:
    for model in (STAR, PEPNET):
        fresh, cold = ({"aisle": "fresh", "price": 3}, None)
        for domain in DOMAINS:
            told, untold = (
                model.probability("new", domain=domain, item_features=f)[0] for f in (fresh, cold)
            )
            bought = model.probability(
                "new", domain=domain, item_features=fresh, clusters=[Past("apple", 3)]
            )[0]
            without = model.probability("new", domain=domain, clusters=[Past("apple", 3)])[0]
            assert abs(told - untold) > 100 * TOLERANCE
            assert abs((bought - told) - (without - untold)) > 100 * TOLERANCE  # its aisle is matched


async def test_a_score_of_a_new_item_does_not_depend_on_the_other_candidates(world: World) -> None:
    for user in USERS[:4]:
        together = (await world.score({"user_id": user, "candidates": CANDIDATES})).json()["results"]
        for place, candidate in enumerate(CANDIDATES):
            (alone,) = (await world.score({"user_id": user, "candidates": [candidate]})).json()["results"]
            assert alone == pytest.approx(together[place], abs=1e-6)


async def test_messagepack_and_batches_score_them_alike(world: World) -> None:
    body = {"user_id": "u3", "candidates": CANDIDATES, "at_ms": AT_MS}
    headers = {"X-Domain": "mailer", "X-Request-Id": "r"}
    expected = (await world.client.post("/score", json=body, headers=headers)).json()
    packed = await world.client.post(
        "/score",
        content=msgspec.msgpack.encode(body),
        headers={**headers, "Content-Type": "application/msgpack", "Accept": "application/msgpack"},
    )
    answer = msgspec.msgpack.decode(packed.content)
    assert answer["unknown_items"] == expected["unknown_items"]
    for task in ("click", "multi"):
        column = np.frombuffer(answer["results"][task], "<f4")
        assert column.tolist() == [result[task] for result in expected["results"]]
    requests = [{"user_id": "u1", "candidates": ["apple", "new-1"]}, body]
    batch = await world.client.post("/score/batch", json={"requests": requests}, headers=headers)
    first, second = batch.json()["answers"]
    assert first["unknown_items"] == ["new-1"]  # what one request tells of an item is not known in another
    assert {**second, "request_id": "r"} == expected


async def test_more_candidates_with_features_than_the_setting_has_are_refused(worlds: Worlds) -> None:
    async with worlds("memory://", new_items_max_count=2) as world:
        told = {"item_id": "new", "features": {"aisle": "fresh"}}
        allowed = ["apple", told, "corn", told]
        assert (await world.score({"user_id": "u1", "candidates": allowed})).status_code == 200
        beyond = {"user_id": "u1", "candidates": [*allowed, {**told, "item_id": "apple"}]}
        problem = assert_problem(await world.score(beyond), 422, "invalid-request")
        assert problem["errors"] == [
            {"where": "body.candidates", "reason": "expected <= 2 candidates with features"}
        ]
        batch = {"requests": [beyond, {"user_id": "u1", "candidates": allowed}]}
        response = await world.client.post("/score/batch", json=batch, headers={"X-Domain": "mailer"})
        refused, answer = response.json()["answers"]
        assert refused["errors"][0]["where"] == "body.requests[0].candidates"
        assert len(answer["results"]) == len(allowed)
    async with worlds("memory://", new_items_max_count=0) as world:
        assert (await world.score({"user_id": "u1", "candidates": ["apple", "new"]})).status_code == 200
        assert_problem(await world.score({"user_id": "u1", "candidates": [told]}), 422, "invalid-request")


async def test_the_item_encoder_is_run_for_requests_with_new_items_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = world.app.state.runtime.serving.models["star"].encoder
    counts: list[int] = []
    encode = encoder._encode_items

    def counting(ids: Any) -> Any:
        counts.append(len(ids))
        return encode(ids)

    monkeypatch.setattr(encoder, "_encode_items", counting)
    has_a_row = {"item_id": "apple", "features": {"aisle": "fresh"}}
    for candidates in (
        ["apple", "new"],
        [has_a_row, "corn"],
        [{"item_id": "new", "features": {"colour": "red"}}],
    ):
        assert (await world.score({"user_id": "u1", "candidates": candidates}, "both")).status_code == 200
    assert counts == []
    await world.score({"user_id": "u1", "candidates": CANDIDATES}, "both")
    assert counts == [7]  # once for all of them


def test_the_known_artefacts_carry_their_item_encoders(known_registry: KnownRegistry) -> None:
    for name, version in known_registry.versions.items():
        folder = artefact.model_folder(known_registry.folder, name) / version
        assert artefact.ITEM_ENCODER_FILE in artefact.read_artefact(folder).files
