from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch

from service.contract.features import CategoricalEncoder, FeatureSpec, Side
from service.contract.manifest import TaskSpec
from training.config import ModelConfig
from training.data.batch import Batch, PartIds
from training.export.training_graph import TrainingGraph, write_training_graph
from training.model import CtrModel
from training.modules.split import RowLayout

TASKS = (TaskSpec(name="click"), TaskSpec(name="multi", given="click"))
DOMAINS_COUNT, ITEMS_COUNT, VALUES_COUNT = 3, 20, 6
BEHAVIORS = {"name": "din", "hidden": [4], "last": 80, "part": "behaviors"}


@pytest.fixture(scope="module")
def model():
    """STAR over a module for each part of the history, with statistics and parameters of every domain its own."""
    torch.manual_seed(0)
    encoder = CategoricalEncoder(values=tuple("abcde"))
    sides = {"user_id": Side.USER, "store": Side.CONTEXT, "place": Side.CANDIDATE, "item_id": Side.ITEM}
    config = ModelConfig.model_validate(
        {
            "backbone": {"name": "star", "hidden": [8]},
            "interests": [
                {"name": "twin_v2", "heads": 2, "head_width": 4},
                {"name": "short_term"},
                BEHAVIORS,
            ],
            "embedding_width": 4,
        }
    )
    built = CtrModel(
        config,
        features=tuple(FeatureSpec(name=n, side=side, encoder=encoder) for n, side in sides.items()),
        item_ids=torch.randint(VALUES_COUNT, (ITEMS_COUNT, 1)),
        domains_count=DOMAINS_COUNT,
        tasks_count=len(TASKS),
        logit_columns=2,
    )
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        built.backbone.norm.running_mean.normal_()
        built.backbone.norm.running_var.uniform_(0.5, 2.0)
    return built.eval()


def parts_of(rng, **lengths):
    """Return item rows, size, age and strength of each part; a part of length 0 is one row of size 0."""
    return {
        name: (
            rng.integers(ITEMS_COUNT, size=max(1, length)),
            rng.integers(1, 30, size=length).astype(np.float32) if length else np.zeros(1, np.float32),
            rng.integers(10, size=max(1, length)),
            rng.integers(10, size=max(1, length)),
        )
        for name, length in lengths.items()
    }


def repeated(request, rows):
    """Return the graph's inputs of a request."""
    inputs = {
        "item": request["item"],
        "candidate_ids": request["candidate_ids"],
        "user_ids": np.repeat(request["user_ids"], rows, axis=0),
        "domain": np.repeat(request["domain"], rows),
    }
    for name, (item, *columns) in request["parts"].items():
        inputs[f"{name}_item"] = item
        inputs[f"{name}_index"] = np.tile(np.arange(len(item)), (rows, 1))
        for column, values in zip(("size", "age", "strength"), columns, strict=True):
            inputs[f"{name}_{column}"] = np.tile(values, (rows, 1))
    return inputs


def once(model, request, rows):
    """Return probabilities by the training forward on one request with N rows that share all of it."""

    def part(item, size, age, strength):
        index = torch.arange(len(item))[None]
        return PartIds(
            torch.from_numpy(item), index, *(torch.from_numpy(v)[None] for v in (size, age, strength))
        )

    zeros = torch.zeros(rows, dtype=torch.int64)
    batch = Batch(
        item=torch.from_numpy(request["item"]),
        candidate_ids=torch.from_numpy(request["candidate_ids"]),
        request=zeros,
        user_ids=torch.from_numpy(request["user_ids"]),
        domain=torch.from_numpy(request["domain"]),
        layout=RowLayout(zeros, torch.arange(rows), rows),
        parts={name: part(*columns) for name, columns in request["parts"].items()},
        labels=torch.zeros(rows),
        offset=torch.zeros(rows),
    )
    with torch.inference_mode():
        logits = model(batch).numpy()
    click, multi = (1 / (1 + np.exp(logits[:, task, 0] - logits[:, task, 1])) for task in (0, 1))
    return np.stack([click, click * multi], axis=1)


def request_of(seed, *, rows, domain, **lengths):
    rng = np.random.default_rng(seed)
    return {
        "item": rng.integers(ITEMS_COUNT, size=rows),
        "candidate_ids": rng.integers(VALUES_COUNT, size=(rows, 1)),
        "user_ids": rng.integers(VALUES_COUNT, size=(1, 2)),
        "domain": np.array([domain]),
        "parts": parts_of(rng, **lengths),
    }


CASES = [
    {"rows": 1, "clusters": 0, "recents": 0, "behaviors": 0, "domain": 0},
    {"rows": 7, "clusters": 1, "recents": 3, "behaviors": 1, "domain": 1},
    {"rows": 30, "clusters": 40, "recents": 9, "behaviors": 60, "domain": 2},
]


@pytest.mark.parametrize("case", CASES)
def test_rows_with_a_copy_each_score_as_rows_that_share_their_request(model, case):
    request = request_of(1, **case)
    inputs = {name: torch.from_numpy(v) for name, v in repeated(request, case["rows"]).items()}

    with torch.inference_mode():
        probability = TrainingGraph(model, TASKS)(**inputs).numpy()

    np.testing.assert_allclose(probability, once(model, request, case["rows"]), atol=1e-5)


@pytest.fixture(scope="module")
def session(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "training_graph.onnx"
    write_training_graph(path, model, TASKS)
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_written_graph_scores_as_the_training_forward(model, session, case):
    request = request_of(2, **case)

    (probability,) = session.run(["probability"], repeated(request, case["rows"]))

    np.testing.assert_allclose(probability, once(model, request, case["rows"]), atol=1e-5)
