"""The canonical dataset: its five files, their columns, and how they are read.

    exposures.parquet   request_id i64 · user_id str · item_id str · domain str · shown_at_ms i64 ·
                        keep_probability f64 · split str · a nullable i8 per task (null: masked) ·
                        context features (constant in a request) · candidate features;
                        by user_id, shown_at_ms, request_id, item_id
    behaviors.parquet   user_id str · item_id str · at_ms i64 · strength f32; by user_id, at_ms, else as given
    users.parquet       user_id str · user features
    items.parquet       item_id str · item features; in order of first appearance in time, ties by id, so that
                        row i has local item id i + 1; lists every item of exposures and behaviors
    dataset.json        DatasetSpec

A request has one user, one domain, one time. Categorical features are text, numeric ones f64; both may be
null. Knows nothing of where the data came from, of vocabularies or of models.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.contract.features import Side
from service.contract.manifest import Name
from training.data.errors import DataError
from training.metrics.evaluate import ALL_DOMAINS

SPEC_FILE: Final = "dataset.json"
EXPOSURES_FILE: Final = "exposures.parquet"
BEHAVIORS_FILE: Final = "behaviors.parquet"
USERS_FILE: Final = "users.parquet"
ITEMS_FILE: Final = "items.parquet"
SET_ASIDE_FILE: Final = "set_aside.parquet"

DATASET_SIDES: Final = (Side.USER, Side.CONTEXT, Side.CANDIDATE, Side.ITEM)
"""What a dataset has features of; those of the other sides are counted."""

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")

EXPOSURE_COLUMNS: Final = {
    "request_id": pl.Int64(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "domain": pl.String(),
    "shown_at_ms": pl.Int64(),
    "keep_probability": pl.Float64(),
    "split": pl.String(),
}
BEHAVIOR_COLUMNS: Final = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "at_ms": pl.Int64(),
    "strength": pl.Float32(),
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetTask(_Frozen):
    """One outcome that was labelled; its column in the exposures has its name."""

    name: Name
    given: Name | None = Field(default=None, description="the task without which this one cannot happen")
    matures_after_days: float = Field(default=0, ge=0, description="how long after showing it is known")


class DatasetFeature(_Frozen):
    """One feature and the table that holds it: users, items, or the exposures (context and candidate)."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    side: Side
    kind: Literal["categorical", "numeric"] = "categorical"

    @field_validator("side")
    @classmethod
    def _is_in_a_table(cls, side: Side) -> Side:
        if side not in DATASET_SIDES:
            raise ValueError(f"no dataset has features of side {side.value!r}: those are counted")
        return side


class DatasetSplits(_Frozen):
    """When training ends, when validation ends, when the data end. Each end is exclusive."""

    train_end_ms: int
    validation_end_ms: int
    end_ms: int

    def end_of_ms(self, split: Split) -> int:
        """Return when a split ends."""
        return {"train": self.train_end_ms, "validation": self.validation_end_ms, "test": self.end_ms}[split]


class DatasetSampling(_Frozen):
    """How negatives were drawn. `negatives_per_request` is None where none were left out here."""

    description: str
    negatives_per_request: int | None = None


class DatasetSpec(_Frozen):
    """What a dataset says of itself: dataset.json."""

    name: str
    fingerprint: str = Field(description="SHA-256 of the tables' content and of all else in here")
    domains: tuple[Name, ...]
    tasks: tuple[DatasetTask, ...]
    features: tuple[DatasetFeature, ...] = Field(
        description="user_id and item_id among them; the time features are not, the contract derives them"
    )
    splits: DatasetSplits
    sampling: DatasetSampling
    counts: dict[str, int]

    @field_validator("domains")
    @classmethod
    def _all_is_no_domain(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        if ALL_DOMAINS in domains:
            raise ValueError(
                f"{ALL_DOMAINS!r} names all domains together in reports; call the domain otherwise"
            )
        return domains

    def features_of(self, *sides: Side) -> tuple[DatasetFeature, ...]:
        """Return the features of some sides, side by side."""
        return tuple(feature for side in sides for feature in self.features if feature.side is side)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(task.name for task in self.tasks)


class Dataset:
    """A canonical dataset in a folder. Tables are read when first asked for and then kept."""

    def __init__(self, folder: Path) -> None:
        """Read the spec only.

        Raises:
            DataError: the folder holds no dataset, or one of another form.
        """
        self.folder = folder
        try:
            self.spec = DatasetSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
        except OSError as error:
            raise DataError(f"{folder} has no readable {SPEC_FILE}: run the stage `prepare` first") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise DataError(f"{folder / SPEC_FILE}: {where}: {first['msg']}; run `prepare` again") from error

    @cached_property
    def exposures(self) -> pl.DataFrame:
        """What was shown, and what came of it."""
        return self._read(EXPOSURES_FILE)

    @cached_property
    def behaviors(self) -> pl.DataFrame:
        """Everything that users did."""
        return self._read(BEHAVIORS_FILE)

    @cached_property
    def users(self) -> pl.DataFrame:
        """One row a user."""
        return self._read(USERS_FILE)

    @cached_property
    def items(self) -> pl.DataFrame:
        """One row an item; row i has local item id i + 1."""
        return self._read(ITEMS_FILE)

    def exposures_of(self, split: Split) -> pl.DataFrame:
        """Return the exposures of one split, in order."""
        return self.exposures.filter(pl.col("split") == split)

    def _read(self, name: str) -> pl.DataFrame:
        try:
            return pl.read_parquet(self.folder / name)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{self.folder / name} cannot be read; run `prepare` again") from error
