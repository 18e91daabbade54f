from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import polars as pl
import pytest

from tests.support.pipelines import WRITTEN_FILE, changed, names_of_ran, run, written_stages
from tests.support.synthetic_dataset import tiny_config
from training.config import PipelineConfig
from training.errors import ConfigError, StageError
from training.pipeline import STAGE_FILE, Step, steps_of
from training.workbench import Workbench

SHARED = ["prepare", "embed", "cluster"]
STAR = ["train/star", "evaluate/star", "export/star", "verify/star"]
PEPNET = ["train/pepnet", "evaluate/pepnet", "export/pepnet", "verify/pepnet"]
ALL = [*SHARED, *STAR, *PEPNET, "publish"]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[PipelineConfig]:
    """A pipeline that has run; all its stages but `prepare` only write a file."""
    made = tiny_config(tmp_path / "workspace", tmp_path / "registry", "memory://")
    with written_stages():
        run(made)
        yield made


def contents_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_steps_run_in_the_order_in_which_they_read_each_other(config: PipelineConfig) -> None:
    assert [step.name for step in steps_of(config)] == ALL


def test_run_again_finds_all_up_to_date_but_publishes(config: PipelineConfig) -> None:
    results = run(config)
    assert names_of_ran(results) == ["publish"]
    assert [result.summary for result in results[1:]] == [{"files": 1}] * (len(ALL) - 1)
    assert results[0].summary["exposures"] == 2640


def test_force_runs_what_is_up_to_date(config: PipelineConfig) -> None:
    assert names_of_ran(run(config, force=True)) == ALL


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"embed.fit.seed": 5}, ["embed", "cluster", *STAR, *PEPNET]),
        ({"vocabulary.min_count": 2}, ["embed", "cluster", *STAR, *PEPNET]),
        ({"statistics.match": ["any"]}, ["embed", "cluster", *STAR, *PEPNET]),
        ({"statistics.popularity": []}, ["embed", "cluster", *STAR, *PEPNET]),
        ({"models.star.leave_out": ["match"]}, STAR),
        ({"models.pepnet.domains": ["home"]}, PEPNET),
        ({"history.snapshots.seed": 5}, ["embed", "cluster", *STAR, *PEPNET]),
        ({"models.star.fit.epochs": 1}, STAR),
        ({"models.pepnet.backbone.options.hidden": [4]}, PEPNET),
        ({"verify_rows": 7}, ["verify/star", "verify/pepnet"]),
        ({"export.variant_rows": 7}, ["verify/star", "verify/pepnet"]),
        ({"export.variants": []}, [*STAR[2:], *PEPNET[2:]]),
        ({"publish.snapshot_line": "other"}, ["verify/star", "verify/pepnet"]),
        ({"publish.catalogue": "other"}, [*STAR[2:], *PEPNET[2:]]),
        ({"publish.registry": "elsewhere"}, []),
        ({"publish.store": "redis://elsewhere"}, []),
    ],
)
def test_a_changed_part_of_the_config_runs_what_depends_on_it(
    config: PipelineConfig, changes: dict[str, object], stale: list[str]
) -> None:
    assert names_of_ran(run(changed(config, changes))) == [*stale, "publish"]
    assert names_of_ran(run(changed(config, changes))) == ["publish"]


def test_features_that_code_changed_train_every_model_again(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workbench, "features_digest", "of other code")
    assert names_of_ran(run(config)) == [*STAR, *PEPNET, "publish"]


def test_new_logs_run_everything(config: PipelineConfig) -> None:
    logs = Path(config.dataset["path"])
    behaviors = pl.read_parquet(logs / "behaviors.parquet")
    behaviors.head(-1).write_parquet(logs / "behaviors.parquet")
    assert names_of_ran(run(config)) == ALL


def test_logs_of_the_same_size_that_were_written_again_run_prepare(config: PipelineConfig) -> None:
    os.utime(Path(config.dataset["path"]) / "items.parquet", ns=(1, 1))
    assert names_of_ran(run(config))[0] == "prepare"


def test_what_the_pipeline_writes_beside_the_logs_makes_nothing_stale(config: PipelineConfig) -> None:
    beside = changed(
        config,
        {
            "workspace": config.dataset["path"],
            "publish.registry": f"{config.dataset['path']}/registry",
            "publish.store": f"embedded://{config.dataset['path']}/store",
        },
    )
    assert names_of_ran(run(beside)) == ALL
    for folder in (beside.publish.registry, Path(config.dataset["path"]) / "store"):
        folder.mkdir()
        (folder / "file").write_text("x")
    assert names_of_ran(run(beside)) == ["publish"]


@pytest.mark.parametrize("lost", [WRITTEN_FILE, STAGE_FILE, ""])
def test_a_step_whose_output_is_gone_runs_again_alone(config: PipelineConfig, lost: str) -> None:
    folder = config.workspace / "train" / "star"
    for path in [folder / lost] if lost else list(folder.iterdir()):
        path.unlink()
    assert names_of_ran(run(config)) == ["train/star", "publish"]


