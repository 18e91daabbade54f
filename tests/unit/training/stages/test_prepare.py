from __future__ import annotations

import pytest

from training.errors import ConfigError
from training.stages import prepare


def test_an_unknown_source_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="complete_journey, parquet"):
        prepare.run({"source": "csv"}, tmp_path / "out")


def test_an_unknown_option_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset\.housholds: Extra inputs"):
        prepare.run({"source": "complete_journey", "housholds": 3}, tmp_path / "out")
