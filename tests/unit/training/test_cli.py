from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.pipelines import copied, written_stages
from tests.support.synthetic_dataset import tiny_config
from training.__main__ import main
from training.config import PipelineConfig
from training.pipeline import steps_of


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["twinstar-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return tiny_config(tmp_path / "workspace", tmp_path / "registry", "memory://")


@pytest.fixture
def path(tmp_path: Path, config: PipelineConfig) -> Path:
    return written(tmp_path, config)


def written(folder: Path, config: PipelineConfig) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return path


def test_json_is_one_object_a_step_and_nothing_else(
    config: PipelineConfig, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with written_stages():
        assert run_main(monkeypatch, "run", path, "--json") == 0
        told = capsys.readouterr()
        lines = [json.loads(line) for line in told.out.splitlines()]
        assert told.err == ""
        assert [(line["stage"], line["model"]) for line in lines] == [
            (step.stage, step.model) for step in steps_of(config)
        ]
        assert all(line["ran"] and line["seconds"] >= 0 for line in lines)
        assert lines[0]["exposures"] == 2640
        assert run_main(monkeypatch, "run", path, "--json") == 0
        again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["stage"] for line in again if line["ran"]] == ["publish"]


def test_without_json_results_are_for_people(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with written_stages():
        assert run_main(monkeypatch, "run", path) == 0
        assert run_main(monkeypatch, "train", path, "--model", "star") == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "exposures 2,640" in told.err
    assert "up to date" in told.err


def test_a_command_for_one_model_runs_it_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with written_stages():
        for stage in ("prepare", "embed", "cluster"):
            assert run_main(monkeypatch, stage, path) == 0
        capsys.readouterr()
        assert run_main(monkeypatch, "train", path, "--model", "pepnet", "--json") == 0
        assert [json.loads(line)["model"] for line in capsys.readouterr().out.splitlines()] == ["pepnet"]
        assert run_main(monkeypatch, "train", path, "--force", "--json") == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(line["model"], line["ran"]) for line in lines] == [("star", True), ("pepnet", True)]


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one message that a person is told; it is no stack trace."""
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error ")
    assert "Traceback" not in told.err
    return told.err


def test_what_a_person_can_mend_is_one_message_and_exit_code_1(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "embed", path) == 1
    assert "stage 'prepare' has not run: run it first" in refused(capsys)
    assert run_main(monkeypatch, "publish", path) == 1
    assert "stage 'verify/star' has not run" in refused(capsys)
    assert run_main(monkeypatch, "train", path, "--model", "stra") == 1
    assert "no model 'stra'; it has star, pepnet" in refused(capsys)
    assert run_main(monkeypatch, "run", tmp_path / "nowhere.yaml") == 1
    assert "nowhere.yaml cannot be read" in refused(capsys)
    for content, message in (
        ("a: [1", "cannot be read as YAML"),
        (path.read_text() + "modles: 1\n", "modles: Extra inputs"),
        (
            path.read_text().replace("gate_hidden", "gate_hiden", 1),
            "models.pepnet.backbone.gate_hiden: Extra",
        ),
    ):
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text(content)
        assert run_main(monkeypatch, "run", wrong, "--json") == 1
        assert message in refused(capsys)


def test_a_message_with_brackets_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "[bold] [/nothing] [red]"
    assert run_main(monkeypatch, "run", odd) == 1
    assert str(odd) in refused(capsys)


def test_a_workspace_that_cannot_be_written_is_one_message(
    tmp_path: Path,
    config: PipelineConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a-file").write_text("")
    content = config.model_dump(mode="json") | {"workspace": str(tmp_path / "a-file" / "workspace")}
    path = written(tmp_path, PipelineConfig.model_validate(content))
    assert run_main(monkeypatch, "prepare", path) == 1
    assert "Not a directory" in refused(capsys)


def test_an_option_that_there_is_not_is_told_with_the_usage(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "run", path, "--jsn") == 2
    assert "Usage" in capsys.readouterr().err


WHAT_IS_LOADED = """
import json, sys
from training.__main__ import main
sys.argv[1:1] = ["publish"]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps(sorted(sys.modules)))
"""


def test_publishing_loads_nothing_that_fits_or_draws(
    finished_pipeline: PipelineConfig, tmp_path: Path
) -> None:
    path = written(tmp_path, copied(finished_pipeline, tmp_path))
    registry, store = tmp_path / "told-registry", f"embedded://{tmp_path}/told-store"
    arguments = [str(path), "--registry", str(registry), "--store", store, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", WHAT_IS_LOADED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    published, modules = map(json.loads, done.stdout.splitlines())
    assert published["stage"] == "publish" and published["users"] == 24
    assert sorted(p.name for p in (registry / "models").iterdir()) == ["pepnet", "star"]
    assert not (tmp_path / "registry").exists()
    loaded = {name.partition(".")[0] for name in modules}
    assert not loaded & {
        "torch",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "sklearn",
        "scipy",
        "joblib",
        "matplotlib",
    }
