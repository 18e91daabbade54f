"""What the stages of one run share: where folders are, and what is costly to read twice.

Knows nothing of the order of stages; asking for something whose stage has not run is a clear error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from service.contract.artefact import catalogue_folder
from service.contract.catalogue import Catalogue, read_catalogue
from service.contract.features import FeatureSpec, Side
from service.contract.history import I64, U32, Snapshot
from service.contract.manifest import TaskSpec
from service.contract.match import ANY, ITEM
from service.contract.popularity import DAY_MS
from service.contract.statistics import StatisticsEncoder, level_of
from training.config import ModelConfig, PipelineConfig
from training.data.dataset import Dataset
from training.data.encoded import COUNTED_SIDES, EncodedData, encode_dataset, item_rows
from training.data.popularity import PopularityCounts
from training.data.vocabulary import build_features
from training.errors import ConfigError, StageError
from training.history.storage import SnapshotTable
from training.progress import Progress

SNAPSHOTS_FILE = "snapshots.parquet"
ITEM_VECTORS_FILE = "item_vectors.npy"
ARTEFACT_FOLDER = "artefact"


class Workbench:
    """A pipeline's folders and shared inputs."""

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config

    def folder(self, stage: str, model: str | None = None) -> Path:
        """Return where a stage's output lies."""
        base = self.config.workspace / stage
        return base / model if model else base

    def done(self, stage: str, model: str | None = None) -> Path:
        """Return a finished stage's folder.

        Raises:
            StageError: the stage has not run.
        """
        folder = self.folder(stage, model)
        if not (folder / "stage.json").is_file():
            raise StageError(
                f"stage {stage!r} has not run: no {folder / 'stage.json'}. Run it first, or `run`"
            )
        return folder

    @cached_property
    def dataset(self) -> Dataset:
        """The canonical dataset."""
        return Dataset(self.done("prepare"))

    @cached_property
    def features(self) -> tuple[FeatureSpec, ...]:
        """The features and their encoders."""
        return build_features(self.dataset, self.config.vocabulary, self.config.statistics)

    @cached_property
    def features_digest(self) -> str:
        """A digest of which features there are and how each is encoded, whether config, data or code changed them."""
        text = "\n".join(feature.model_dump_json() for feature in self.features)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def features_of(self, model: ModelConfig) -> tuple[FeatureSpec, ...]:
        """The features that a model reads. What is matched by a feature of items is left out along with it.

        Raises:
            ConfigError: the model leaves out a feature that there is not, or all of an item's; or `presentation`
                names what is no feature of a candidate, or one that is left out.
        """
        known = {feature.name for feature in self.features} | {side.value for side in COUNTED_SIDES}
        if unknown := sorted(set(model.leave_out) - known):
            raise ConfigError(
                f"leave_out: the dataset has no feature {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        presentation = model.presentation
        candidate = [
            f.name for f in self.features if f.side is Side.CANDIDATE and f.name not in model.leave_out
        ]
        if unknown := sorted(set(presentation.features) - set(candidate)):
            raise ConfigError(
                f"presentation.features: the model has no candidate feature {unknown[0]!r}; it has "
                f"{', '.join(sorted(candidate)) or 'none'}"
            )
        dropped = {*model.leave_out, *(presentation.features if presentation.mode == "none" else ())}
        kept = tuple(
            feature
            for feature in self.features
            if feature.name not in dropped and not (feature.side in COUNTED_SIDES and feature.side in dropped)
        )
        items = {feature.name for feature in kept if feature.side is Side.ITEM}
        if not items:
            raise ConfigError("leave_out: a model must read at least one feature of the item")
        levels = items | {ANY, ITEM}  # the item itself is matched by its row, not by its vocabulary
        return tuple(f for f in kept if f.side is not Side.MATCH or level_of(f) in levels)

    def domains_of(self, model: ModelConfig) -> tuple[str, ...]:
        """The domains that a model is trained on and serves, in the dataset's order.

        Raises:
            ConfigError: the dataset has no domain of that name.
        """
        if unknown := sorted(set(model.domains) - set(self.dataset.spec.domains)):
            raise ConfigError(
                f"domains: the dataset has no domain {unknown[0]!r}; it has "
                f"{', '.join(self.dataset.spec.domains)}"
            )
        return tuple(d for d in self.dataset.spec.domains if not model.domains or d in model.domains)

    @cached_property
    def popularity_levels(self) -> tuple[str, ...]:
        """What is counted over everyone; none where the config counts nothing."""
        chosen = [feature for feature in self.features if feature.side is Side.POPULARITY]
        return StatisticsEncoder(chosen).levels

    @cached_property
    def popularity_counts(self) -> PopularityCounts:
        """What everyone took to, at any moment."""
        rows = item_rows(self.dataset, self.dataset.behaviors["item_id"])
        return PopularityCounts(self.dataset, self.popularity_levels, rows)

    @cached_property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks as the service knows them."""
        return tuple(TaskSpec(name=task.name, given=task.given) for task in self.dataset.spec.tasks)

    def tasks_of(self, model: ModelConfig) -> tuple[TaskSpec, ...]:
        """The tasks as a model predicts them.

        Raises:
            ConfigError: `entire_space` names a task that there is not, or that is not `given` another.
        """
        known = [task.name for task in self.tasks if task.given is not None]
        named = model.entire_space if isinstance(model.entire_space, dict) else ()
        if unknown := sorted(set(named) - set(known)):
            raise ConfigError(
                f"entire_space.{unknown[0]}: no such task is `given` another; there are {', '.join(known) or 'none'}"
            )
        return tuple(
            task.model_copy(update={"entire_space": model.entire_space_of(task.name)}) if task.given else task
            for task in self.tasks
        )

    @cached_property
    def first_ms(self) -> int:
        """When the data begin."""
        starts = (self.dataset.behaviors["at_ms"].min(), self.dataset.exposures["shown_at_ms"].min())
        return min(int(start) for start in starts if isinstance(start, int))

    @cached_property
    def snapshot_moments_ms(self) -> I64:
        """When snapshots are made: on schedule, and at the data's end, which is the one to publish."""
        history, end_ms = self.config.history, self.dataset.spec.splits.end_ms
        first = self.first_ms + int(history.first_snapshot_days * DAY_MS)
        scheduled = np.arange(first, end_ms, int(history.snapshot_every_days * DAY_MS), dtype=np.int64)
        return np.append(scheduled, end_ms)

    @cached_property
    def snapshots(self) -> SnapshotTable:
        """All snapshots of all users."""
        return SnapshotTable.load(self.done("cluster") / SNAPSHOTS_FILE)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The registry's catalogue with this dataset's items appended."""
        folder = catalogue_folder(self.config.publish.registry, self.config.publish.catalogue)
        known = read_catalogue(folder) if (folder / "current").exists() else Catalogue(folder.name, ())
        return known.extended(self.dataset.items["item_id"].to_list())

    @cached_property
    def catalogue_ids(self) -> U32:
        """The catalogue id of every item row, (I,); row 0 is the unknown item."""
        return self.catalogue_ids_in(self.catalogue)

    def catalogue_ids_in(self, catalogue: Catalogue) -> U32:
        """Return the id in a catalogue of every item row, (I,); row 0 is the unknown item."""
        ids = catalogue.ids_of(self.dataset.items["item_id"].to_list())
        return np.concatenate([np.zeros(1, np.uint32), ids])

    def encoded(self, progress: Progress) -> EncodedData:
        """Return the dataset as ids, with histories over all snapshots; made once a process."""
        if self._encoded is None:
            self._encoded = self.encode(self.features, self.snapshots.newest_before, progress)
        return self._encoded

    def encoded_for(self, model: ModelConfig, progress: Progress) -> EncodedData:
        """Return the dataset as ids as a model sees it: its features, its domains."""
        data = self.encoded(progress).restricted_to(self.features_of(model))
        return data.of_domains(self.domains_of(model))

    _encoded: EncodedData | None = None

    def encode(
        self,
        features: tuple[FeatureSpec, ...],
        find_snapshot: Callable[[str, int], Snapshot | None],
        progress: Progress,
    ) -> EncodedData:
        """Return the dataset as ids of some features, with the snapshots that `find_snapshot` gives."""
        visits = self.dataset.exposures.select("user_id", "shown_at_ms").n_unique()
        popular = any(feature.side is Side.POPULARITY for feature in features)
        with progress.task("lay out histories", total=visits) as advance:
            return encode_dataset(
                self.dataset,
                features,
                limits=self.config.history.limits,
                find_snapshot=find_snapshot,
                popularity=self.popularity_counts if popular else None,
                progress=advance,
            )
