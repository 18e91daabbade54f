"""ETA against a loop over bits and behaviors, and where its random projections come from."""

from __future__ import annotations

import pytest
import torch

from tests.unit.training.interest.histories import built, close, history, item_vectors, one_visit
from tests.unit.training.interest.slow_attention import attention_over

TARGETS = item_vectors(6, 8)


@pytest.mark.parametrize("bits", [4, 64])
@pytest.mark.parametrize("keep", [1, 5, 12, 13, None])
def test_attends_to_the_least_hamming_distances_and_the_newest_of_equals(keep: int | None, bits: int) -> None:
    made, part = built("eta", keep=keep, bits=bits), history(13)
    random = made.search.hash.projection.matrix  # type: ignore[union-attr]
    out = made(TARGETS, part, one_visit(6))
    ties = 0
    for row, target in enumerate(TARGETS):
        code = (target @ random) > 0
        distance = [int((code != ((item @ random) > 0)).sum()) for item in part.items]
        ties += len(distance) - len(set(distance))
        kept = sorted(range(13), key=lambda i, d=distance: (d[i], -i))[:keep]  # type: ignore[misc]
        close(out[row], attention_over(made, target.numpy(), part, kept))  # type: ignore[arg-type]
    assert ties > 0


@pytest.mark.parametrize("keep", [30, 31, 1000])
def test_keeping_all_is_full_attention(keep: int) -> None:
    part = history(30)
    close(
        built("eta", keep=keep)(TARGETS, part, one_visit(6)),
        built("eta", keep=None)(TARGETS, part, one_visit(6)),
        atol=0,
    )


def test_hashes_stay_from_one_forward_to_the_next_and_learn_nothing() -> None:
    made, part = built("eta", keep=3, bits=8), history(30)
    made.train()
    first = made(TARGETS, part, one_visit(6))
    first.sum().backward()
    close(made.eval()(TARGETS, part, one_visit(6)), first.detach(), atol=0)
    assert not any("hash" in name for name, _ in made.named_parameters())
    assert "search.hash.projection.matrix" in made.state_dict()


def test_codes_follow_the_embeddings_as_they_are() -> None:
    """After an update a code is that of the new embedding: nothing is cached between forwards."""
    made, part = built("eta", keep=1, bits=64), history(30)
    alike = part.items.clone()
    alike[11] = TARGETS[0] * 1.5
    with_alike = type(part)(alike, part.index, part.size, part.age, part.strength)
    made(TARGETS[:1], part, one_visit(1))
    close(
        made(TARGETS[:1], with_alike, one_visit(1))[0],
        attention_over(made, TARGETS[0].numpy(), with_alike, [11]),  # type: ignore[arg-type]
    )
    assert torch.equal(made.search.of_items(alike[[11]]), made.search.of_targets(TARGETS[:1]))  # type: ignore
