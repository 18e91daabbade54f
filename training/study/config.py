"""The configuration of a study: one base model, and rows that each change some of it.

Knows nothing of how rows are fitted and of what is reported of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.manifest import Name
from training.config import ModelConfig, PipelineConfig, load_config
from training.errors import ConfigError
from training.metrics.evaluate import ALL_DOMAINS

Metric = Literal["auc", "gauc", "gauc_request", "log_loss", "pcoc", "calibration_error"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StudyRow(_Frozen):
    """One row of the study: the base model with some of it changed."""

    label: str = Field(min_length=1, description="what the row is called in tables and plots")
    group: str = Field(min_length=1, description="the table in which the row stands, such as `backbone`")
    model: dict[str, Any] = Field(
        default_factory=dict,
        description="merged into `base`; a mapping that names another plug-in replaces the base's",
    )
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)
    per_domain: bool = Field(
        default=False, description="a separate model for each domain; they have nothing in common"
    )

    @property
    def headline(self) -> bool:
        """Whether the row is fitted with several seeds; its first is fitted before rows with one."""
        return len(self.seeds) > 1


class Bar(_Frozen):
    """What is asked of the study: a row against others, or a row's metric against a bound.

    With `than` the bar is on row − other, as a paired difference; without, on the metric of the row itself. One
    without bounds is reported only.
    """

    asked: str = Field(min_length=1, description="the bar in words")
    row: str = Field(description="a row, or `best`: the row with the least click log-loss on validation")
    than: tuple[str, ...] = Field(
        default=(),
        description="rows or systems measured elsewhere that are to be beaten, each; `every`: all others",
    )
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    domains: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=(ALL_DOMAINS,),
        description="`all` rows together, a domain, `each` domain by itself, or `macro`, the mean over domains",
    )
    at_least: float | None = None
    at_most: float | None = None


class BarElsewhere(_Frozen):
    """What is asked of a file of results that another command wrote: every row that is meant must hold."""

    asked: str = Field(min_length=1, description="the bar in words")
    results: Path = Field(description="a file of results: rows under `rows`")
    where: dict[str, str | int | float] = Field(default_factory=dict, description="what the rows meant have")
    unlike: dict[str, str | int | float] = Field(
        default_factory=dict, description="what rows have that are not meant, any of it"
    )
    value: str = Field(description="the number of a row that is held against the bound")
    at_least: float | None = None
    at_most: float | None = None


class StudyConfig(_Frozen):
    """A whole study."""

    pipeline: Path = Field(description="pipeline configuration, relative to this file")
    budget_hours: float = Field(gt=0, description="no fit is started after so long; what is done is reported")
    processes: int = Field(default=2, ge=1, description="fits at a time, each with one thread")
    base: ModelConfig
    reference: Name = Field(description="the row that all rows are compared with")
    rival: str = Field(
        default="lightgbm", description="the system measured elsewhere that rows are compared with"
    )
    rows: Annotated[dict[Name, StudyRow], Field(min_length=1)]
    bars: tuple[Bar, ...] = ()
    bars_elsewhere: tuple[BarElsewhere, ...] = ()
    results: Path | None = Field(
        default=None, description="measured rows, JSON; in the workspace where not given"
    )
    note: str = Field(default="", description="what a reader of the page must know besides, Markdown")
    page: Path | None = Field(
        default=None, description="tables and plots, Markdown; in the workspace where not given"
    )
    public_libraries: Path | None = Field(
        default=None, description="results of models of public libraries on the same rows, in the same form"
    )

    @model_validator(mode="after")
    def _rows_are_known(self) -> Self:
        if self.reference not in self.rows:
            raise ValueError(f"reference: {self.reference!r} is no row")
        return self

    def model_of(self, row: str, seed: int) -> ModelConfig:
        """Return the model of a row.

        Raises:
            ConfigError: what the row changes makes no model.
        """
        chosen = self.rows[row]
        content = merged(self.base.model_dump(mode="json", exclude_unset=True), chosen.model)
        content["fit"] = {**content.get("fit", {}), "seed": seed}
        try:
            return ModelConfig.model_validate(content)
        except ValidationError as error:
            raise ConfigError(f"rows.{row}.model:\n{_lines(error)}") from error


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping with another merged in: mappings key by key, all else replaced.

    A mapping with a `name` is a plug-in with its options. Where the change names another plug-in than the base,
    the base's options are dropped, since they are not options of this one.
    """
    out = dict(base)
    for key, value in changes.items():
        old = out.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            out[key] = merged(_flat(old), _flat(value))
        else:
            out[key] = value
    return out


def load_study(path: Path) -> tuple[StudyConfig, PipelineConfig]:
    """Read a study's configuration, and that of its pipeline.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, missing or of the wrong kind, or a row makes no model.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    try:
        study = StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path} is not a study configuration:\n{_lines(error)}") from error
    for name, row in study.rows.items():
        study.model_of(name, row.seeds[0])
    return study, load_config(path.parent / study.pipeline)


def _flat(plugin: dict[str, Any]) -> dict[str, Any]:
    """Return a plug-in with its options beside its name, as they are written in a file."""
    if "name" not in plugin or not isinstance(plugin.get("options"), dict):
        return plugin
    return {"name": plugin["name"], **plugin["options"]}


def _lines(error: ValidationError) -> str:
    return "\n".join(
        f"  {'.'.join(str(p) for p in e['loc']) or '(whole file)'}: {e['msg']}" for e in error.errors()
    )
