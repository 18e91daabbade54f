"""The scorer: what a graph may not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save_model

from service.contract.artefact import SCORER_FILE
from service.contract.errors import ArtefactError
from service.contract.manifest import Manifest
from service.contract.served_inputs import DOMAIN, ITEM_SHARED, PROBABILITY
from service.errors import ScoringError
from service.models.scorer import Scorer
from tests.support.known_artefact import make_catalogue
from tests.support.known_registry import CATALOGUE_ITEMS, STAR


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    written = STAR.write(tmp_path / "known", make_catalogue(CATALOGUE_ITEMS))
    return written.model_copy(update={"graph_inputs": (ITEM_SHARED,)})


def graph(folder: Path, operator: str, *, output: str = PROBABILITY) -> Path:
    """Write a graph of one operator from (N, W) to its output."""
    node = helper.make_node(operator, [ITEM_SHARED], [output])
    value = TensorProto.FLOAT
    made = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(ITEM_SHARED, value, ["N", "W"])],
        [helper.make_tensor_value_info(output, value, None)],
    )
    save_model(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        folder / SCORER_FILE,
    )
    return folder


def shared(*values: float) -> dict[str, np.ndarray]:
    return {ITEM_SHARED: np.array([values], np.float32)}


def test_feeds_that_the_graph_lacks_are_left_out(tmp_path: Path, manifest: Manifest) -> None:
    scorer = Scorer(graph(tmp_path, "Identity"), manifest)
    feeds = {**shared(0.25, 0.5), DOMAIN: np.array([0])}
    assert scorer.run(feeds).tolist() == [[0.25, 0.5]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_probability_that_is_no_number_is_an_error(
    tmp_path: Path, manifest: Manifest, value: float
) -> None:
    with pytest.raises(ScoringError, match="no number"):
        Scorer(graph(tmp_path, "Identity"), manifest).run(shared(0.5, value))


def test_an_answer_of_another_shape_is_an_error(tmp_path: Path, manifest: Manifest) -> None:
    for operator, values in (("Identity", (0.5,)), ("Transpose", (0.5, 0.5))):
        with pytest.raises(ScoringError, match="shape"):
            Scorer(graph(tmp_path, operator), manifest).run(shared(*values))


def test_a_graph_that_fails_is_an_error_of_ours(tmp_path: Path, manifest: Manifest) -> None:
    scorer = Scorer(graph(tmp_path, "Identity"), manifest)
    with pytest.raises(ScoringError, match="failed"):
        scorer.run({ITEM_SHARED: np.zeros(3, np.float32)})


def test_a_graph_without_probabilities_is_no_artefact(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ArtefactError, match="inputs and outputs"):
        Scorer(graph(tmp_path, "Identity", output="other"), manifest)


def test_a_graph_with_other_inputs_than_stated_is_no_artefact(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ArtefactError, match="inputs and outputs"):
        Scorer(graph(tmp_path, "Identity"), manifest.model_copy(update={"graph_inputs": (DOMAIN,)}))
