"""The configuration of a pipeline: one YAML file, every key known, every default here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.history import HistoryLimits
from service.contract.manifest import EntireSpace, Name
from training.errors import ConfigError
from training.history.options import SnapshotOptions
from training.plugins import load_plugin


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PluginConfig(_Frozen):
    """A plug-in by name, with its own options: `{name: twin_v2, heads: 4}`."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "options" not in value:
            return {"name": value.get("name"), "options": {k: v for k, v in value.items() if k != "name"}}
        return value


class FitConfig(_Frozen):
    """How a model is fitted."""

    epochs: int = Field(default=2, ge=1, description="upper bound; the epoch best on validation is kept")
    batch_rows: int = Field(default=4096, ge=1)
    dense_learning_rate: float = Field(default=3e-3, gt=0)
    embedding_learning_rate: float = Field(default=2e-3, gt=0)
    last_learning_rate_ratio: float = Field(
        default=0.05, gt=0, le=1, description="both rates fall linearly to this share of themselves"
    )
    cold_start_ratio: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="share of users, items, and values of other features shown as unknown in training",
    )
    optimizer: PluginConfig = PluginConfig(name="adam")
    seed: int = 1


class PresentationConfig(_Frozen):
    """Candidate features that say how a candidate is presented, and how they are read."""

    features: tuple[str, ...] = ()
    mode: Literal["none", "feature", "neutral", "pal"] = Field(
        default="feature", description="see `training/modules/presentation.py`"
    )
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(16,), description="of the tower that says whether a candidate is seen, in `pal`"
    )
    seen_at_start: float = Field(default=0.9, gt=0, lt=1, description="what it says before it learns")

    @model_validator(mode="after")
    def _features_are_named(self) -> Self:
        if self.mode != "feature" and not self.features:
            raise ValueError(f"presentation.features: mode {self.mode!r} needs the names of some")
        return self


class ModelConfig(_Frozen):
    """One model: what it is made of and how it is fitted."""

    backbone: PluginConfig
    interests: tuple[PluginConfig, ...] = ()
    leave_out: tuple[str, ...] = Field(
        default=(),
        description="features that the model does not read; `match` and `popularity` are all of theirs",
    )
    domains: tuple[Name, ...] = Field(
        default=(), description="train and serve only these domains; none named is all"
    )
    losses: dict[str, PluginConfig] = Field(
        default_factory=dict, description="per task; `default` for the others; BCE where there is none"
    )
    presentation: PresentationConfig = PresentationConfig()
    entire_space: EntireSpace | dict[Name, EntireSpace] = Field(
        default="conditional",
        description="form of tasks that are `given` another, for all or by task; see `training/task_losses.py`",
    )
    calibration: PluginConfig | None = Field(
        default=None, description="post-hoc map of logits, fitted on the validation weeks; none by default"
    )
    embedding_width: int = Field(default=16, ge=1)
    counted_embedding_width: int = Field(
        default=4, ge=1, description="of each feature that is counted: match statistics and popularity"
    )
    embedding_widths: dict[str, int] = Field(default_factory=dict, description="of single features")
    fit: FitConfig = FitConfig()

    @model_validator(mode="after")
    def _interests_differ(self) -> Self:
        names = [interest.name for interest in self.interests]
        if len(set(names)) < len(names):
            raise ValueError("interests: the same module occurs twice")
        return self

    @model_validator(mode="after")
    def _neutral_is_learned(self) -> Self:
        if self.presentation.mode == "neutral" and self.fit.cold_start_ratio == 0:
            raise ValueError(
                "presentation: mode 'neutral' serves the unknown value; let fit.cold_start_ratio show it"
            )
        return self

    def loss_of(self, task: str) -> PluginConfig:
        """Return the loss of a task."""
        return self.losses.get(task) or self.losses.get("default") or PluginConfig(name="bce")

    def entire_space_of(self, task: str) -> EntireSpace:
        """Return the form of a task that is `given` another."""
        chosen = self.entire_space
        return chosen.get(task, "conditional") if isinstance(chosen, dict) else chosen


class VocabularyConfig(_Frozen):
    """Which values get an id of their own."""

    min_count: int = Field(
        default=5, ge=1, description="training-week occurrences below which a value is unknown"
    )
    buckets_count: int = Field(default=32, ge=2, description="quantile buckets of a numeric feature")


