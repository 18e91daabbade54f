"""What a pipeline has published, and the trained model behind it; the pipeline is run where there is none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from service.contract.artefact import (
    SnapshotRef,
    current_version,
    model_folder,
    read_artefact,
    read_snapshot_ref,
)
from service.contract.errors import ArtefactError
from training.config import PipelineConfig, load_config
from training.errors import StageError, TrainingError
from training.export.training_graph import write_training_graph
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import ARTEFACT_FOLDER, Workbench


@dataclass(frozen=True)
class Published:
    """A model in force, the users' snapshot in force, and the workspace that both came from."""

    bench: Workbench
    model: str
    version: str
    snapshot: SnapshotRef

    @property
    def config(self) -> PipelineConfig:
        """The pipeline's configuration."""
        return self.bench.config

    @property
    def artefact(self) -> Path:
        """The folder of the version in force."""
        return model_folder(self.config.publish.registry, self.model) / self.version

    def write_training_graph(self, path: Path) -> None:
        """Write the training graph of the published model."""
        trained = load_model(self.bench, self.model, Progress(quiet=True))
        write_training_graph(path, trained, self.bench.tasks_of(self.config.models[self.model]))


def ensure_published(config: Path, model: str) -> Published:
    """Return what is published; where it is missing, or is not the workspace's, run the pipeline first.

    Raises:
        TrainingError: the configuration has no such model, or the pipeline failed.
    """
    bench = Workbench(load_config(config))
    if model not in bench.config.models:
        raise TrainingError(f"{config} has no model {model!r}; it has {', '.join(bench.config.models)}")
    try:
        return _find(bench, model)
    except (StageError, ArtefactError) as reason:
        print(f"{reason}\nrunning the pipeline {config} first", file=sys.stderr, flush=True)
    if subprocess.run([sys.executable, "-m", "training", "run", str(config)], check=False).returncode:
        raise TrainingError(f"the pipeline {config} failed")
    return _find(Workbench(bench.config), model)


def _find(bench: Workbench, model: str) -> Published:
    made = read_artefact(bench.done("verify", model) / ARTEFACT_FOLDER)
    publish = bench.config.publish
    version = current_version(publish.registry, model)
    if version != made.version:
        raise ArtefactError(f"{model}-{version} in {publish.registry} is not the workspace's {made.version}")
    snapshot = read_snapshot_ref(publish.registry, publish.snapshot_line)
    if snapshot is None:
        raise ArtefactError(f"no snapshot was published on line {publish.snapshot_line!r}")
    return Published(bench, model, version, snapshot)
