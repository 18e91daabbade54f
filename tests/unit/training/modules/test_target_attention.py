"""Target attention against the papers' golden vectors, against numpy loops, and by what must not matter."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract.search import kept_of
from tests.support.served_interest import read_served
from training.modules.attention_options import AttentionOptions
from training.modules.embeddings import INIT_STD
from training.modules.split import HistoryPart, RowLayout
from training.modules.target_attention import (
    RANK_STEPS,
    TargetAttention,
    attend,
    kept_by_search,
    scores_by_head,
)

# TWIN and TWIN V2 (arXiv:2302.02352, arXiv:2407.16357) by hand: 6 behaviors, 2 heads, float64
K_H = np.sin(np.arange(1.0, 25)).reshape(6, 4)
K_C = np.cos(np.arange(1.0, 37)).reshape(6, 6)
Q = np.array([0.5, -0.25, 0.75, 1.0])
W_H = np.sin(np.arange(1.0, 17)).reshape(2, 4, 2)
W_Q = np.cos(np.arange(1.0, 17)).reshape(2, 4, 2)
W_C = 0.1 * np.arange(1.0, 13).reshape(2, 2, 3)
BETA = np.array([[1.0, -0.5], [0.25, 0.75]])
W_V = np.sin(np.arange(1.0, 61)).reshape(2, 10, 3) / 4
SIZES = np.array([1.0, 3.0, 2.0, 1.0, 5.0, 4.0])


def golden(sizes: np.ndarray | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries (1, 1, A, d), keys, values (1, L, A, d) and bias (1, L, A)."""
    queries = np.einsum("h,ahd->ad", Q, W_Q) / math.sqrt(2)
    keys = np.einsum("lh,ahd->lad", K_H, W_H)
    values = np.einsum("lk,akv->lav", np.concatenate([K_H, K_C], axis=1), W_V)
    bias = np.einsum("lje,aje,aj->la", K_C.reshape(6, 2, 3), W_C, BETA)
    if sizes is not None:
        bias = bias + np.log(sizes)[:, None]
    return (
        torch.from_numpy(queries)[None, None],
        torch.from_numpy(keys)[None],
        torch.from_numpy(values)[None],
        torch.from_numpy(bias)[None],
    )


def golden_scores(sizes: np.ndarray | None = None) -> Tensor:
    queries, keys, _, bias = golden(sizes)
    return torch.einsum("vpad,vlad->vapl", queries, keys) + bias.transpose(1, 2)[:, :, None]


ONES = torch.ones(1, 6, dtype=torch.float64)
ALPHA = [
    [-0.60698415, -1.13028697, 1.07274172, -0.42568621, 0.20065639, 1.69366204],
    [1.39128983, -1.36276888, 0.49237784, -0.36458151, -2.19892, 0.13047172],
]
ALPHA_V2 = [
    [-0.60698415, -0.03167468, 1.7658889, -0.42568621, 1.8100943, 3.0799564],
    [1.39128983, -0.26415659, 1.18552502, -0.36458151, -0.58948209, 1.51676608],
]


def close(a: Tensor, b: object, atol: float = 1e-7) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), atol=atol, rtol=0)


def test_golden_scores_are_the_papers() -> None:
    close(golden_scores()[0, :, 0], ALPHA)
    close(golden_scores(SIZES)[0, :, 0], ALPHA_V2)


@pytest.mark.parametrize(("sizes", "expected"), [(None, {5, 0, 2}), (SIZES, {5, 4, 0})])
def test_golden_search_keeps_the_merged_top_three(sizes: np.ndarray | None, expected: set[int]) -> None:
    kept = kept_by_search(golden_scores(sizes), 3)
    assert kept.shape == (1, 1, 1, 6)
    assert set(torch.nonzero(kept.flatten())[:, 0].tolist()) == expected


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (3, [0.2185506, 0.22966403, 0.0296254, -0.08473634, 0.15996886, 0.25759943]),
        (6, [0.17396498, 0.16900242, 0.00865982, -0.07121908, 0.14785064, 0.23098717]),
        (100, [0.17396498, 0.16900242, 0.00865982, -0.07121908, 0.14785064, 0.23098717]),
        (None, [0.17396498, 0.16900242, 0.00865982, -0.07121908, 0.14785064, 0.23098717]),
    ],
)
def test_golden_twin(keep: int | None, expected: list[float]) -> None:
    mixed, _ = attend(*golden(), ONES, keep=keep)
    close(mixed[0, 0], expected)


