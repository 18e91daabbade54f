"""What a data source yields: four tables and what is said of them, before anything was checked.

A source decides what an exposure is, what its labels are and how its negatives were drawn. Everything else
(types, bad rows, maturity, splits, order, writing) is the same for all sources, see `canonical.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from training.data.dataset import (
    BEHAVIORS_FILE,
    EXPOSURES_FILE,
    ITEMS_FILE,
    USERS_FILE,
    DatasetFeature,
    DatasetSampling,
    DatasetSplits,
    DatasetTask,
)

Progress = Callable[[str], None]
"""Told the name of each step as it begins."""

BadRowPolicy = Literal["refuse", "set_aside"]
TableName = Literal["exposures", "behaviors", "users", "items"]

CANONICAL_FILES: Mapping[TableName, str] = {
    "exposures": EXPOSURES_FILE,
    "behaviors": BEHAVIORS_FILE,
    "users": USERS_FILE,
    "items": ITEMS_FILE,
}


@dataclass(frozen=True)
class RawTables:
    """The columns of `dataset.py` without `split`, in looser types: see `columns.py`.

    The rows of a user stand in the order of time. Users and items may be incomplete. `file_names` are the
    names under which a person knows the tables; `counts` is what the source counted on its way.
    """

    name: str
    domains: tuple[str, ...]
    tasks: tuple[DatasetTask, ...]
    features: tuple[DatasetFeature, ...]
    splits: DatasetSplits
    sampling: DatasetSampling
    tables: Mapping[TableName, pl.DataFrame]
    bad_rows: BadRowPolicy = "refuse"
    file_names: Mapping[TableName, str] = field(default_factory=lambda: CANONICAL_FILES)
    counts: Mapping[str, int] = field(default_factory=dict)
