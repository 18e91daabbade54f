from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.pipelines import changed, copied
from training.config import PipelineConfig
from training.errors import ConfigError, StageError
from training.fit import predict
from training.progress import Progress
from training.stages import embed, train
from training.task_losses import TaskLosses
from training.workbench import Workbench

QUIET = Progress(quiet=True)


def test_a_trained_model_is_read_back_as_it_was(finished_pipeline: PipelineConfig, tmp_path: Path) -> None:
    bench = Workbench(finished_pipeline)
    data = bench.encoded(QUIET)
    config = finished_pipeline.models["star"]
    stored = train.load_model(bench, "star", QUIET)
    train.save_parameters(tmp_path / "again.npz", stored)
    fresh = train.build_model(bench, config, data, TaskLosses(config, bench.tasks))
    visits = data.visits_of("test")
    assert not np.array_equal(predict(fresh, data, visits), predict(stored, data, visits))
    with np.load(tmp_path / "again.npz") as parameters:
        fresh.load_state_dict({name: torch.from_numpy(parameters[name]) for name in parameters.files})
    np.testing.assert_array_equal(predict(fresh, data, visits), predict(stored, data, visits))


def test_the_same_seed_fits_the_same_model(finished_pipeline: PipelineConfig, tmp_path: Path) -> None:
    train.run(Workbench(finished_pipeline), tmp_path, QUIET, model="pepnet")
    first = finished_pipeline.workspace / "train" / "pepnet" / train.PARAMETERS_FILE
    with np.load(first) as old, np.load(tmp_path / train.PARAMETERS_FILE) as new:
        assert old.files == new.files
        for name in old.files:
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "embedding_widths",
            {"itm_id": 8},
            "embedding_widths.itm_id: the dataset has no such name; it has category, country",
        ),
        ("losses", {"clik": {"name": "bce"}}, "losses.clik: the dataset has no such name; it has buy, click"),
        (
            "entire_space",
            {"click": "product"},
            "entire_space.click: no such task is `given` another; there are buy",
        ),
    ],
)
def test_names_that_the_dataset_lacks_are_refused(
    finished_pipeline: PipelineConfig, tmp_path: Path, key: str, value: object, message: str
) -> None:
    config = changed(finished_pipeline, {f"models.star.{key}": value})
    with pytest.raises(ConfigError, match=re.escape(message)):
        train.run(Workbench(config), tmp_path, QUIET, model="star")


def test_widths_and_losses_of_names_that_there_are_are_used(finished_pipeline: PipelineConfig) -> None:
    config = changed(
        finished_pipeline,
        {
            "models.pepnet.embedding_widths": {"item_id": 6, "hour_of_day": 2},
            "models.pepnet.losses": {"buy": "jrc", "default": "bce"},
        },
    )
    bench, model = Workbench(config), config.models["pepnet"]
    losses = TaskLosses(model, bench.tasks)
    built = train.build_model(bench, model, bench.encoded(QUIET), losses)
    assert built.item.width == 4 * 2 + 6
    assert losses.logit_columns == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models.star.interests": [{"name": "sim_hard", "by": "category"}]},
            "history.limits.behaviors_max is 0: sim_hard would read nothing",
        ),
        ({"history.limits.recents_max": 0}, "history.limits.recents_max is 0: short_term would read nothing"),
    ],
)
def test_a_module_that_would_read_nothing_is_refused(
    finished_pipeline: PipelineConfig, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        train.run(Workbench(changed(finished_pipeline, changes)), tmp_path, QUIET, model="star")


def test_without_exposures_before_the_first_snapshot_there_are_no_item_vectors(
    finished_pipeline: PipelineConfig, tmp_path: Path
) -> None:
    config = changed(finished_pipeline, {"history.first_snapshot_days": 0.01})
    with pytest.raises(StageError, match=r"raise history\.first_snapshot_days"):
        embed.run(Workbench(config), tmp_path, QUIET)


def test_without_exposures_in_the_training_weeks_nothing_is_fitted(
    finished_pipeline: PipelineConfig, tmp_path: Path
) -> None:
    config = copied(finished_pipeline, tmp_path)
    bench = Workbench(config)
    bench.dataset.__dict__["exposures"] = bench.dataset.exposures_of("test")
    with pytest.raises(StageError, match=r"move splits\.train_end"):
        train.run(bench, tmp_path, QUIET, model="star")
