from __future__ import annotations

import numpy as np
import onnx
import pytest

from benchmarks.gemm_bound import GemmGraph, Product, products, products_of
from benchmarks.reference_model import MODEL
from service.contract.artefact import scorer_file
from service.contract.history import History
from service.contract.served_inputs import assemble
from service.experiments.plan import Plan
from service.models.live import load_serving

ASKED = [
    Product("weights", 3, 4, 5),
    Product("heads", 2, 3, 7, count=4, weights=False),
]


def test_a_product_counts_a_multiplication_and_an_addition_for_each_pair():
    assert Product("one", rows=2, inner=3, columns=5, count=7).flops == 2 * 7 * 2 * 3 * 5


def test_the_operations_of_a_request_are_those_counted_by_hand():
    n, c = 500, 1000

    by_hand = 160 * 512 + 160 * 32  # the user, once: 10 features of 16
    by_hand += n * c * 64 * 2  # scores and mixing, over all heads
    by_hand += n * (64 * 512 + 512 * 256 + 256 * 128 + 128 * 2)  # STAR's network
    by_hand += n * (64 * 32 + 32 * 2)  # its auxiliary network
    assert sum(product.flops for product in products(n=n, c=c)) == 2 * by_hand


def test_no_clusters_are_one_row_which_the_graph_ignores():
    assert products(n=100, c=0) == products(n=100, c=1)


def test_more_candidates_leave_the_users_and_the_clusters_products_as_they_are():
    few, many = products(n=100, c=200), products(n=1000, c=200)

    same = {a.name for a, b in zip(few, many, strict=True) if a == b}
    assert same == {
        "user's share of the first layer",
        "user's share of the auxiliary network",
    }


def test_the_products_of_a_graph_are_those_that_it_runs(tmp_path):
    path = tmp_path / "products.onnx"
    graph = GemmGraph(path, ASKED, np.random.default_rng(0))

    found = products_of(path, graph._feeds)

    as_asked = [(p.rows, p.inner, p.columns, p.count, p.weights) for p in ASKED]
    assert sorted((p.rows, p.inner, p.columns, p.count, p.weights) for p in found) == sorted(as_asked)


def test_the_products_of_the_reference_graph_are_those_of_its_definition(reference):
    """But for what is a column or two wider."""
    live = load_serving(reference.registry, Plan(version=1, default_model=MODEL)).models[MODEL]
    n, c = 50, 30
    history = History(
        np.ones(c, np.uint32),
        np.ones(c, np.float32),
        np.zeros(c, np.uint8),
        np.zeros(c, np.uint8),
        *(np.zeros(0, np.uint8) for _ in range(3)),
    )
    feeds = assemble(
        live.encoder.tables,
        domain=0,
        user_ids=[1] * 10,
        rows=np.arange(n, dtype=np.int32),
        candidate_ids=np.zeros((n, 0), np.int64),
        history=history,
    )
    folder = reference.registry / "models" / MODEL / reference.version

    found = products_of(folder / scorer_file("mailer"), feeds)

    by_candidate = [p.flops for p in found if p.rows == n]
    asked = [p.flops for p in products(n=n, c=c) if p.rows == n]
    assert sum(by_candidate) >= sum(asked)
    assert sum(by_candidate) <= 1.05 * sum(asked)


def test_the_graph_is_all_the_products_and_leaves_none_out(tmp_path):
    path = tmp_path / "products.onnx"
    graph = GemmGraph(path, ASKED, np.random.default_rng(0))

    numbers = graph._session.run(None, graph._feeds)[0]

    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "MatMul"]
    assert len(nodes) == len(ASKED)
    assert graph.flops == 2 * (3 * 4 * 5 + 4 * 2 * 3 * 7)
    left, right = graph._feeds["left_1"], graph._feeds["right_1"]
    assert set(graph._feeds) == {"left_0", "left_1", "right_1"}  # weights are the graph's own
    assert numbers.shape == (2,)
    assert numbers[1] == pytest.approx((left @ right)[0, 0, 0], rel=1e-5)
