"""What the comparison of speed is made of: the rows that it takes, the sums that it draws, and our models in it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from benchmarks.public_libraries.exchange import Job
from benchmarks.public_libraries.ours import NAME, OneTaskBench, as_sampled, train
from benchmarks.public_libraries.quality import Sizes
from benchmarks.public_libraries.speed import summarized, whole_users
from tests.support.synthetic_encoded import tiny_encoded
from training.config import PipelineConfig
from training.data.encoded import EncodedData
from training.progress import Progress


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return as_sampled(tiny_encoded(tmp_path_factory.mktemp("dataset"))[1])


def test_rows_count_once_and_for_the_first_task_alone(data: EncodedData) -> None:
    assert data.labels.shape[1] == 1
    np.testing.assert_array_equal(data.keep_probability, 1.0)


@pytest.mark.parametrize("rows_max", [1, 200, 10**9])
def test_users_are_taken_whole(data: EncodedData, rows_max: int) -> None:
    visits = data.visits_of("train")
    taken = whole_users(data, visits, rows_max=rows_max)
    users = set(data.visit_user[taken])
    assert users
    np.testing.assert_array_equal(taken, visits[np.isin(data.visit_user[visits], list(users))])
    assert len(data.rows_of(taken)) <= rows_max or len(users) == 1
    assert rows_max < 10**9 or len(taken) == len(visits)


def test_ratios_are_those_of_each_round() -> None:
    def run(library: str, turn: int, rate: int) -> dict[str, Any]:
        return {
            "model": "din",
            "library": library,
            "round": turn,
            "train_samples_per_s": rate,
            "train_samples_per_cpu_s": 2 * rate,
            "first_validation_log_loss": 0.7,
            "validation_log_loss": 0.3 + 0.1 * turn,
            "parameters": 5,
            "rows": 9,
            "steps": 3,
            "version": "1",
        }

    # a machine that slows down tenfold in the last round: the medians of speed say 2.5, every round says 2 to 5
    runs = [run(NAME, t, rate) for t, rate in ((1, 200), (2, 500), (3, 20))]
    runs += [run("other", t, rate) for t, rate in ((1, 100), (2, 100), (3, 10))]
    ours, other = summarized(runs)
    assert (ours["train_samples_per_s"], ours["ours_over_it_train_samples_per_s"]) == (200, 1.0)
    assert (other["train_samples_per_s"], other["ours_over_it_train_samples_per_s"]) == (100, 2.0)
    assert other["ours_over_it_train_samples_per_cpu_s"] == 2.0
    assert other["validation_log_loss"] == pytest.approx(0.5)
    assert other["validation_log_loss_sd"] == pytest.approx(0.1)


@pytest.mark.parametrize("model", ["dcnv2", "din"])
def test_our_model_has_the_parameters_of_the_architecture_and_learns(
    finished_pipeline: PipelineConfig, model: str
) -> None:
    bench = OneTaskBench(finished_pipeline)
    data = as_sampled(bench.encoded(Progress(stage="test", quiet=True)))
    visits = {split: data.visits_of(split) for split in ("train", "validation")}
    sizes = replace(Sizes(), epochs=8, batch_rows=64, learning_rate=0.01, embedding_width=4, hidden=(8, 5))
    job = Job(rows="", source="", out="", model=model, seed=1, threads=1, equal=True, **asdict(sizes))
    report = train(bench, data, visits, job)

    fields = [*data.features, "domain"]
    ids_count = sum(f.encoder.ids_count for f in data.features) + len(bench.dataset.spec.domains)
    width, a, b = 4 * len(fields), 8, 5
    if model == "dcnv2":
        network = 3 * (width * width + width) + (width + 1) * a + (a + 1) * b + (width + b + 1)
    else:
        item = 4 * len(data.item_ids[0])
        unit = (4 * item + 1) * 64 + (64 + 1)
        network = unit + (width + item + 1) * a + (a + 1) * b + (b + 1)
    assert report.parameters == 4 * ids_count + network
    assert report.rows_count == len(data.rows_of(visits["train"]))
    assert report.epochs[-1].validation_log_loss < min(report.first_validation_log_loss, np.log(2)) - 0.1
