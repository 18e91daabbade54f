from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import numpy as np
import orjson
import pytest

from benchmarks import reference_model
from benchmarks.reference_model import ASKED_AT_MS, CLUSTERS_COUNTS, DOMAINS, MODEL, USERS_COUNT, Reference
from benchmarks.workload import read_users
from service.contract.artefact import read_artefact, read_artefact_catalogue, read_snapshot_ref
from service.contract.features import Side
from service.contract.golden import read_golden
from service.contract.history import decode_snapshot
from service.experiments.plan import read_plan
from service.models.live import load_serving
from training.errors import StageError


def test_it_is_an_artefact_that_the_service_loads_and_whose_golden_requests_replay(reference):
    serving = load_serving(reference.registry, read_plan(reference.plan))

    model = serving.default_model
    assert model.label == f"{MODEL}-{reference.version}"
    assert model.encoder.tables.by_domain.shape == (3, 1_001, 512)
    assert model.encoder.tables.shared.shape == (1_001, 4 * (16 + 1) + 32)


def test_it_has_the_features_domains_and_tasks_that_it_says(reference):
    manifest = read_artefact(reference.artefact)

    assert [len(manifest.features_of(side)) for side in (Side.USER, Side.CONTEXT, Side.CANDIDATE)] == [
        8,
        2,
        0,
    ]
    assert len(manifest.item_features) == 10
    assert (len(manifest.domains), len(manifest.tasks)) == (3, 2)
    assert manifest.parity.logit_difference_max <= manifest.parity.logit_difference_limit
    assert read_artefact_catalogue(reference.artefact, manifest).item_ids == reference.item_ids


def test_its_probabilities_differ_between_candidates_and_between_domains(reference):
    golden = read_golden(reference.artefact)

    clicks = np.array([[row[0] for row in request.probability] for request in golden])
    assert (clicks.std(axis=1) > 0.01).all()
    by_domain = clicks.reshape(len(DOMAINS), -1)
    assert all(np.abs(a - b).mean() > 0.01 for a, b in pairwise(by_domain))


def test_the_store_holds_users_of_each_number_of_clusters(reference):
    snapshot = read_snapshot_ref(reference.registry, reference_model.LINE)
    ids = [user.user_id for user in reference.users()]

    found = asyncio.run(read_users(f"embedded://{reference.store}", snapshot.snapshot_id, ids))

    assert [user.clusters_count for user in found] == [c for c in CLUSTERS_COUNTS for _ in range(USERS_COUNT)]
    assert all(user.features for user in found)
    assert all(decode_snapshot(user.snapshot).at_ms < ASKED_AT_MS for user in found)


def test_no_two_requests_are_alike_and_users_and_domains_take_turns(reference):
    workload = reference.workload(n=100, c=200, asks_count=96)

    bodies = [orjson.loads(ask.body) for ask in workload.asks]
    assert len({ask.body for ask in workload.asks}) == 96
    assert len({body["user_id"] for body in bodies}) == USERS_COUNT
    assert {ask.domain for ask in workload.asks} == set(DOMAINS)
    assert all(
        body["context"]["domain"] == ask.domain for body, ask in zip(bodies, workload.asks, strict=True)
    )
    for body in bodies:
        assert len(set(body["candidates"])) == 100
        assert set(body["candidates"]) <= set(reference.item_ids)


def test_the_same_arguments_write_the_same_version(reference, tmp_path):
    again = Reference(tmp_path, items_count=reference.items_count)
    again.write()

    assert again.version == reference.version


def test_a_folder_is_written_once_and_anew_where_other_arguments_wrote_it(reference, tmp_path):
    assert reference.is_written
    assert not replace(reference, items_count=2_000).is_written
    assert not replace(reference, folder=tmp_path).is_written


def test_a_graph_that_scores_otherwise_than_torch_is_not_put_in_force(tmp_path, monkeypatch):
    torch_logits = reference_model._torch_logits
    monkeypatch.setattr(reference_model, "_torch_logits", lambda *a: torch_logits(*a) + 1e-3)
    other = Reference(tmp_path, items_count=100)

    with pytest.raises(StageError, match="differ"):
        other.write()

    assert not other.is_written
