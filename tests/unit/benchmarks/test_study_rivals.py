from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study_rivals import write_rival
from training.config import PipelineConfig
from training.data.dataset import Dataset
from training.workbench import Workbench


@pytest.fixture
def dataset(finished_pipeline: PipelineConfig) -> Dataset:
    return Workbench(finished_pipeline).dataset


def test_a_rival_is_made_once_for_a_dataset(tmp_path: Path, dataset: Dataset) -> None:
    made: list[int] = []

    def make() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        made.append(1)
        return np.linspace(0, 1, 7)

    folder = tmp_path / "rivals"
    assert write_rival(folder, "x", dataset, make, library="lib")
    assert not write_rival(folder, "x", dataset, make, library="lib")
    assert len(made) == 1
    stored = np.load(folder / "x.npy")
    assert (stored.dtype, stored.shape) == (np.float32, (7,))
    about = json.loads((folder / "x.json").read_text())
    assert (about["library"], about["fingerprint"]) == ("lib", dataset.spec.fingerprint)
    assert write_rival(folder, "x", dataset, make, library="lib", force=True)
    assert len(made) == 2


def test_a_rival_of_another_dataset_is_made_again(tmp_path: Path, dataset: Dataset) -> None:
    write_rival(tmp_path, "x", dataset, lambda: np.zeros(7), library="lib")
    (tmp_path / "x.json").write_text(json.dumps({"fingerprint": "another"}))
    assert write_rival(tmp_path, "x", dataset, lambda: np.ones(7), library="lib")
    assert np.load(tmp_path / "x.npy").tolist() == [1.0] * 7


def test_a_rival_that_failed_is_not_there(tmp_path: Path, dataset: Dataset) -> None:
    write_rival(tmp_path, "x", dataset, lambda: np.zeros(7), library="lib")

    def fail() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        write_rival(tmp_path, "x", dataset, fail, library="lib", force=True)
    assert not (tmp_path / "x.json").exists()
