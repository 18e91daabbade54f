"""The written graph at the edges: a dataset of one domain and one task, whose candidates have no features."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from service.contract.artefact import SCORER_WEIGHTS_FILE, SEARCH_FILE, scorer_file
from service.contract.features import Side
from service.contract.manifest import SearchSpec, TaskSpec
from service.contract.search import with_kept
from tests.suites.models.built import SMALL, feeds_of, furthest, item_tables
from tests.support.synthetic_encoded import tiny_encoded
from training.config import ModelConfig
from training.data.encoded import COUNTED_SIDES
from training.export.onnx_file import EXTERNAL_BYTES_MIN, OPSET, write_by_domain, write_onnx, write_search
from training.export.parity import LOGIT_DIFFERENCE_LIMIT, draw_cases, reference_logits
from training.export.served_scorer import DOMAIN, INPUT_NAMES, ServedScorer
from training.model import CtrModel


def test_one_domain_one_task_and_no_candidate_features(tmp_path: Path) -> None:
    data = tiny_encoded(tmp_path)[1]
    unread = (Side.CANDIDATE, *COUNTED_SIDES)
    data = data.restricted_to(tuple(f for f in data.features if f.side not in unread))
    data = replace(
        data,
        domains=("home",),
        domain=np.zeros_like(data.domain),
        labels=data.labels[:, :1],
    )
    config = ModelConfig.model_validate(
        {
            "backbone": {"name": "star", **SMALL["star"]},
            "interests": [{"name": "twin_v2", **SMALL["twin_v2"], "keep": 5}],
            "embedding_width": 3,
        }
    )
    model = CtrModel(
        config,
        features=data.features,
        item_ids=torch.from_numpy(data.item_ids),
        domains_count=1,
        tasks_count=1,
        logit_columns=1,
    )
    scorer = ServedScorer(model, (TaskSpec(name="click"),), 1).eval()
    content = scorer.item_tables(model, data.features)
    levels = [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")]
    folder = tmp_path / "exported"
    inputs = write_onnx(folder, scorer, content, domains=data.domains)
    searches = write_search(folder, scorer, content)
    assert levels == [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")]

    path = folder / scorer_file("home")
    graph = onnx.load(str(path))
    assert {o.domain: o.version for o in graph.opset_import}[""] == OPSET
    assert [o.name for o in graph.graph.output] == ["logit", "probability"]
    assert set(inputs) <= set(INPUT_NAMES) - {DOMAIN} | {"kept_twin_v2"}
    assert {"user_ids", "item_shared", "cluster_item", "cluster_size", "kept_twin_v2"} <= set(inputs)
    assert not [name for name in inputs if name.startswith(("recent", "behavior"))]  # which no module reads
    assert inputs == tuple(value.name for value in graph.graph.input)
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert written == {"scorer/home.onnx", SCORER_WEIGHTS_FILE, SEARCH_FILE}  # nothing beside them

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    search = onnxruntime.InferenceSession(folder / SEARCH_FILE, providers=["CPUExecutionProvider"])
    assert searches is not None and searches.each == (
        SearchSpec(interest="twin_v2", part="clusters", keep=5, newest_first=False),
    )
    tables = item_tables(content)
    pairs = []
    for case in draw_cases(data, rows_min=1, rng=np.random.default_rng(0)):
        feeds = with_kept(feeds_of(data, tables, case), searches, search.run)
        logit = session.run(["logit"], {name: feeds[name] for name in inputs})[0]
        pairs.append((logit, reference_logits(model, data, case)))
    assert furthest(iter(pairs)) <= LOGIT_DIFFERENCE_LIMIT


DOMAINS = ("mailer", "display", "both")


def picking(width: int) -> onnx.ModelProto:
    """Return a graph of all domains: its input plus the domain's number, by a table (3, width)."""
    table = np.arange(len(DOMAINS), dtype=np.float32)[:, None] * np.ones(width, np.float32)
    value = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", DOMAIN], ["own"]),
            helper.make_node("Add", ["x", "own"], ["y"]),
        ],
        "picking",
        [
            helper.make_tensor_value_info("x", value, ["N", width]),
            helper.make_tensor_value_info(DOMAIN, TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", value, ["N", width])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("width", [1, EXTERNAL_BYTES_MIN])
def test_each_domains_graph_is_that_of_all_with_the_domain_told(tmp_path: Path, width: int) -> None:
    assert write_by_domain(tmp_path, picking(width), DOMAINS) == ("x",)
    x = np.full((2, width), 0.5, np.float32)
    for number, domain in enumerate(DOMAINS):
        path = tmp_path / scorer_file(domain)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], x + number)


@pytest.mark.parametrize(("width", "weights_bytes"), [(1, 0), (EXTERNAL_BYTES_MIN, 12 * EXTERNAL_BYTES_MIN)])
def test_large_weights_are_in_a_file_that_all_graphs_share_and_all_may_read(
    tmp_path: Path, width: int, weights_bytes: int
) -> None:
    write_by_domain(tmp_path, picking(width), DOMAINS)
    weights = tmp_path / SCORER_WEIGHTS_FILE
    assert (weights.stat().st_size, weights.stat().st_mode & 0o777) == (weights_bytes, 0o644)
    assert sorted(weights.parent.iterdir()) == sorted(
        [weights, *(tmp_path / scorer_file(d) for d in DOMAINS)]
    )
    assert all((tmp_path / scorer_file(d)).stat().st_size < EXTERNAL_BYTES_MIN for d in DOMAINS)


def test_a_file_of_the_weights_name_where_the_process_runs_is_nothing_to_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / Path(SCORER_WEIGHTS_FILE).name
    own.write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    write_by_domain(tmp_path / "exported", picking(EXTERNAL_BYTES_MIN), DOMAINS)
    assert own.read_bytes() == b"mine"
    assert (tmp_path / "exported" / SCORER_WEIGHTS_FILE).stat().st_size > 0
