"""The written graph at the edges: a dataset of one domain and one task, whose candidates have no features."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from service.contract.features import Side
from service.contract.manifest import TaskSpec
from tests.suites.models.built import SMALL, feeds_of, furthest, item_tables
from tests.support.synthetic_encoded import tiny_encoded
from training.config import ModelConfig
from training.data.encoded import COUNTED_SIDES
from training.export.onnx_file import OPSET, write_onnx
from training.export.parity import LOGIT_DIFFERENCE_LIMIT, draw_cases, reference_logits
from training.export.served_scorer import INPUT_NAMES, ServedScorer
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
            "interests": [{"name": "twin_v2", **SMALL["twin_v2"], "keep": 50}],
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
    user_features = sum(f.side in (Side.USER, Side.CONTEXT) for f in data.features)
    path = tmp_path / "scorer.onnx"
    inputs = write_onnx(path, scorer, content, user_features=user_features, candidate_features=0)
    assert levels == [logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")]

    graph = onnx.load(str(path))
    assert {o.domain: o.version for o in graph.opset_import}[""] == OPSET
    assert [o.name for o in graph.graph.output] == ["logit", "probability"]
    assert set(inputs) <= set(INPUT_NAMES)
    assert {"user_ids", "item_shared", "cluster_item", "cluster_size"} <= set(inputs)
    assert not [name for name in inputs if name.startswith(("recent", "behavior"))]  # which no module reads
    assert inputs == tuple(value.name for value in graph.graph.input)
    assert [p.name for p in tmp_path.glob("scorer*")] == ["scorer.onnx"]  # nothing beside it

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tables = item_tables(content)
    pairs = []
    for case in draw_cases(data, rows_min=1, rng=np.random.default_rng(0)):
        feeds = feeds_of(data, tables, case)
        logit = session.run(["logit"], {name: feeds[name] for name in inputs})[0]
        pairs.append((logit, reference_logits(model, data, case)))
    assert furthest(iter(pairs)) <= LOGIT_DIFFERENCE_LIMIT