class StatisticsConfig(_Frozen):
    """What is counted of behaviors; see `service/contract/match.py` and `popularity.py`."""

    match: tuple[str, ...] | None = Field(
        default=None,
        description="levels counted in the user's life cycle: `any`, `item_id`, categorical item features; "
        "null is all of them, [] none",
    )
    popularity: tuple[str, ...] | None = Field(
        default=None,
        description="levels counted over everyone: `item_id`, and categorical context features, in which the "
        "item is counted apart; null is all of them, [] none",
    )


class HistoryConfig(_Frozen):
    """How life cycles are clustered, and how much of them a model sees."""

    first_snapshot_days: float = Field(
        default=56, gt=0, description="from the data's start; item vectors are fitted on what lies before"
    )
    snapshot_every_days: float = Field(default=28, gt=0)
    snapshots: SnapshotOptions = SnapshotOptions()
    limits: HistoryLimits = HistoryLimits()

    @model_validator(mode="after")
    def _tail_covers_recents(self) -> Self:
        if self.snapshots.tail_count < max(self.limits.recents_max, self.limits.behaviors_max):
            raise ValueError(
                "history.snapshots.tail_count must be at least history.limits.recents_max and behaviors_max"
            )
        return self


class ExportConfig(_Frozen):
    """Which graphs of less precision an artefact carries beside those in fp32, if they pass their gate."""

    variants: tuple[Literal["int8"], ...] = Field(
        default=("int8",), description="tried; one that does not pass is left out, and the export says why"
    )
    variant_rows: int = Field(
        default=50_000,
        ge=1,
        description="most rows of the test weeks on which a variant is compared with fp32, and the sample of a long "
        "life cycle with all of it",
    )


class PublishConfig(_Frozen):
    """Where artefacts and life cycles go."""

    registry: Path = Path("artefacts")
    store: str = "embedded://artefacts/store"
    catalogue: Name = "default"
    snapshot_line: Name = "default"


class PipelineConfig(_Frozen):
    """A whole pipeline."""

    workspace: Path
    dataset: dict[str, Any]
    vocabulary: VocabularyConfig = VocabularyConfig()
    embed: ModelConfig
    history: HistoryConfig = HistoryConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    models: Annotated[dict[Name, ModelConfig], Field(min_length=1)]
    verify_rows: int = Field(
        default=10_000, ge=1, description="least rows compared between torch and ONNX Runtime"
    )
    export: ExportConfig = ExportConfig()
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="after")
    def _source_is_named(self) -> Self:
        if not isinstance(self.dataset.get("source"), str):
            raise ValueError("dataset.source must name a data source")
        return self


def load_config(path: Path) -> PipelineConfig:
    """Read a pipeline's configuration.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, missing or of the wrong kind. Options of
            plug-ins are checked by `check_plugins`.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that is none
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    try:
        return PipelineConfig.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(p) for p in e['loc']) or '(whole file)'}: {e['msg']}" for e in error.errors()
        ]
        raise ConfigError(f"{path} is not a pipeline configuration:\n" + "\n".join(lines)) from error


def check_plugins(config: PipelineConfig) -> None:
    """Refuse names and options of plug-ins that there are not. Loads the plug-ins, and with them torch.

    Raises:
        ConfigError: with a line for each, which names its key.
    """
    source = PluginConfig(
        name=config.dataset["source"], options={k: v for k, v in config.dataset.items() if k != "source"}
    )
    chosen = [("dataset", "training.data.sources", source)]
    for place, model in (("embed", config.embed), *((f"models.{n}", m) for n, m in config.models.items())):
        chosen.append((f"{place}.backbone", "training.backbones", model.backbone))
        chosen += [
            (f"{place}.interests.{i}", "training.interest", one) for i, one in enumerate(model.interests)
        ]
        chosen += [(f"{place}.losses.{task}", "training.losses", one) for task, one in model.losses.items()]
        chosen.append((f"{place}.fit.optimizer", "training.optim", model.fit.optimizer))
        if model.calibration is not None:
            chosen.append((f"{place}.calibration", "training.calibration", model.calibration))
    wrong = [line for key, package, plugin in chosen for line in _wrong(key, package, plugin)]
    if wrong:
        raise ConfigError("the configuration asks for what there is not:\n" + "\n".join(wrong))


def _wrong(key: str, package: str, plugin: PluginConfig) -> list[str]:
    """Return what is wrong with a plug-in's name and options, a line each."""
    try:
        load_plugin(package, plugin.name).Options.model_validate(plugin.options)
    except ConfigError as error:
        return [f"  {key}: {error}"]
    except ValidationError as error:
        return [
            f"  {key}.{'.'.join(str(p) for p in e['loc'])}: {e['msg']} ({plugin.name})"
            for e in error.errors()
        ]
    return []
