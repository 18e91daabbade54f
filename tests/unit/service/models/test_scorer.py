"""The scorer: what a graph may not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save_model

from service.contract.artefact import SEARCH_FILE, scorer_file
from service.contract.errors import ArtefactError
from service.contract.manifest import Manifest, Searches, SearchSpec
from service.contract.search import kept_input, ranks_output
from service.contract.served_inputs import CLUSTER_ITEM, ITEM_SHARED, PROBABILITY, USER_IDS
from service.errors import ScoringError
from service.models.scorer import Scorer
from tests.support.known_artefact import make_catalogue
from tests.support.known_registry import CATALOGUE_ITEMS, STAR

DOMAIN = "mailer"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    written = STAR.write(tmp_path / "known", make_catalogue(CATALOGUE_ITEMS))
    return written.model_copy(update={"graph_inputs": (ITEM_SHARED,), "domains": (DOMAIN,)})


def graph(folder: Path, operator: str, *, output: str = PROBABILITY, domain: str = DOMAIN) -> Path:
    """Write a domain's graph of one operator from (N, W) to its output; returns the artefact's folder."""
    node = helper.make_node(operator, [ITEM_SHARED], [output])
    value = TensorProto.FLOAT
    made = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(ITEM_SHARED, value, ["N", "W"])],
        [helper.make_tensor_value_info(output, value, None)],
    )
    path = folder / scorer_file(domain)
    path.parent.mkdir(exist_ok=True)
    save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return folder


def threads() -> set[str]:
    """Return the threads that this process has, those of libraries too."""
    return {path.name for path in Path("/proc/self/task").iterdir()}


def shared(*values: float) -> dict[str, np.ndarray]:
    return {ITEM_SHARED: np.array([values], np.float32)}


def test_feeds_that_the_graph_lacks_are_left_out(tmp_path: Path, manifest: Manifest) -> None:
    scorer = Scorer(graph(tmp_path, "Identity"), manifest)
    feeds = {**shared(0.25, 0.5), USER_IDS: np.array([[0]])}
    assert scorer.run(DOMAIN, feeds).tolist() == [[0.25, 0.5]]


def test_its_threads_are_as_many_as_told_and_none_unless_told(tmp_path: Path, manifest: Manifest) -> None:
    """Of n threads, one is the caller's own."""
    folder = graph(tmp_path, "Identity")

    def threads_made(**told: int) -> int:
        before = threads()
        scorer = Scorer(folder, manifest, **told)
        made = len(threads() - before)
        assert scorer.run(DOMAIN, shared(0.25, 0.5)).tolist() == [[0.25, 0.5]]
        return made

    assert [threads_made(), threads_made(threads_count=1), threads_made(threads_count=3)] == [0, 0, 2]


def test_a_request_is_scored_by_the_graph_of_its_domain(tmp_path: Path, manifest: Manifest) -> None:
    for domain, operator in (("mailer", "Identity"), ("display", "Sigmoid")):
        graph(tmp_path, operator, domain=domain)
    scorer = Scorer(tmp_path, manifest.model_copy(update={"domains": ("mailer", "display")}))
    assert scorer.run("mailer", shared(0.0, 0.25)).tolist() == [[0.0, 0.25]]
    assert scorer.run("display", shared(0.0, 0.0)).tolist() == [[0.5, 0.5]]


