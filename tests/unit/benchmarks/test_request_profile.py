from __future__ import annotations

import orjson
import pytest

from benchmarks.request_profile import ASKS_COUNT, made_up, profile, shares_of
from service.contract.features import Side
from service.contract.history import decode_snapshot
from service.experiments.plan import read_plan
from service.models.live import load_serving
from service.pipeline.run import STAGES


def test_shares_are_of_the_sum():
    found = shares_of({"a": 30.04, "b": 10.0, "c": 0.0})

    assert [share.part for share in found] == ["a", "b", "c"]
    assert [share.cpu_us for share in found] == [30.0, 10.0, 0.0]
    assert sum(share.share for share in found) == pytest.approx(1.0)
    assert shares_of({"nothing": 0.0})[0].share == 0.0


def test_requests_are_of_the_artefacts_items_and_values_and_users_have_the_clusters_asked_for(reference):
    live = load_serving(reference.registry, read_plan(reference.plan)).default_model

    asks, users = made_up(live, n=30, c=7)

    known = set(live.catalogue.item_ids)
    bodies = [orjson.loads(ask.body) for ask in asks]
    assert len(asks) == len(users) == ASKS_COUNT
    assert {ask.domain for ask in asks} == set(live.domains)
    assert all(len(body["candidates"]) == 30 and set(body["candidates"]) <= known for body in bodies)
    assert [body["user_id"] for body in bodies] == [user.user_id for user in users]
    assert {len(decode_snapshot(user.snapshot).item) for user in users} == {7}
    (store_id,) = (spec for spec in live.manifest.features_of(Side.CONTEXT) if spec.name == "store_id")
    assert all(body["context"]["store_id"] in store_id.encoder.values for body in bodies)


def test_a_profile_has_every_stage_what_is_around_them_and_the_graphs_operators(reference):
    stages, operators = profile(reference.registry, "reference", n=20, c=5, seconds=0.2).values()

    assert [share.part for share in stages][:-1] == list(STAGES)
    assert all(share.cpu_us > 0 for share in stages)
    assert {"FusedGemm", "Softmax"} <= {share.part for share in operators}
    costs = [share.cpu_us for share in operators]
    assert costs == sorted(costs, reverse=True)
