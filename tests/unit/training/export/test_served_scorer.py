"""The served graph's composition: item tables over all rows and domains, and tasks given tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.contract.artefact import item_history_file
from service.contract.features import Side
from service.contract.manifest import TaskSpec
from service.contract.match import match_keys
from tests.suites.models.built import SMALL, TASKS, Choice, build, graph_inputs, item_tables
from tests.support.synthetic_encoded import tiny_encoded
from training.data.encoded import EncodedData
from training.export import served_scorer
from training.export.parity import reference_logits
from training.export.raw_requests import Case
from training.export.served_scorer import ServedScorer
from training.fit import probabilities

INTERESTS = tuple({"name": name, **SMALL[name]} for name in ("twin_v2", "short_term"))
STAR = Choice({"name": "star", **SMALL["star"]}, INTERESTS, 2)
PEPNET = Choice({"name": "pepnet", **SMALL["pepnet"]}, INTERESTS, 1)
ITEM_FEATURES = ("item_id", "category", "price")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return tiny_encoded(tmp_path_factory.mktemp("logs"))[1]


@pytest.mark.parametrize("choice", [STAR, PEPNET], ids=["star", "pepnet"])
def test_item_tables_have_a_row_per_item_whatever_the_chunks(
    choice: Choice, data: EncodedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(choice, data)
    scorer = ServedScorer(model, TASKS, 3)
    whole = scorer.item_tables(model, data.features)
    rows = len(data.item_ids)
    assert len(whole.shared) == rows and whole.by_domain.shape[:2] == (3, rows)
    assert {part: len(table) for part, table in whole.history.items()} == {"clusters": rows, "recents": rows}
    monkeypatch.setattr(served_scorer, "TABLE_CHUNK_ROWS", 7)
    pieces = scorer.item_tables(model, data.features)
    of_pieces = pieces.files()
    assert list(of_pieces) == list(whole.files())
    for name, table in whole.files().items():
        np.testing.assert_allclose(of_pieces[name], table, atol=1e-6)
        assert table.dtype in (np.float32, np.int32) and table.flags.c_contiguous
    expected = match_keys(("any", "item_id", "category"), data.item_ids, ITEM_FEATURES)
    assert whole.match_keys.tolist() == pieces.match_keys.tolist() == expected.tolist()
    assert len(np.unique(expected[:, 1])) == rows and len(np.unique(expected[:, 2])) == 6


def test_keys_are_of_the_levels_that_a_model_reads(data: EncodedData) -> None:
    less = data.restricted_to(tuple(f for f in data.features if not f.name.startswith("match_any")))
    model = build(STAR, less)
    keys = ServedScorer(model, TASKS, 3).item_tables(model, less.features).match_keys
    assert keys.tolist() == match_keys(("item_id", "category"), data.item_ids, ITEM_FEATURES).tolist()
    none = data.restricted_to(tuple(f for f in data.features if f.side is not Side.MATCH))
    model = build(STAR, none)
    keys = ServedScorer(model, TASKS, 3).item_tables(model, none.features).match_keys
    assert keys.shape == (len(data.item_ids), 0)


def test_a_backbone_without_columns_by_domain_has_a_table_of_no_width(data: EncodedData) -> None:
    model = build(PEPNET, data)
    by_domain = ServedScorer(model, TASKS, 3).item_tables(model, data.features).by_domain
    assert by_domain.shape == (3, len(data.item_ids), 0)


def test_histories_have_tables_of_the_parts_that_are_read_and_modules_of_a_part_share_one(
    data: EncodedData,
) -> None:
    alone = build(STAR, data)
    together = build(
        replace(STAR, interests=(*INTERESTS, {**INTERESTS[0], "name": "twin", "part": "clusters"})), data
    )
    for model, readers in (
        (alone, {"clusters": ["twin_v2"], "recents": ["short_term"], "behaviors": []}),
        (together, {"clusters": ["twin_v2", "twin"], "recents": ["short_term"], "behaviors": []}),
        (build(replace(STAR, interests=()), data), {"clusters": [], "recents": [], "behaviors": []}),
    ):
        scorer = ServedScorer(model, TASKS, 3)
        assert {part: scorer.readers(part) for part in readers} == readers
        content = scorer.item_tables(model, data.features)
        assert {part for part in readers if item_history_file(part) in content.files()} == set(
            content.history
        )
        with torch.inference_mode():
            embedding = model.embed_items(torch.arange(len(data.item_ids)))
            expected = {
                part: torch.cat([scorer.interests[name].history_columns(embedding) for name in names], dim=-1)
                for part, names in readers.items()
                if names
            }
        assert set(content.history) == set(expected)
        for part, table in expected.items():
            np.testing.assert_allclose(content.history[part], table.numpy(), atol=1e-6)


def test_probabilities_multiply_along_a_chain_of_given_tasks(data: EncodedData) -> None:
    model = build(STAR, data)
    feeds_from = item_tables(ServedScorer(model, TASKS, 3).item_tables(model, data.features))
    inputs = graph_inputs(data, feeds_from, Case(0, np.arange(9)))
    alone = (TaskSpec(name="click"), TaskSpec(name="buy"))
    with torch.inference_mode():
        logit, p = ServedScorer(model, TASKS, 3)(**inputs)
        same_logit, independent = ServedScorer(model, alone, 3)(**inputs)
    assert torch.equal(logit, same_logit)
    torch.testing.assert_close(independent, torch.sigmoid(logit))
    torch.testing.assert_close(p[:, 0], independent[:, 0])
    torch.testing.assert_close(p[:, 1], independent[:, 0] * independent[:, 1])


def test_a_direct_task_is_served_no_likelier_than_its_condition(data: EncodedData) -> None:
    model = build(STAR, data)
    feeds_from = item_tables(ServedScorer(model, TASKS, 3).item_tables(model, data.features))
    inputs = graph_inputs(data, feeds_from, Case(0, np.arange(60)))
    direct = (TASKS[0], TASKS[1].model_copy(update={"entire_space": "direct"}))
    with torch.inference_mode():
        logit, p = ServedScorer(model, direct, 3)(**inputs)
    own = torch.sigmoid(logit)
    assert 0 < int((own[:, 1] > own[:, 0]).sum()) < len(own)
    torch.testing.assert_close(p[:, 0], own[:, 0])
    torch.testing.assert_close(p[:, 1], own.amin(1))
    np.testing.assert_allclose(p.numpy(), probabilities(logit.numpy(), direct), atol=1e-6)


def test_making_a_scorer_leaves_the_model_ready_to_predict(data: EncodedData) -> None:
    model = build(STAR, data).train()
    ServedScorer(model, TASKS, 3)
    assert not model.training


@pytest.mark.parametrize(
    "backbone", ["mlp", "shared_bottom", "mmoe", "ple", "star", "crocodile", "pepnet", "dcnv2"]
)
def test_maps_that_interests_end_with_go_into_the_first_layers_where_they_can(
    backbone: str, data: EncodedData
) -> None:
    """Folded, a module gives what its heads mixed, and the logits are the model's own all the same."""
    interests = (
        {"name": "twin_v2", **SMALL["twin_v2"], "mass": True, "out_width": 9},
        {"name": "eta", **SMALL["eta"], "out_width": 9, "keep": None},
        {"name": "mean_pooling", **SMALL.get("mean_pooling", {})},
    )
    model = build(Choice({"name": backbone, **SMALL[backbone]}, interests, 2), data)
    scorer = ServedScorer(model, TASKS, 3).eval()
    ends = {name: module.ends_in_map for name, module in scorer.interests.items()}
    foldable = {name for name, module in scorer.interests.items() if module.last_map() is not None}
    assert foldable
    linear = backbone not in ("pepnet", "dcnv2")
    assert ends == {name: not (linear and name in foldable) for name in ends}
    tables = item_tables(scorer.item_tables(model, data.features))
    case = Case(0, np.arange(9))
    with torch.inference_mode():
        logit, _ = scorer(**graph_inputs(data, tables, case))
    np.testing.assert_allclose(logit.numpy(), reference_logits(model, data, case), atol=5e-4, rtol=1e-4)
