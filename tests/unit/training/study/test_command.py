from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.pipelines import copied
from training.__main__ import main
from training.config import PipelineConfig


@pytest.fixture
def path(tmp_path: Path, finished_pipeline: PipelineConfig) -> Path:
    pipeline = copied(finished_pipeline, tmp_path)
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(pipeline.model_dump(mode="json")))
    row = {"label": "MLP", "group": "g"}
    content = {
        "pipeline": "pipeline.yaml",
        "budget_hours": 1,
        "base": {"backbone": {"name": "mlp", "hidden": [4]}, "embedding_width": 2, "fit": {"epochs": 1}},
        "reference": "base",
        "rows": {"base": row, "second": row, "third": row},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "study.yaml"


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["twinstar-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_json_is_an_object_a_fit_and_the_page_lies_in_the_workspace(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "study", path, "--json", "--rows", "base,second") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["fit"] for line in lines if "fit" in line} == {"base/1", "second/1"}
    assert run_main(monkeypatch, "study", path, "--json", "--rows", "base") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"up_to_date": ["base/1"]}]
    page = (path.parent / "workspace" / "study_report" / "study.md").read_text()
    assert "2 of 3 fits are done" in page


def test_without_json_results_are_for_people(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "study", path, "--report-only") == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "study.md" in told.err


def test_a_row_that_is_none_is_one_message(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "study", path, "--rows", "gone") == 1
    told = capsys.readouterr().err
    assert "'gone' is no row; there are base, second, third" in told
    assert "Traceback" not in told
