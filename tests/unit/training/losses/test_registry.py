"""A loss is named by its file, and its options are checked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from training.losses import UnknownLossError, build_loss, loss_names
from training.losses.jrc import JrcLoss


def test_file_names_are_the_names() -> None:
    assert {"bce", "jrc"} <= set(loss_names())


def test_options_reach_the_loss() -> None:
    loss = build_loss({"name": "jrc", "alpha": 0.25, "same_label_competition": False})
    assert loss == JrcLoss(0.25, False)


@pytest.mark.parametrize("config", [{"name": "nope"}, {}, {"name": None}, {"name": "__init__"}])
def test_unknown_name_is_refused_with_the_known_ones(config: dict[str, object]) -> None:
    with pytest.raises(UnknownLossError, match="expected one of bce, jrc"):
        build_loss(config)


@pytest.mark.parametrize("extra", [{"alpha": 1.5}, {"alhpa": 0.5}])
def test_bad_options_are_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        build_loss({"name": "jrc", **extra})
