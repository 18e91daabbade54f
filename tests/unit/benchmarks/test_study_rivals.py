from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study_rivals import model_columns, write_rival
from service.contract.features import Side
from training.config import PipelineConfig
from training.workbench import Workbench

OF_DATA = {"fingerprint": "f"}


def test_a_rival_is_made_once_for_a_dataset(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        made.append(1)
        return np.linspace(0, 1, 7)

    folder = tmp_path / "rivals"
    assert write_rival(folder, "x", OF_DATA, make, library="lib")
    assert not write_rival(folder, "x", OF_DATA, make, library="lib")
    assert len(made) == 1
    stored = np.load(folder / "x.npy")
    assert (stored.dtype, stored.shape) == (np.float32, (7,))
    about = json.loads((folder / "x.json").read_text())
    assert (about["library"], about["fingerprint"]) == ("lib", "f")
    assert write_rival(folder, "x", OF_DATA, make, library="lib", force=True)
    assert len(made) == 2


def test_a_rival_of_another_dataset_is_made_again(tmp_path: Path) -> None:
    write_rival(tmp_path, "x", OF_DATA, lambda: np.zeros(7), library="lib")
    (tmp_path / "x.json").write_text(json.dumps({"fingerprint": "another"}))
    assert write_rival(tmp_path, "x", OF_DATA, lambda: np.ones(7), library="lib")
    assert np.load(tmp_path / "x.npy").tolist() == [1.0] * 7


def test_a_rival_that_failed_is_not_there(tmp_path: Path) -> None:
    write_rival(tmp_path, "x", OF_DATA, lambda: np.zeros(7), library="lib")

    def fail() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        write_rival(tmp_path, "x", OF_DATA, fail, library="lib", force=True)
    assert not (tmp_path / "x.json").exists()


def test_a_rival_that_reads_features_is_made_again_when_they_change(tmp_path: Path) -> None:
    old, new = {**OF_DATA, "features": "old"}, {**OF_DATA, "features": "new"}
    assert write_rival(tmp_path, "x", old, lambda: np.zeros(7), library="lib")
    assert not write_rival(tmp_path, "x", old, lambda: np.zeros(7), library="lib")
    assert write_rival(tmp_path, "x", new, lambda: np.zeros(7), library="lib")
    assert json.loads((tmp_path / "x.json").read_text())["features"] == "new"


def test_trees_get_all_that_models_read_but_ids_and_what_they_have(finished_pipeline: PipelineConfig) -> None:
    bench = Workbench(finished_pipeline)
    columns = model_columns(bench)
    spec = bench.dataset.spec
    sides = (Side.MATCH, Side.POPULARITY, Side.USER, Side.CONTEXT)
    read = {feature.name for feature in bench.features if feature.side in sides}
    assert set(columns.columns) == read - {"user_id"} - {f.name for f in spec.features_of(Side.CONTEXT)}
    assert len(columns) == len(bench.dataset.exposures)