def test_a_domain_without_a_graph_is_no_artefact(tmp_path: Path, manifest: Manifest) -> None:
    graph(tmp_path, "Identity")
    with pytest.raises(ArtefactError, match=r"display\.onnx: ONNX Runtime .* does not load it"):
        Scorer(tmp_path, manifest.model_copy(update={"domains": (DOMAIN, "display")}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_probability_that_is_no_number_is_an_error(
    tmp_path: Path, manifest: Manifest, value: float
) -> None:
    with pytest.raises(ScoringError, match="no number"):
        Scorer(graph(tmp_path, "Identity"), manifest).run(DOMAIN, shared(0.5, value))


def test_an_answer_of_another_shape_is_an_error(tmp_path: Path, manifest: Manifest) -> None:
    for operator, values in (("Identity", (0.5,)), ("Transpose", (0.5, 0.5))):
        with pytest.raises(ScoringError, match="shape"):
            Scorer(graph(tmp_path, operator), manifest).run(DOMAIN, shared(*values))


def test_a_graph_that_fails_is_an_error_of_ours(tmp_path: Path, manifest: Manifest) -> None:
    scorer = Scorer(graph(tmp_path, "Identity"), manifest)
    with pytest.raises(ScoringError, match="failed"):
        scorer.run(DOMAIN, {ITEM_SHARED: np.zeros(3, np.float32)})


def test_a_graph_without_probabilities_is_no_artefact(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ArtefactError, match="inputs and outputs"):
        Scorer(graph(tmp_path, "Identity", output="other"), manifest)


def test_a_graph_with_other_inputs_than_stated_is_no_artefact(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ArtefactError, match="inputs and outputs"):
        Scorer(graph(tmp_path, "Identity"), manifest.model_copy(update={"graph_inputs": (USER_IDS,)}))


TWIN = SearchSpec(interest="twin", part="clusters", keep=2, newest_first=False)


def searching(folder: Path, manifest: Manifest) -> Manifest:
    """Write a graph that ranks clusters by their product with a candidate, and one that sums those that are kept."""
    value, kept = TensorProto.FLOAT, kept_input(TWIN.interest)
    shared = helper.make_tensor_value_info(ITEM_SHARED, value, ["N", 1])
    clusters = helper.make_tensor_value_info(CLUSTER_ITEM, value, ["C", 1])
    search = helper.make_graph(
        [
            helper.make_node("Transpose", [CLUSTER_ITEM], ["row"]),
            helper.make_node("Mul", [ITEM_SHARED, "row"], ["products"]),
            helper.make_node("Unsqueeze", ["products", "first"], [ranks_output(TWIN.interest)]),
        ],
        "search",
        [shared, clusters],
        [helper.make_tensor_value_info(ranks_output(TWIN.interest), value, None)],
        [helper.make_tensor("first", TensorProto.INT64, [1], [0])],
    )
    scorer = helper.make_graph(
        [
            helper.make_node("Cast", [kept], ["share"], to=value),
            helper.make_node("MatMul", ["share", CLUSTER_ITEM], [PROBABILITY]),
        ],
        "scorer",
        [helper.make_tensor_value_info(kept, TensorProto.BOOL, ["N", "C"]), clusters],
        [helper.make_tensor_value_info(PROBABILITY, value, None)],
    )
    for made, name in ((search, SEARCH_FILE), (scorer, scorer_file(DOMAIN))):
        (folder / name).parent.mkdir(exist_ok=True)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save_model(model, folder / name)
    searches = Searches(each=(TWIN,), graph_inputs=(ITEM_SHARED, CLUSTER_ITEM))
    return manifest.model_copy(
        update={
            "graph_inputs": (kept, CLUSTER_ITEM),
            "searches": searches,
            "tasks": manifest.tasks[:1],
        }
    )


def test_a_candidate_is_scored_by_what_its_search_keeps(tmp_path: Path, manifest: Manifest) -> None:
    scorer = Scorer(tmp_path, searching(tmp_path, manifest))
    feeds = {
        ITEM_SHARED: np.array([[1.0], [-1.0], [0.0]], np.float32),
        CLUSTER_ITEM: np.array([[1.0], [4.0], [2.0], [0.0]], np.float32),
    }
    assert scorer.run(DOMAIN, feeds).tolist() == [[6.0], [1.0], [5.0]]
    feeds[CLUSTER_ITEM] = feeds[CLUSTER_ITEM][:2]
    assert scorer.run(DOMAIN, feeds).tolist() == [[5.0]] * 3


def test_a_search_that_fails_is_an_error_of_ours(tmp_path: Path, manifest: Manifest) -> None:
    scorer = Scorer(tmp_path, searching(tmp_path, manifest))
    with pytest.raises(ScoringError, match="failed"):
        scorer.run(
            DOMAIN, {ITEM_SHARED: np.zeros((1, 1), np.float32), CLUSTER_ITEM: np.zeros((9, 2), np.float32)}
        )


def test_a_search_without_its_graph_is_no_artefact(tmp_path: Path, manifest: Manifest) -> None:
    manifest = searching(tmp_path, manifest)
    (tmp_path / SEARCH_FILE).unlink()
    with pytest.raises(ArtefactError, match=r"search\.onnx: ONNX Runtime .* does not load it"):
        Scorer(tmp_path, manifest)


@pytest.mark.parametrize(
    "change", [{"graph_inputs": (ITEM_SHARED,)}, {"each": (TWIN.model_copy(update={"interest": "eta"}),)}]
)
def test_a_search_of_other_inputs_or_ranks_than_stated_is_no_artefact(
    tmp_path: Path, manifest: Manifest, change: dict[str, object]
) -> None:
    manifest = searching(tmp_path, manifest)
    assert manifest.searches is not None
    stated = manifest.model_copy(update={"searches": manifest.searches.model_copy(update=change)})
    with pytest.raises(ArtefactError, match=r"search\.onnx: its inputs and outputs"):
        Scorer(tmp_path, stated)