def test_golden_twin_v2_equals_twin_on_the_replicated_rows() -> None:
    expected = [0.15991886, 0.15819882, 0.01103151, -0.06617891, 0.13675185, 0.21395359]
    mixed, mass = attend(*golden(SIZES), torch.from_numpy(SIZES)[None], keep=None)
    close(mixed[0, 0], expected)
    queries, keys, values, bias = golden()
    times = torch.from_numpy(SIZES).long()
    replicated = [x.repeat_interleave(times, dim=1) for x in (keys, values, bias)]
    plain, plain_mass = attend(
        queries, *replicated, torch.ones(1, int(times.sum()), dtype=torch.float64), keep=None
    )
    close(plain, mixed, atol=1e-13)
    close(plain_mass, mass, atol=1e-13)


def test_mass_is_the_log_of_one_plus_the_summed_weights() -> None:
    _, mass = attend(*golden(SIZES), torch.from_numpy(SIZES)[None], keep=None)
    alpha = golden_scores()[0, :, 0].numpy()
    close(mass[0, 0], np.log(1 + (SIZES * np.exp(alpha)).sum(1)), atol=1e-12)


def walk(scores: np.ndarray, keep: int) -> set[int]:
    """Walk the heads' ranked lists in turn until `keep` distinct clusters are found."""
    ranked = [sorted(range(scores.shape[1]), key=lambda i, row=row: -row[i]) for row in scores]  # type: ignore[misc]
    found: list[int] = []
    for rank in range(scores.shape[1]):
        for head in ranked:
            if head[rank] not in found:
                found.append(head[rank])
            if len(found) == keep:
                return set(found)
    return set(found)


@pytest.mark.parametrize("heads", [1, 2, 3, 4])
def test_search_equals_the_walk(heads: int) -> None:
    rng = np.random.default_rng(heads)
    for _ in range(25):
        length, keep = int(rng.integers(1, 12)), int(rng.integers(1, 14))
        scores = rng.permutation(heads * 3 * length).reshape(1, heads, 3, length).astype(np.float32)
        kept = kept_by_search(torch.from_numpy(scores), keep)
        for place in range(3):
            expected = walk(scores[0, :, place], keep)
            assert set(np.flatnonzero(kept[0, 0, place].numpy())) == expected, (length, keep)


@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize("keep", [2, 5, 9, 17])
def test_equal_clusters_do_not_make_the_search_depend_on_order_padding_or_company(
    heads: int, keep: int
) -> None:
    """Ten clusters eight times over, as of items bought again and again; one or many targets at a time."""
    random = torch.Generator().manual_seed(heads)
    queries = torch.randn(5, 7, heads, 16, generator=random)
    keys, values = (torch.randn(5, 10, heads, 16, generator=random).repeat(1, 8, 1, 1) for _ in range(2))
    bias, size = torch.randn(5, 10, heads, generator=random).repeat(1, 8, 1), torch.ones(5, 80)
    mixed, _ = attend(queries, keys, values, bias, size, keep=keep)
    for _ in range(5):
        order = torch.randperm(80, generator=random)
        out, _ = attend(queries, keys[:, order], values[:, order], bias[:, order], size, keep=keep)
        close(out, mixed, atol=1e-5)
    keys, values = (torch.cat([x, x[:, :33] * 2], dim=1) for x in (keys, values))
    bias, size = torch.cat([bias, bias[:, :33] * 2], dim=1), torch.cat([size, torch.zeros(5, 33)], dim=1)
    close(attend(queries, keys, values, bias, size, keep=keep)[0], mixed, atol=1e-5)
    for target in range(7):
        alone, _ = attend(queries[:, target : target + 1], keys, values, bias, size, keep=keep)
        close(alone, mixed[:, target : target + 1], atol=1e-5)


