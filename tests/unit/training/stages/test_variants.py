"""What becomes of a variant in `export` and `verify`. These models are small: all their products are in 8 bits here."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import orjson
import pytest

from service.contract.artefact import read_artefact, scorer_file
from service.contract.golden import replay_golden
from service.contract.manifest import Manifest
from tests.support.pipelines import changed, copied, run
from training.config import PipelineConfig
from training.export import int8_file, variants
from training.export.raw_requests import RawRequests
from training.export.served_graph import ServedGraph
from training.export.variants import encoded_feeds, requests_of_test_weeks
from training.pipeline import Step
from training.progress import Progress
from training.workbench import Workbench

EXPORT, VERIFY = Step("export", "star"), Step("verify", "star")


@pytest.fixture
def config(
    finished_pipeline: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PipelineConfig:
    monkeypatch.setattr(int8_file, "WEIGHTS_MIN", 1)
    monkeypatch.setattr(int8_file, "COLUMNS_MIN", 1)
    return copied(finished_pipeline, tmp_path)


def sealed_with(config: PipelineConfig, limit: float, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Export and verify with a gate of this limit, and return what was sealed."""
    monkeypatch.setattr(variants, "AUC_DROP_LIMIT", limit)
    monkeypatch.setattr(variants, "PCOC_CHANGE_LIMIT", limit)
    run(config, EXPORT, VERIFY, force=True)
    return read_artefact(artefact_of(config))


def artefact_of(config: PipelineConfig) -> Path:
    return config.workspace / "verify" / "star" / "artefact"


def test_one_that_passes_is_carried_says_how_near_it_came_and_replays(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = sealed_with(config, math.inf, monkeypatch)
    (variant,) = manifest.variants
    bench = Workbench(config)
    data = bench.encoded_for(config.models["star"], Progress(stage="test", quiet=True))
    assert variant.precision == "int8"
    assert variant.rows_count == len(data.rows_of(data.visits_of("test")))
    assert 0 < variant.probability_difference_max < 0.2
    assert {scorer_file(domain, "int8") for domain in manifest.domains} < set(manifest.files)
    (report,) = orjson.loads((artefact_of(config) / "report" / "variants.json").read_bytes())
    assert report["refused"] == [] and report["dependence_max"] <= 1e-4
    graph = ServedGraph(artefact_of(config), bench.catalogue, manifest, "int8")
    replayed = replay_golden(
        artefact_of(config),
        manifest=manifest,
        catalogue=bench.catalogue,
        encoder=graph.encoder,
        run=graph.probabilities,
        precision="int8",
    )
    assert replayed >= 25


def test_one_that_does_not_is_left_out_and_fp32_is_sealed(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = sealed_with(config, -1.0, monkeypatch)
    assert manifest.variants == ()
    graphs = {name for name in manifest.files if name.startswith("scorer/") and name.endswith(".onnx")}
    assert graphs == {scorer_file(domain) for domain in manifest.domains}
    (report,) = orjson.loads((artefact_of(config) / "report" / "variants.json").read_bytes())
    assert len(report["refused"]) == 2 and all("the limit is -1e+00" in line for line in report["refused"])


def test_none_is_tried_where_none_is_asked_for(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = changed(config, {"export.variants": []})
    assert sealed_with(without, math.inf, monkeypatch).variants == ()


def test_tensors_from_ids_are_those_from_raw_requests(finished_pipeline: PipelineConfig) -> None:
    bench = Workbench(finished_pipeline)
    data = bench.encoded_for(finished_pipeline.models["star"], Progress(stage="test", quiet=True))
    folder = artefact_of(finished_pipeline)
    graph = ServedGraph(folder, bench.catalogue, read_artefact(folder))
    raw = RawRequests(bench, data)
    cases = requests_of_test_weeks(data, rows_max=200, rng=np.random.default_rng(0))
    assert len(cases) > 5
    for case in cases:
        ours = encoded_feeds(graph.encoder.tables, data, bench.catalogue_ids, case)
        theirs = graph.feeds(raw.request_of(case))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            np.testing.assert_array_equal(tensor, theirs[name], name)
