"""Life cycles of more clusters than a model sees: what `verify` says of them, and what the store is given."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from service.contract.artefact import read_artefact, read_snapshot_ref
from service.contract.history import Snapshot, decode_snapshot
from service.stores import open_store
from service.stores.base import StoreSettings
from tests.support.pipelines import changed, copied, run
from training.config import PipelineConfig
from training.errors import StageError
from training.export import variants
from training.pipeline import steps_of
from training.workbench import Workbench

CLUSTERS_MAX = 3


@pytest.fixture
def config(
    finished_pipeline: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PipelineConfig:
    monkeypatch.setattr(variants, "AUC_DROP_LIMIT", 1.0)
    monkeypatch.setattr(variants, "PCOC_CHANGE_LIMIT", 1.0)
    limited = changed(copied(finished_pipeline, tmp_path), {"history.limits.clusters_max": CLUSTERS_MAX})
    return limited.model_copy(update={"models": {"pepnet": limited.models["pepnet"]}})


async def stored_snapshots(config: PipelineConfig, users: list[str]) -> dict[str, Snapshot]:
    ref = read_snapshot_ref(config.publish.registry, config.publish.snapshot_line)
    assert ref is not None
    store = await open_store(config.publish.store, StoreSettings())
    try:
        records = await store.read_users(users, ref.snapshot_id)
    finally:
        await store.close()
    return {
        user: decode_snapshot(record.snapshot or b"") for user, record in zip(users, records, strict=True)
    }


def test_the_manifest_says_how_near_scores_are_and_the_store_has_what_they_are_of(
    config: PipelineConfig,
) -> None:
    run(config)
    manifest = read_artefact(config.workspace / "verify" / "pepnet" / "artefact")
    found = manifest.sampled_life_cycles
    assert manifest.history.clusters_max == CLUSTERS_MAX
    assert found is not None and 0 < found.sampled_rows_count <= found.rows_count
    assert 0 < found.probability_difference_max < 0.5 and np.isfinite(found.log_odds_difference_max)

    bench = Workbench(config)
    whole = {
        user: decode_snapshot(blob) for user, blob in bench.snapshots.at(int(bench.snapshot_moments_ms[-1]))
    }
    assert any(len(snapshot.item) > CLUSTERS_MAX for snapshot in whole.values())
    stored = asyncio.run(stored_snapshots(config, list(whole)))
    for user, snapshot in whole.items():
        assert len(stored[user].item) <= CLUSTERS_MAX
        assert stored[user].size.sum() == snapshot.size.sum()


def test_a_sample_that_is_too_small_is_not_sealed(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "PCOC_CHANGE_LIMIT", -1.0)
    with pytest.raises(
        StageError, match=r"clusters_max = 3 clusters is too small.*Set it higher, or to null"
    ):
        run(config, *steps_of(config)[:-1])


def test_nothing_is_said_where_no_life_cycle_is_longer(finished_pipeline: PipelineConfig) -> None:
    manifest = read_artefact(finished_pipeline.workspace / "verify" / "pepnet" / "artefact")
    assert manifest.history.clusters_max == 1024
    assert manifest.sampled_life_cycles is None