@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize(("length", "keep"), [(1, 5), (5, 5), (6, 5), (200, 100), (600, 100)])
@pytest.mark.parametrize("spread", [0.002, 1.0, 1e4, 1e7])
def test_serving_keeps_what_training_keeps(heads: int, length: int, keep: int, spread: float) -> None:
    """Of the same scores, a third of them equal; as large as keys of 32 bits hold, and larger."""
    random = torch.Generator().manual_seed(length)
    scores = torch.randn(1, heads, 7, length, generator=random) * spread
    scores[..., ::3] = scores[..., :1].clone()
    kept = kept_of(torch.round(scores[0] * RANK_STEPS).numpy(), keep, newest_first=False)
    assert kept.tolist() == kept_by_search(scores, keep)[0, 0].tolist()
    alone = kept_of(torch.round(scores[0, :, :1] * RANK_STEPS).numpy(), keep, newest_first=False)
    assert alone.tolist() == kept[:1].tolist()


def test_search_stops_at_keep_when_heads_disagree_and_ignores_padding() -> None:
    scores = torch.tensor([[[[3.0, 2.0, 1.0, -1e9]], [[1.0, 2.0, 3.0, -1e9]]]])
    assert kept_by_search(scores, 1)[0, 0, 0].tolist() == [True, False, False, False]
    assert kept_by_search(scores, 2)[0, 0, 0].tolist() == [True, False, True, False]
    assert kept_by_search(scores, 3)[0, 0, 0].tolist() == [True, True, True, False]


def test_search_is_of_no_gradient_but_what_it_keeps_is() -> None:
    queries, keys, values, bias = golden()
    keys.requires_grad_()
    mixed, _ = attend(queries, keys, values, bias, ONES, keep=3)
    mixed.sum().backward()
    assert keys.grad is not None
    learned = keys.grad[0].abs().sum((1, 2)) > 0
    assert torch.nonzero(learned)[:, 0].tolist() == [0, 2, 5]


# The module: heads of width 3 over items of width 5


def module(
    *, heads: int = 2, keep: int | None = None, weigh_sizes: bool = True, mass: bool = True
) -> TargetAttention:
    torch.manual_seed(3)
    options = AttentionOptions(heads=heads, head_width=3, out_width=4, mass=mass)
    made = TargetAttention(5, options, keep=keep, weigh_sizes=weigh_sizes).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.7)
    return made


def history(length: int = 9, seed: int = 0) -> HistoryPart:
    random = torch.Generator().manual_seed(seed)
    return HistoryPart(
        items=torch.randn(length, 5, generator=random, dtype=torch.float64),
        index=torch.arange(length)[None],
        size=torch.randint(1, 6, (1, length), generator=random).double(),
        age=torch.randint(0, 40, (1, length), generator=random),
        strength=torch.randint(0, 20, (1, length), generator=random),
    )


def changed(part: HistoryPart, **new: Tensor) -> HistoryPart:
    return HistoryPart(**{**vars(part), **new})


def at(part: HistoryPart, order: Tensor) -> HistoryPart:
    """Return a history with its positions taken in some order."""
    return changed(
        part, **{name: getattr(part, name)[:, order] for name in ("index", "size", "age", "strength")}
    )


def one_visit(rows: int) -> RowLayout:
    return RowLayout(torch.zeros(rows, dtype=torch.int64), torch.arange(rows), rows)


