from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.made_up_counts import counting_calls
from benchmarks.made_up_request import (
    CANDIDATES_COUNT,
    DisagreementError,
    features,
    made_up_request,
    serve,
)
from benchmarks.report import placed
from benchmarks.results import write_results
from benchmarks.served_cost import AGAIN, BEGIN, END, STAR, Measured, choices, measure, rendered, rows_of
from training.config import ModelConfig
from training.plugins import plugin_names

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def measured(name, kind, calls=(), *, item_floats=1):
    return Measured(name, kind, item_floats, tuple(calls))


STAR_TWICE_AND_ANOTHER = [
    measured(STAR, "backbone", item_floats=17),
    measured(AGAIN, "backbone", item_floats=17),
    measured("twin", "interest", item_floats=10),
    measured("match", "counted", item_floats=0),
]


@pytest.fixture(scope="module", params=["mean_pooling", {"name": "twin_v2", "keep": 100}], ids=str)
def served(request, tmp_path_factory):
    config = ModelConfig.model_validate({"backbone": "mlp", "interests": [request.param]})
    return serve(config, tmp_path_factory.mktemp("graph"))


def test_all_backbones_and_interest_modules_are_measured_and_star_twice():
    found = choices()
    assert list(found)[:2] == [STAR, AGAIN] and found[STAR] == found[AGAIN]
    for kind, package in (("backbone", "training.backbones"), ("interest", "training.interest")):
        assert set(plugin_names(package)) <= {name for name, (of, _) in found.items() if of == kind}
    assert all(model.backbone.name == STAR for kind, model in found.values() if kind == "interest")


def test_a_request_has_an_id_of_every_feature():
    request = made_up_request(np.random.default_rng(0))
    by_side = {side: [f for f in features() if f.side == side] for side in ("user", "context", "item")}
    assert len(request.user_ids) == len(by_side["user"]) + len(by_side["context"])
    assert request.candidate_ids.shape[0] == len(request.item) == CANDIDATES_COUNT
    assert request.candidate_ids.shape[1] + len(request.user_ids) + len(by_side["item"]) == len(features())


def test_the_served_graph_scores_the_request_as_the_model_does(served):
    request = made_up_request(np.random.default_rng(0))
    served.check(request)
    served.check(request.first(1))


def test_a_graph_that_scores_otherwise_is_refused(served):
    request = made_up_request(np.random.default_rng(0))
    moved = replace(served.tables, shared=served.tables.shared + 1)
    with pytest.raises(DisagreementError):
        replace(served, tables=moved).check(request)


def test_every_model_is_called_as_often_and_none_always_after_the_same_one():
    called = []
    models = [measured(name, "backbone", [lambda name=name: called.append(name)] * 4) for name in "abc"]
    assert measure(models, rounds=12).shape == (12, 3, 4)
    assert len({called.count(name) for name in "abc"}) == 1
    after_a = {b for a, b in pairwise(called) if a == "a"}
    assert after_a == set("abc")


def test_figures_are_medians_and_ratios_are_taken_within_a_round():
    star = np.array([100.0, 200.0, 1000.0])  # a machine that slows down
    samples = np.stack(
        [np.stack([a, a / 10, a * 5, a / 4], axis=1) for a in (star, star * 1.02, star * 3, star / 2)], axis=1
    )
    samples[:, 3, 2:] = np.nan  # no model, no forward and no products

    rows = rows_of(STAR_TWICE_AND_ANOTHER, samples)

    assert [row["served_us"] for row in rows] == [200, 204, 600, 100]
    assert [row["over_star"] for row in rows] == [1, 1.02, 3, 0.5]
    assert [row["training_forward_us"] for row in rows] == [1000, 1020, 3000, None]
    assert rows[2]["over_star_quartiles"] == [3, 3] and rows[2]["added_us"] == 400
    assert rows[0]["one_candidate_us"] == 20
    assert [row["products_us"] for row in rows] == [50, 51, 150, None]
    assert [row["over_products"] for row in rows] == [4, 4, 4, None]


def test_results_are_rendered_between_the_marks_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/anywhere/served_cost.py"])
    rows = rows_of(STAR_TWICE_AND_ANOTHER, np.full((2, 4, 4), 150.0))
    write_results(
        tmp_path / "cost.json", [{**row, "load_average_before": 0.1} for row in rows], packages=("torch",)
    )

    page = placed(
        PAGE.read_text(), rendered(json.loads((tmp_path / "cost.json").read_text())), marks=(BEGIN, END)
    )

    lines = page.splitlines()
    assert [line.split("|")[2].strip() for line in lines if line.startswith(("| `star`", "| `twin` "))] == [
        "17",
        "10",
    ]
    assert not [line for line in lines if AGAIN in line]
    assert f"torch {torch.__version__}" in page


def test_what_is_counted_is_counted_for_each_candidate():
    request = made_up_request(np.random.default_rng(0))
    calls = counting_calls(request, np.random.default_rng(1))
    for name, of in (("match", "match"), ("popularity", "popularity")):
        ids = calls[name](request)
        assert ids.shape == (CANDIDATES_COUNT, len([f for f in features() if f.side == of]))
        assert len(np.unique(ids)) > 10
        np.testing.assert_array_equal(calls[name](request.first(3)), ids[:3])
