"""The item encoder: rows of the widths of the tables, and what a graph may not do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save_model

from service.contract.artefact import ITEM_ENCODER_FILE
from service.contract.errors import ArtefactError
from service.contract.served_inputs import ITEM_BY_DOMAIN, ITEM_FEATURE_IDS, ITEM_SHARED, ItemTables
from service.errors import ScoringError
from service.models.item_encoder import ItemEncoder

DOMAINS_COUNT = 3
FEATURES_COUNT = 2
IDS = np.array([[1, 5], [0, 7]])


def tables(shared: int, by_domain: int) -> ItemTables:
    """Return tables of two rows and some widths."""
    return ItemTables(
        rows=np.zeros(1, np.int32),
        shared=np.zeros((2, shared), np.float32),
        by_domain=np.zeros((DOMAINS_COUNT, 2, by_domain), np.float32),
        history={},
        match_keys=np.zeros((2, 0), np.int32),
    )


def write(folder: Path, outputs: Mapping[str, int], *, ids: str = ITEM_FEATURE_IDS) -> Path:
    """Write a graph that gives the ids themselves under the name of each output; returns the folder.

    An output's declared width is told; that of the ids is FEATURES_COUNT, in every domain.
    """
    shapes = {ITEM_SHARED: ["K"], ITEM_BY_DOMAIN: [DOMAINS_COUNT, "K"]}
    nodes = [helper.make_node("Cast", [ids], ["plain"], to=TensorProto.FLOAT)]
    if ITEM_SHARED in outputs:
        nodes.append(helper.make_node("Identity", ["plain"], [ITEM_SHARED]))
    if ITEM_BY_DOMAIN in outputs:
        nodes.append(helper.make_node("Unsqueeze", ["plain", "first"], ["one"]))
        nodes.append(helper.make_node("Concat", ["one"] * DOMAINS_COUNT, [ITEM_BY_DOMAIN], axis=0))
    graph = helper.make_graph(
        nodes,
        "items",
        [helper.make_tensor_value_info(ids, TensorProto.INT64, ["K", FEATURES_COUNT])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [*shapes[name], width])
            for name, width in outputs.items()
        ],
        [helper.make_tensor("first", TensorProto.INT64, [1], [0])],
    )
    opsets = [helper.make_opsetid("", 17)]
    save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / ITEM_ENCODER_FILE)
    return folder


def test_rows_are_those_of_the_graph(tmp_path: Path) -> None:
    both = {ITEM_BY_DOMAIN: 2, ITEM_SHARED: 2}  # in any order
    shared, by_domain = ItemEncoder(write(tmp_path, both), tables(2, 2)).rows_of(IDS)
    assert shared.tolist() == IDS.tolist()
    assert by_domain.tolist() == [IDS.tolist()] * DOMAINS_COUNT


@pytest.mark.parametrize(("name", "widths"), [(ITEM_SHARED, (2, 0)), (ITEM_BY_DOMAIN, (0, 2))])
def test_a_table_of_no_width_needs_no_output(tmp_path: Path, name: str, widths: tuple[int, int]) -> None:
    shared, by_domain = ItemEncoder(write(tmp_path, {name: 2}), tables(*widths)).rows_of(IDS)
    assert shared.shape == (2, widths[0]) and by_domain.shape == (DOMAINS_COUNT, 2, widths[1])
    assert max(shared.sum(), by_domain.sum()) > 0


@pytest.mark.parametrize("widths", [(3, 2), (2, 3), (0, 2), (2, 0)])
def test_rows_of_other_widths_than_the_tables_are_no_artefact(
    tmp_path: Path, widths: tuple[int, int]
) -> None:
    folder = write(tmp_path, {ITEM_SHARED: 2, ITEM_BY_DOMAIN: 2})
    with pytest.raises(ArtefactError, match=r"item_encoder\.onnx: its rows are not those of the item tables"):
        ItemEncoder(folder, tables(*widths))


def test_another_input_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="its rows are not those"):
        ItemEncoder(write(tmp_path, {ITEM_SHARED: 2}, ids="ids"), tables(2, 0))


def test_an_artefact_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"item_encoder\.onnx: ONNX Runtime .* does not load it"):
        ItemEncoder(tmp_path, tables(2, 0))


def test_a_graph_that_fails_is_an_error_of_ours(tmp_path: Path) -> None:
    encoder = ItemEncoder(write(tmp_path, {ITEM_SHARED: 2}), tables(2, 0))
    with pytest.raises(ScoringError, match="item encoder failed"):
        encoder.rows_of(np.zeros((2, FEATURES_COUNT + 1), np.int64))
