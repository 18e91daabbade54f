"""A loss is named by its file, and its options are checked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from training.errors import ConfigError
from training.losses import build_loss
from training.losses.jrc import JrcLoss


def test_options_reach_the_loss() -> None:
    loss = build_loss("jrc", {"alpha": 0.25, "same_label_competition": False})
    assert loss == JrcLoss(0.25, False)


@pytest.mark.parametrize("name", ["nope", "", "__init__"])
def test_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is none of losses: bce, .*jrc"):
        build_loss(name, {})


@pytest.mark.parametrize("extra", [{"alpha": 1.5}, {"alhpa": 0.5}])
def test_bad_options_are_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        build_loss("jrc", extra)
