"""The interest modules' options: which part of a history they read, and how they make their attention."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from training.interest import short_term, twin_v2
from training.modules.split import ItemLayout


def test_twin_v2_reads_clusters_and_weighs_their_sizes() -> None:
    options = twin_v2.Options(heads=3, head_width=5, out_width=7, keep=11)
    made = twin_v2.build(options, item=ItemLayout(6, {}))
    assert twin_v2.READS == "clusters"
    assert (made.heads, made.head_width, made.keep, made.weigh_sizes, made.mass) == (3, 5, 11, True, False)
    assert made.out_width == 7 and made.query.in_features == 6


def test_short_term_reads_recents_each_by_itself() -> None:
    made = short_term.build(short_term.Options(heads=3, head_width=5, out_width=7), item=ItemLayout(6, {}))
    assert short_term.READS == "recents"
    assert (made.heads, made.head_width, made.keep, made.weigh_sizes, made.mass) == (3, 5, None, False, False)


@pytest.mark.parametrize("plugin", [twin_v2, short_term])
def test_mass_adds_a_column_per_head(plugin: object) -> None:
    options = plugin.Options(heads=3, out_width=7, mass=True)  # type: ignore[attr-defined]
    assert plugin.build(options, item=ItemLayout(6, {})).out_width == 10  # type: ignore[attr-defined]


def test_all_clusters_are_kept_unless_a_cut_is_asked_for() -> None:
    assert twin_v2.Options().keep is None


@pytest.mark.parametrize("wrong", [{"heads": 0}, {"keep": 0}, {"head_width": 0}, {"temperature": 1}])
def test_options_that_there_are_not_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        twin_v2.Options.model_validate(wrong)


@pytest.mark.parametrize("plugin", [twin_v2, short_term])
def test_like_attracts_like_from_the_start(plugin: object) -> None:
    made = plugin.build(plugin.Options(), item=ItemLayout(6, {}))  # type: ignore[attr-defined]
    assert torch.equal(made.query.weight, made.key.weight)
    assert made.query.weight is not made.key.weight
