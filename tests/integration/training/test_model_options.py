"""Options of a model that change what its logits mean: what is sealed serves what was evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from service.contract.artefact import read_artefact
from service.contract.golden import read_golden
from tests.support.pipelines import changed, copied, run
from training.config import PipelineConfig
from training.errors import ConfigError
from training.fit import predict, probabilities
from training.metrics.natural import natural_weights, pcoc
from training.pipeline import PER_MODEL, Step
from training.progress import Progress
from training.stages.evaluate import METRICS_FILE
from training.stages.train import load_model
from training.workbench import Workbench

MODEL = "pepnet"


def sealed(finished: PipelineConfig, folder: Path, options: dict[str, Any]) -> Workbench:
    """Train, evaluate, export and verify a model with some of its options changed."""
    config = copied(finished, folder)
    config = changed(config, {f"models.{MODEL}.{key}": value for key, value in options.items()})
    run(config, *(Step(stage, MODEL) for stage in PER_MODEL))
    return Workbench(config)


def click_pcoc(bench: Workbench, split: str) -> float:
    rows = orjson.loads((bench.done("evaluate", MODEL) / METRICS_FILE).read_bytes())
    found = [
        row["pcoc"]
        for row in rows
        if (row["split"], row["weighting"], row["domain"], row["task"]) == (split, "natural", "all", "click")
    ]
    assert len(found) == 1
    return float(found[0])


@pytest.mark.parametrize("name", ["platt", "isotonic"])
@pytest.mark.parametrize("per_domain", [False, True])
def test_a_calibrated_model_is_sealed_and_its_validation_total_is_right(
    finished_pipeline: PipelineConfig, tmp_path: Path, name: str, per_domain: bool
) -> None:
    calibration = {"name": name, "per_domain": per_domain, "positives_min": 10}
    bench = sealed(finished_pipeline, tmp_path, {"calibration": calibration})
    config = bench.config.models[MODEL]
    quiet = Progress(quiet=True)
    data = bench.encoded_for(config, quiet)
    trained = load_model(bench, MODEL, quiet)
    visits = data.visits_of("validation")
    p = probabilities(predict(trained, data, visits), bench.tasks)
    labels = data.labels[data.rows_of(visits), 0]
    weights = natural_weights(labels, data.keep_probability[data.rows_of(visits)])
    found = pcoc(labels, p[:, 0], weights)
    assert found is not None and found == pytest.approx(click_pcoc(bench, "validation"), rel=1e-5)
    assert found == pytest.approx(1.0, abs=1e-3 if name == "platt" else 0.2)
    trained.calibration = None
    assert (
        np.abs(predict(trained, data, visits) - predict(load_model(bench, MODEL, quiet), data, visits)).max()
        > 0
    )
    manifest = read_artefact(bench.done("verify", MODEL) / "artefact")
    assert manifest.parity.logit_difference_max <= manifest.parity.logit_difference_limit
    assert len(read_golden(bench.done("verify", MODEL) / "artefact")) >= 25


@pytest.mark.parametrize("form", ["product", "direct"])
@pytest.mark.parametrize("calibration", [None, {"name": "platt", "positives_min": 5}])
def test_every_form_of_a_given_task_is_sealed_and_served_as_evaluated(
    finished_pipeline: PipelineConfig, tmp_path: Path, form: str, calibration: dict[str, Any] | None
) -> None:
    """Golden requests hold the probabilities of torch and were replayed in ONNX Runtime before the seal."""
    bench = sealed(
        finished_pipeline,
        tmp_path,
        {"entire_space": form, "losses": {"default": "jrc"}, "calibration": calibration},
    )
    folder = bench.done("verify", MODEL) / "artefact"
    manifest = read_artefact(folder)
    assert [task.entire_space for task in manifest.tasks] == ["conditional", form]
    for request in read_golden(folder):
        p = np.array(request.probability)
        assert bool((p[:, 1] <= p[:, 0]).all()) and bool((p >= 0).all())


@pytest.mark.parametrize("mode", ["none", "neutral", "pal"])
def test_every_mode_of_presentation_is_sealed_and_serves_what_was_evaluated(
    finished_pipeline: PipelineConfig, tmp_path: Path, mode: str
) -> None:
    """Metrics of the manifest are those of predictions that the place does not change."""
    presentation = {"features": ["position"], "mode": mode}
    bench = sealed(finished_pipeline, tmp_path, {"presentation": presentation})
    quiet = Progress(quiet=True)
    data = bench.encoded_for(bench.config.models[MODEL], quiet)
    ids = data.candidate_ids.copy()
    if mode != "none":
        ids[:, 0] = 0
    placeless = replace(data, candidate_ids=ids)
    trained = load_model(bench, MODEL, quiet)
    visits = data.visits_of("test")
    p = probabilities(predict(trained, placeless, visits), bench.tasks)[:, 0]
    labels = data.labels[data.rows_of(visits), 0]
    weights = natural_weights(labels, data.keep_probability[data.rows_of(visits)])
    assert pcoc(labels, p, weights) == pytest.approx(click_pcoc(bench, "test"), rel=1e-5)
    manifest = read_artefact(bench.done("verify", MODEL) / "artefact")
    assert ("position" in {feature.name for feature in manifest.features}) == (mode != "none")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["positon"], "no candidate feature 'positon'; it has position"),
        (["country"], "no candidate feature 'country'"),
    ],
)
def test_presentation_of_what_is_no_feature_of_a_candidate_is_refused(
    finished_pipeline: PipelineConfig, features: list[str], message: str
) -> None:
    config = changed(
        finished_pipeline, {f"models.{MODEL}.presentation": {"features": features, "mode": "pal"}}
    )
    with pytest.raises(ConfigError, match=message):
        Workbench(config).features_of(config.models[MODEL])
