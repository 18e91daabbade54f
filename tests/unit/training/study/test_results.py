from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.config import ModelConfig
from training.study.results import (
    DRAWS_FILE,
    RESULT_FILE,
    SPLIT_FILES,
    FitResult,
    in_full,
    is_current,
    read_draws,
    read_result,
    write_draws,
    write_folder,
)

INPUTS = {"dataset": "abc", "cluster": "def"}
MODEL = ModelConfig.model_validate(
    {"backbone": {"name": "star", "hidden": [8]}, "losses": {"default": "jrc"}, "interests": ["twin_v2"]}
)


def result(**changes: Any) -> FitResult:
    content: dict[str, Any] = {
        "row": "base",
        "seed": 1,
        "inputs": INPUTS,
        "model": MODEL.model_dump(mode="json"),
        "per_domain": False,
        "parameters": 10,
        "seconds": 1.0,
        "train_samples_per_s": 5.0,
        "parts": (),
        "metrics": (),
        "peak_memory_mib": 1,
        "finished_at": "2026-01-01T00:00:00",
    }
    return FitResult.model_validate({**content, **changes})


def write(folder: Path) -> None:
    (folder / RESULT_FILE).write_text(result().model_dump_json())
    for name in (*SPLIT_FILES.values(), DRAWS_FILE):
        (folder / name).write_bytes(b"")


def current(result: FitResult, *, model: ModelConfig = MODEL) -> bool:
    return is_current(result, model=model, per_domain=False, inputs=INPUTS)


def test_a_result_of_the_same_model_and_inputs_is_current() -> None:
    assert current(result())


def test_a_default_written_out_is_the_same_model() -> None:
    written_out = ModelConfig.model_validate(in_full(MODEL))
    assert written_out.backbone.options["auxiliary_width"] == 32
    assert current(result(), model=written_out)
    assert current(result(model=in_full(MODEL)))


def test_a_key_that_the_stored_model_lacks_has_its_default() -> None:
    stored = MODEL.model_dump(mode="json")
    del stored["embedding_width"]
    assert current(result(model=stored))
    assert not current(result(model=stored), model=MODEL.model_copy(update={"embedding_width": 3}))


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": {**INPUTS, "cluster": "other"}},
        {"per_domain": True},
        {"model": {**MODEL.model_dump(mode="json"), "embedding_width": 3}},
        {
            "model": {
                **MODEL.model_dump(mode="json"),
                "backbone": {"name": "star", "options": {"hidden": [9]}},
            }
        },
        {"model": {**MODEL.model_dump(mode="json"), "losses": {"default": {"name": "bce", "options": {}}}}},
        {"model": {**MODEL.model_dump(mode="json"), "gone": 1}},
        {"model": {**MODEL.model_dump(mode="json"), "backbone": {"name": "gone", "options": {}}}},
    ],
)
def test_what_was_made_from_something_else_is_stale(changes: dict[str, Any]) -> None:
    assert not current(result(**changes))


def test_a_folder_without_all_its_files_is_no_result(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    write(tmp_path)
    assert read_result(tmp_path) == result()
    (tmp_path / "test.npy").unlink()
    assert read_result(tmp_path) is None


def test_a_result_cut_short_is_none(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / RESULT_FILE).write_text(result().model_dump_json()[:-5])
    assert read_result(tmp_path) is None


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "row" / "1"

    def half(out: Path) -> None:
        (out / "half").write_text("")
        raise RuntimeError("ended")

    with pytest.raises(RuntimeError):
        write_folder(folder, half)
    assert not folder.exists()
    write_folder(folder, write)
    assert read_result(folder) is not None
    with pytest.raises(RuntimeError):
        write_folder(folder, half)
    assert read_result(folder) is not None
    assert not (folder / "half").exists()


def test_what_an_ended_run_left_is_not_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "row" / "1"

    def half(out: Path) -> None:
        (out / "half").write_text("")
        raise RuntimeError("ended")

    with pytest.raises(RuntimeError):
        write_folder(folder, half)
    write_folder(folder, write)
    assert not (folder / "half").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_draws_come_back_as_they_were_written(tmp_path: Path) -> None:
    drawn = {"all": {"auc": np.array([0.5, np.nan]), "pcoc": np.array([1.0, 2.0])}, "a": {"auc": np.zeros(2)}}
    write_draws(tmp_path / "draws.npz", drawn)
    read = read_draws(tmp_path / "draws.npz")
    assert {d: list(own) for d, own in read.items()} == {d: list(own) for d, own in drawn.items()}
    np.testing.assert_array_equal(read["all"]["auc"], drawn["all"]["auc"])
