"""Embedding tables side by side: which table a column reads, where each feature lies, and no features at all."""

from __future__ import annotations

import torch

from training.modules.embeddings import FeatureEmbeddings

COUNTS = {"user_id": 5, "country": 3, "years": 4}
WIDTHS = {"user_id": 4, "country": 1, "years": 2}


def test_each_column_reads_its_own_table() -> None:
    made = FeatureEmbeddings(COUNTS, WIDTHS)
    tables = [made.table_of(name) for name in COUNTS]
    ids = torch.tensor([[4, 2, 3], [0, 0, 0]])
    out = made(ids)
    assert out.shape == (2, 7) and made.width == 7
    for row in range(2):
        expected = torch.cat([table[ids[row, f]] for f, table in enumerate(tables)])
        assert torch.equal(out[row], expected)


def test_neighbours_of_equal_width_share_a_table_and_no_row() -> None:
    made = FeatureEmbeddings({"a": 2, "b": 3, "c": 4, "d": 5}, {"a": 1, "b": 2, "c": 2, "d": 1})
    assert [tuple(table.weight.shape) for table in made.tables] == [(2, 1), (7, 2), (5, 1)]  # type: ignore[union-attr]
    ids = torch.tensor([[1, 2, 3, 4]])
    expected = [made.table_of(name)[ids[0, i]] for i, name in enumerate("abcd")]
    assert torch.equal(made(ids)[0], torch.cat(expected))


def test_slices_say_where_a_feature_lies() -> None:
    made = FeatureEmbeddings(COUNTS, WIDTHS)
    before, after = made(torch.tensor([[1, 1, 1]])), made(torch.tensor([[1, 2, 1]]))
    moved = torch.nonzero((before != after)[0])[:, 0].tolist()
    assert moved == list(range(7))[made.slices["country"]]


def test_without_the_values_of_a_feature_all_else_reads_as_before() -> None:
    made = FeatureEmbeddings({"a": 4, "b": 3, "c": 2}, {"a": 2, "b": 2, "c": 1})
    less = made.without_values_of("a")
    ids = torch.tensor([[0, 2, 1], [0, 0, 0], [0, 1, 1]])
    assert torch.equal(less(ids), made(ids))
    assert [len(table.weight) for table in less.tables] == [4, 2]  # type: ignore[arg-type]
    assert torch.equal(made.without_values_of("d")(ids), made(ids))


def test_leading_axes_are_kept() -> None:
    made = FeatureEmbeddings(COUNTS, WIDTHS)
    assert made(torch.zeros(2, 3, 4, 3, dtype=torch.int64)).shape == (2, 3, 4, 7)
    assert made(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 7)


def test_the_unknown_value_is_learned() -> None:
    made = FeatureEmbeddings({"country": 3}, {"country": 2})
    made(torch.tensor([[0], [0]])).sum().backward()
    grad = made.tables[0].weight.grad
    assert isinstance(grad, torch.Tensor)
    assert bool((grad[0] == 2).all()) and not bool(grad[1:].any())


def test_without_features_nothing_wide() -> None:
    made = FeatureEmbeddings({}, {})
    assert made(torch.zeros(5, 0, dtype=torch.int64)).shape == (5, 0) and made.width == 0
