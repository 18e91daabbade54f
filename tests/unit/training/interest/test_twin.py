"""TWIN reads raw behaviors with the attention of TWIN V2 and without its sizes; its equations are tested there."""

from __future__ import annotations

import torch

from tests.unit.training.interest.histories import built, changed, close, history, item_vectors, one_visit
from training.interest import twin
from training.modules.split import ItemLayout

TARGETS = item_vectors(6, 8)


def test_is_the_papers_attention_with_the_papers_cut() -> None:
    made = twin.build(twin.Options(heads=3, head_width=5, out_width=7), item=ItemLayout(6, {}))
    assert (made.heads, made.head_width, made.keep, made.weigh_sizes, made.mass) == (3, 5, 100, False, False)
    assert made.out_width == 7
    assert twin.reads(twin.Options()) == "behaviors"


def test_sizes_of_clusters_weigh_nothing() -> None:
    made, part = built("twin", part="clusters"), history(9, sizes=True)
    ones = changed(part, size=torch.ones_like(part.size))
    close(made(TARGETS, part, one_visit(6)), made(TARGETS, ones, one_visit(6)), atol=0)


def test_raw_behaviors_are_what_twin_v2_makes_of_clusters_of_one() -> None:
    part = history(150)
    for keep in (None, 100, 7):
        plain, by_size = built("twin", keep=keep), built("twin_v2", keep=keep)
        by_size.load_state_dict(plain.state_dict())
        close(by_size(TARGETS, part, one_visit(6)), plain(TARGETS, part, one_visit(6)), atol=0)