def test_a_forced_run_that_makes_something_else_runs_what_reads_it(config: PipelineConfig) -> None:
    again = Step("train", "star")
    run(config, again, force=True)
    assert names_of_ran(run(config)) == ["publish"]  # it made the same again
    with written_stages(content=lambda step: "other numbers"):
        run(config, again, force=True)
    assert names_of_ran(run(config)) == [*STAR[1:], "publish"]


def test_a_file_that_somebody_adds_to_an_output_makes_nothing_stale(config: PipelineConfig) -> None:
    (config.workspace / "train" / "star" / "notes.txt").write_text("worth a look")
    assert names_of_ran(run(config)) == ["publish"]


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b"{}", b"null"])
def test_a_step_whose_record_is_torn_runs_again(config: PipelineConfig, torn: bytes) -> None:
    (config.workspace / "cluster" / STAGE_FILE).write_bytes(torn)
    assert names_of_ran(run(config)) == ["cluster", "publish"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_stage_that_fails_leaves_its_old_output_whole_and_nothing_else(
    config: PipelineConfig, error: type[BaseException]
) -> None:
    before = contents_of(config.workspace)

    def fail(step: Step) -> None:
        if step.name == "cluster":
            raise error

    with written_stages(fail), pytest.raises(error):
        run(config, Step("cluster"), force=True)
    assert contents_of(config.workspace) == before
    assert [path.name for path in config.workspace.iterdir() if path.name.startswith(".")] == []
    with written_stages():
        assert names_of_ran(run(config)) == ["publish"]


def test_a_step_after_one_that_failed_is_not_run(config: PipelineConfig) -> None:
    done = []

    def fail(step: Step) -> None:
        done.append(step.name)
        if step.name == "export/star":
            raise ValueError

    with written_stages(fail), pytest.raises(ValueError):
        run(changed(config, {"models.star.fit.epochs": 1}))
    assert done == STAR[:3]
    with written_stages():
        assert names_of_ran(run(changed(config, {"models.star.fit.epochs": 1}))) == [*STAR[2:], "publish"]


def test_left_overs_of_a_process_that_was_killed_are_cleared(config: PipelineConfig) -> None:
    for state in ("incoming", "outgoing"):
        left_over = config.workspace / f".cluster.{state}"
        left_over.mkdir()
        (left_over / "half").write_text("x")
    run(config, Step("cluster"), force=True)
    assert {path.name for path in (config.workspace / "cluster").iterdir()} == {WRITTEN_FILE, STAGE_FILE}
    assert not list(config.workspace.glob(".cluster*"))


def test_the_record_says_what_was_read_and_written(config: PipelineConfig) -> None:
    def record(step: str) -> dict[str, object]:
        content: dict[str, object] = orjson.loads((config.workspace / step / STAGE_FILE).read_bytes())
        return content

    train = record("train/star")
    assert (train["stage"], train["model"], train["summary"]) == ("train", "star", {"files": 1})
    assert train["needs"] == {
        name: f"{record(name)['key']}:{record(name)['output']}" for name in ("prepare", "cluster")
    }
    assert train["config"]["model"]["backbone"]["name"] == "star"  # type: ignore[index]
    assert train["files"] == {WRITTEN_FILE: len("train/star")}
    assert isinstance(train["seconds"], float) and isinstance(train["peak_memory_mib"], int)
    assert train["key"] != record("train/pepnet")["key"]


@pytest.mark.parametrize(
    ("step", "missing"),
    [
        (Step("embed"), "prepare"),
        (Step("cluster"), "prepare"),
        (Step("train", "star"), "prepare"),
        (Step("verify", "star"), "export/star"),
        (Step("publish"), "verify/star"),
    ],
)
def test_a_stage_alone_without_its_input_says_what_to_run_first(
    tmp_path: Path, step: Step, missing: str
) -> None:
    config = tiny_config(tmp_path / "workspace", tmp_path / "registry", "memory://")
    with pytest.raises(StageError, match=f"stage '{missing}' has not run: run it first"):
        run(config, step)


def test_a_stage_alone_refuses_input_that_was_made_with_another_config(config: PipelineConfig) -> None:
    later = changed(config, {"history.limits.recents_max": 10})
    with pytest.raises(StageError, match="'embed' is out of date: run it before 'cluster'"):
        run(later, Step("evaluate", "star"))
    assert names_of_ran(run(changed(config, {"models.pepnet.fit.epochs": 1}), *steps_of(config)[:5])) == []


def test_plug_ins_that_there_are_not_are_refused_before_any_stage_runs(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "workspace", tmp_path / "registry", "memory://")
    with pytest.raises(ConfigError, match=r"models\.star\.backbone\.hiden: Extra inputs"):
        run(changed(config, {"models.star.backbone.options": {"hiden": [4]}}))
    assert not (tmp_path / "workspace" / "prepare").exists()
