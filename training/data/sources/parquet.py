"""A user's own logs: Parquet files and a `dataset.yaml` that says what is in them.

docs/bring-your-own-data.md describes the format. Knows nothing of what is done with the rows.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Final, Literal

import polars as pl
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.contract.features import Side
from service.contract.manifest import Name
from training.data.dataset import (
    BEHAVIORS_FILE,
    DATASET_SIDES,
    EXPOSURES_FILE,
    ITEMS_FILE,
    USERS_FILE,
    DatasetFeature,
    DatasetSampling,
    DatasetSplits,
    DatasetTask,
)
from training.data.errors import DataError
from training.data.raw import BadRowPolicy, Progress, RawTables, TableName

STEPS: Final = ("reading files",)
DESCRIPTION_FILE: Final = "dataset.yaml"

FeatureKind = Literal["categorical", "numeric"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Options(_Frozen):
    """Where the data are."""

    path: Path = Field(description=f"a folder with a {DESCRIPTION_FILE}, or such a file by another name")


class Files(_Frozen):
    """The four files, relative to the description. Without users or items their features are unknown."""

    exposures: str = EXPOSURES_FILE
    behaviors: str = BEHAVIORS_FILE
    users: str | None = None
    items: str | None = None


class Features(_Frozen):
    """Feature columns by the table they stand in; context and candidate features stand in the exposures."""

    user: dict[str, FeatureKind] = Field(default_factory=dict)
    context: dict[str, FeatureKind] = Field(default_factory=dict)
    candidate: dict[str, FeatureKind] = Field(default_factory=dict)
    item: dict[str, FeatureKind] = Field(default_factory=dict)


def _as_utc(value: object) -> object:
    """Read a date without a time zone, or without a time, as UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


Moment = Annotated[datetime, BeforeValidator(_as_utc)]


class Splits(_Frozen):
    """When training, validation and the data end; each exclusive, UTC where no zone is given."""

    train_end: Moment
    validation_end: Moment
    end: Moment


class Description(_Frozen):
    """dataset.yaml."""

    name: str
    files: Files = Files()
    domains: tuple[Name, ...]
    tasks: tuple[DatasetTask, ...]
    features: Features = Features()
    splits: Splits
    sampling: DatasetSampling = DatasetSampling(description="none: every exposure is here")
    bad_rows: BadRowPolicy = "refuse"


def build(options: Options, *, progress: Progress) -> RawTables:
    """Return the tables of a folder.

    Raises:
        DataError: the description or a file cannot be read.
    """
    progress(STEPS[0])
    path = options.path / DESCRIPTION_FILE if options.path.is_dir() else options.path
    description = read_description(path)
    files, splits = description.files, description.splits
    exposures = _read(path.parent, files.exposures)
    if "keep_probability" not in exposures.columns:
        exposures = exposures.with_columns(pl.lit(1.0).alias("keep_probability"))
    by_side = {side: getattr(description.features, side.value) for side in DATASET_SIDES}
    tables: dict[TableName, pl.DataFrame] = {
        "exposures": exposures,
        "behaviors": _read(path.parent, files.behaviors),
        "users": _read_or_empty(path.parent, files.users, "user_id", by_side[Side.USER]),
        "items": _read_or_empty(path.parent, files.items, "item_id", by_side[Side.ITEM]),
    }
    return RawTables(
        name=description.name,
        domains=description.domains,
        tasks=description.tasks,
        features=(
            DatasetFeature(name="user_id", side=Side.USER),
            DatasetFeature(name="item_id", side=Side.ITEM),
            *(
                DatasetFeature(name=name, side=side, kind=kind)
                for side, kinds in by_side.items()
                for name, kind in kinds.items()
            ),
        ),
        splits=DatasetSplits(
            train_end_ms=_ms(splits.train_end),
            validation_end_ms=_ms(splits.validation_end),
            end_ms=_ms(splits.end),
        ),
        sampling=description.sampling,
        tables=tables,
        bad_rows=description.bad_rows,
        file_names={
            "exposures": files.exposures,
            "behaviors": files.behaviors,
            "users": files.users or USERS_FILE,
            "items": files.items or ITEMS_FILE,
        },
    )


def read_description(path: Path) -> Description:
    """Read a dataset.yaml.

    Raises:
        DataError: it is missing, no YAML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        return Description.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML: {error}") from error
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(p) for p in e['loc']) or '(whole file)'}: {e['msg']}" for e in error.errors()
        ]
        raise DataError(f"{path} does not describe a dataset:\n" + "\n".join(lines)) from error


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _read(folder: Path, name: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(folder / name)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{folder / name} cannot be read as Parquet: {error}") from error


def _read_or_empty(
    folder: Path, name: str | None, key: str, features: dict[str, FeatureKind]
) -> pl.DataFrame:
    if name is not None:
        return _read(folder, name)
    return pl.DataFrame(schema={key: pl.String} | dict.fromkeys(features, pl.Null))