TARGETS = torch.randn(4, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def as_served(made: TargetAttention, part: HistoryPart, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return what the served form makes of a history for TARGETS, in one precision or the other."""
    served = copy.deepcopy(made).served().to(dtype)
    of_items = served.history_columns(part.items.to(dtype))[part.index[0]]
    columns = served.item_columns(TARGETS.to(dtype))
    return read_served(served, columns, of_items, part.size[0].to(dtype), part.age[0], part.strength[0])


def slow(made: TargetAttention, target: np.ndarray, part: HistoryPart, history_row: int = 0) -> np.ndarray:
    """Return one row's output by loops, from the equations at the head of the module; L of sizes above 0."""
    w = {name: value.detach().numpy() for name, value in made.named_parameters()}
    size = part.size[history_row].numpy()
    real = [i for i in range(len(size)) if size[i] > 0]
    heads, d = made.heads, made.head_width
    mixed, mass = np.zeros(heads * d), np.zeros(heads)
    alpha = np.zeros((heads, len(real)))
    values = np.zeros((heads, len(real), d))
    for a in range(heads):
        block = slice(a * d, (a + 1) * d)
        q = w["query.weight"][block] @ target
        for place, i in enumerate(real):
            item = part.items[part.index[history_row, i]].numpy()
            age = w["age.weight"][part.age[history_row, i]]
            strength = w["strength.weight"][part.strength[history_row, i]]
            alpha[a, place] = (w["key.weight"][block] @ item) @ q / math.sqrt(d)
            alpha[a, place] += w["age_bias.weight"][a] @ age + w["strength_bias.weight"][a] @ strength
            if made.weigh_sizes:
                alpha[a, place] += math.log(size[i])
            values[a, place] = w["value.weight"][block] @ item
            values[a, place] += w["age_value.weight"][block] @ age
            values[a, place] += w["strength_value.weight"][block] @ strength
    kept = sorted(walk(alpha, made.keep)) if made.keep is not None and real else list(range(len(real)))
    for a in range(heads):
        weights = np.exp(alpha[a, kept])
        mass[a] = math.log(1 + weights.sum())
        if kept:
            mixed[a * d : (a + 1) * d] = (weights / weights.sum()) @ values[a, kept]
    out = w["output.weight"] @ mixed
    return np.concatenate([out, mass]) if made.mass else out


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("keep", [None, 1, 3, 50])
@pytest.mark.parametrize("weigh_sizes", [True, False])
def test_module_equals_loops_over_ragged_histories(heads: int, keep: int | None, weigh_sizes: bool) -> None:
    made = module(heads=heads, keep=keep, weigh_sizes=weigh_sizes)
    part = history(8)
    lengths = [0, 1, 3, 8]
    index = torch.stack([torch.roll(torch.arange(8), v) for v in range(4)])
    size = torch.stack([torch.where(torch.arange(8) < n, part.size[0], 0.0) for n in lengths])
    part = HistoryPart(part.items, index, size, part.age.expand(4, -1), part.strength.expand(4, -1))
    visit = torch.tensor([0, 1, 2, 2, 3, 3, 3])
    layout = RowLayout(visit, torch.tensor([0, 0, 1, 0, 2, 0, 1]), 3)
    targets = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = made(targets, part, layout)
    assert out.shape == (7, 4 + heads) and made.out_width == 4 + heads
    for row in range(7):
        close(out[row], slow(made, targets[row].numpy(), part, int(visit[row])), atol=1e-12)


def test_many_histories_of_very_different_lengths_are_read_each_by_itself() -> None:
    made, random = module(keep=4), torch.Generator().manual_seed(6)
    lengths = [0, 70, 1, 33, 2, 100, 0, 31, 32, 64, 5, 5, 5, 99, 3, 0, 8, 12, 40, 7]
    rows_counts = [1, 2, 3, 1, 5, 2, 2, 1, 1, 4, 3, 2, 1, 1, 2, 3, 1, 1, 6, 2]
    visits, width = len(lengths), max(lengths)
    size = torch.randint(1, 6, (visits, width), generator=random).double()
    part = HistoryPart(
        items=torch.randn(50, 5, generator=random, dtype=torch.float64),
        index=torch.randint(0, 50, (visits, width), generator=random),
        size=torch.where(torch.arange(width) < torch.tensor(lengths)[:, None], size, 0.0),
        age=torch.randint(0, 40, (visits, width), generator=random),
        strength=torch.randint(0, 20, (visits, width), generator=random),
    )
    visit = torch.arange(visits).repeat_interleave(torch.tensor(rows_counts))
    slot = torch.cat([torch.arange(count) for count in rows_counts])
    targets = torch.randn(len(visit), 5, generator=random, dtype=torch.float64)
    for order in (torch.arange(len(visit)), torch.randperm(len(visit), generator=random)):
        out = made(targets[order], part, RowLayout(visit[order], slot[order], max(rows_counts)))
        for place, row in enumerate(order.tolist()):
            close(out[place], slow(made, targets[row].numpy(), part, int(visit[row])), atol=1e-12)


def test_sizes_of_one_are_plain_twin() -> None:
    part = changed(history(), size=torch.ones(1, 9, dtype=torch.float64))
    with_sizes, plain = module(), module(weigh_sizes=False)
    close(with_sizes(TARGETS, part, one_visit(4)), plain(TARGETS, part, one_visit(4)), atol=0)


def test_sizes_count_like_copies() -> None:
    part = history()
    copies = at(part, torch.arange(9).repeat_interleave(part.size[0].long()))
    copies = changed(copies, size=torch.ones_like(copies.size))
    plain = module(weigh_sizes=False)
    close(module()(TARGETS, part, one_visit(4)), plain(TARGETS, copies, one_visit(4)), atol=1e-13)


@pytest.mark.parametrize("keep", [9, 10, 1000])
def test_keeping_the_whole_history_is_full_attention(keep: int) -> None:
    full = module()(TARGETS, history(), one_visit(4))
    close(module(keep=keep)(TARGETS, history(), one_visit(4)), full, atol=0)


@pytest.mark.parametrize("keep", [None, 2, 9])
def test_padding_content_does_not_matter(keep: int | None) -> None:
    part, made = history(), module(keep=keep)
    size = torch.cat([part.size[:, :5], torch.zeros(1, 4, dtype=torch.float64)], dim=1)
    out = made(TARGETS, changed(part, size=size), one_visit(4))
    other = changed(
        part,
        size=size,
        index=torch.cat([part.index[:, :5], torch.full((1, 4), 2)], dim=1),
        age=torch.cat([part.age[:, :5], torch.full((1, 4), 39)], dim=1),
        items=part.items * torch.where(torch.arange(9) < 5, 1.0, 1e6)[:, None],
    )
    close(made(TARGETS, other, one_visit(4)), out, atol=0)
    close(made(TARGETS, at(changed(part, size=size), torch.arange(5)), one_visit(4)), out, atol=1e-13)


@pytest.mark.parametrize("keep", [None, 3])
def test_order_of_the_history_does_not_matter(keep: int | None) -> None:
    made, part = module(keep=keep), history()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    close(made(TARGETS, at(part, order), one_visit(4)), made(TARGETS, part, one_visit(4)), atol=1e-13)


@pytest.mark.parametrize("keep", [None, 1, 3])
def test_empty_history_is_exactly_zero_with_finite_gradients(keep: int | None) -> None:
    made = module(keep=keep)
    part = changed(history(), size=torch.zeros(1, 9, dtype=torch.float64))
    out = made(TARGETS, part, one_visit(4))
    assert out.shape == (4, 6) and not bool(out.any())
    out.sum().backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in made.parameters())


@pytest.mark.parametrize("shift", [-200.0, -50.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_far_from_zero_still_normalize(shift: float, dtype: torch.dtype) -> None:
    queries, keys, values, bias = (x.to(dtype) for x in golden())
    far = bias + shift
    mixed, mass = attend(queries, keys, values, far, ONES.to(dtype), keep=None)
    atol = 1e-4 if dtype == torch.float32 else 1e-12
    close(mixed, attend(queries, keys, values, bias, ONES.to(dtype), keep=None)[0], atol=atol)
    expected = np.logaddexp(0, np.log(np.exp(golden_scores()[0, :, 0].numpy()).sum(1)) + shift)
    close(mass[0, 0], expected, atol=atol)


@pytest.mark.parametrize("keep", [None, 3])
@pytest.mark.parametrize("mass", [False, True])
def test_served_form_equals_the_trained_one(keep: int | None, mass: bool) -> None:
    made, part = module(keep=keep, mass=mass), history()
    close(as_served(made, part), made(TARGETS, part, one_visit(4)), atol=1e-13)
    none = changed(part, size=torch.zeros_like(part.size))
    for length in (1, 9):
        assert not bool(as_served(made, at(none, torch.arange(length))).any())


@pytest.mark.parametrize("keep", [None, 3])
@pytest.mark.parametrize("size", [(0, 2, 5, 0, 1, 0), (0, 0, 0, 0, 0, 3), (4, 0, 0, 0, 0, 0)])
def test_served_form_reads_no_padding_wherever_it_stands(size: tuple[int, ...], keep: int | None) -> None:
    made, held = module(keep=keep), torch.tensor(size, dtype=torch.float64)[None]
    part = changed(at(history(), torch.arange(6)), size=held)
    alone = at(part, torch.nonzero(held[0])[:, 0])
    close(as_served(made, part), as_served(made, alone), atol=1e-13)
    close(as_served(made, part), made(TARGETS, part, one_visit(4)), atol=1e-13)


FAR = torch.tensor([60.0, -60.0, 0.0])
"""What ages 0, 1 and 2 add to all scores in the test below."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ages", [(0,) * 9, (1,) * 9, (0, *(1,) * 8), (1, *(0,) * 8), (0, 1, 2) * 3])
def test_served_form_is_right_where_scores_are_far_from_zero_and_from_each_other(
    ages: tuple[int, ...], dtype: torch.dtype
) -> None:
    made, part = module(), changed(history(), age=torch.tensor([ages]))
    with torch.no_grad():
        made.age_bias.weight.fill_(1.0)
        made.age.weight[: len(FAR)] = (FAR / made.age.embedding_dim)[:, None]
    expected = np.stack([slow(made, target.numpy(), part) for target in TARGETS])
    close(as_served(made, part, dtype), expected, atol=1e-4 if dtype == torch.float32 else 1e-12)
    assert (
        (expected[:, -made.heads :] > 50).all() if 0 in ages else (expected[:, -made.heads :] < 1e-20).all()
    )


def test_a_larger_cluster_counts_for_more() -> None:
    part, made = history(2), module(heads=1, mass=False)
    shares = []
    for size in (1.0, 4.0, 16.0, 1e6):
        grown = changed(part, size=torch.tensor([[size, 1.0]], dtype=torch.float64))
        alone = made(TARGETS, at(grown, torch.tensor([0])), one_visit(4))
        shares.append((made(TARGETS, grown, one_visit(4)) - alone).norm().item())
    assert all(a > b for a, b in pairwise(shares)) and shares[-1] < 1e-4


def test_buckets_that_training_never_saw_take_after_the_nearest_that_it_saw() -> None:
    module = TargetAttention(4, AttentionOptions(heads=1, head_width=2), keep=None, weigh_sizes=True)
    age, strength = module.age.weight.detach().clone(), module.strength.weight.detach().clone()
    age_seen = torch.zeros(len(age), dtype=torch.bool)
    age_seen[[3, 7]] = True
    module.fill_unseen(age_seen, torch.ones(len(strength), dtype=torch.bool))
    assert torch.equal(
        module.age.weight[:6], age[[3]].expand(6, -1)
    )  # 5 is as near to 3 as to 7: the lower one
    assert torch.equal(module.age.weight[6:], age[[7]].expand(len(age) - 6, -1))
    assert torch.equal(module.strength.weight, strength)


def test_where_training_saw_no_history_embeddings_stay() -> None:
    module = TargetAttention(4, AttentionOptions(heads=1, head_width=2), keep=None, weigh_sizes=True)
    age = module.age.weight.detach().clone()
    module.fill_unseen(
        torch.zeros(len(age), dtype=torch.bool), torch.zeros(len(module.strength.weight), dtype=torch.bool)
    )
    assert torch.equal(module.age.weight, age)


@pytest.mark.parametrize(("alike_score", "own", "others"), [(None, 0.0033, 0.002), (5.0, 5.0, 1.5)])
def test_an_item_starts_with_the_score_asked_for_against_itself_and_others_near_none(
    alike_score: float | None, own: float, others: float
) -> None:
    torch.manual_seed(0)
    made = TargetAttention(48, AttentionOptions(alike_score=alike_score), keep=None, weigh_sizes=True)
    items = INIT_STD * torch.randn(500, 48)
    with torch.no_grad():
        queries, keys = (layer(items).view(1, 500, 4, 16) for layer in (made.query, made.key))
        scores = scores_by_head(queries / 16**0.5, keys)[0]
    apart = ~torch.eye(500, dtype=torch.bool)
    assert scores.diagonal(dim1=1, dim2=2).mean().item() == pytest.approx(own, rel=0.1)
    assert abs(scores[:, apart].mean().item()) < own / 50
    assert scores[:, apart].std().item() < others
