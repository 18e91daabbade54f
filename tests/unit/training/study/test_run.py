"""The whole study on the synthetic logs, with models of a few numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support.pipelines import copied
from training.config import PipelineConfig
from training.errors import ConfigError
from training.progress import Progress
from training.stages.evaluate import metrics_of
from training.study.config import StudyConfig, load_study
from training.study.run import make_inputs, run_study
from training.workbench import Workbench

MODEL = {
    "backbone": {"name": "mlp", "hidden": [4]},
    "embedding_width": 2,
    "fit": {"epochs": 2, "batch_rows": 512},
}
ROWS: dict[str, Any] = {
    "base": {"label": "MLP", "group": "headline", "seeds": [1, 2]},
    "separate": {"label": "a model per domain", "group": "control", "per_domain": True},
}
BARS = [
    {"asked": "as good as the base", "row": "separate", "than": ["base"], "metrics": ["auc"], "at_least": 0}
]


class Study:
    """A study in a folder of its own, over a copy of the finished pipeline."""

    def __init__(self, folder: Path, pipeline: PipelineConfig) -> None:
        self.folder = folder
        self.pipeline = copied(pipeline, folder)
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(self.pipeline.model_dump(mode="json")))

    def config(self, **changes: Any) -> StudyConfig:
        content = {
            "pipeline": "pipeline.yaml",
            "budget_hours": 1,
            "processes": 2,
            "base": MODEL,
            "reference": "base",
            "rows": ROWS,
            "bars": BARS,
            "results": str(self.folder / "study.json"),
            "page": str(self.folder / "docs" / "study.md"),
            "public_libraries": str(self.folder / "public_libraries.json"),
            **changes,
        }
        (self.folder / "study.yaml").write_text(yaml.safe_dump(content))
        return load_study(self.folder / "study.yaml")[0]

    def fit_folder(self, row: str, seed: int) -> Path:
        return self.pipeline.workspace / "study" / row / str(seed)

    def finished_at(self) -> dict[str, int]:
        files = (self.pipeline.workspace / "study").glob("*/*/result.json")
        return {str(path): path.stat().st_mtime_ns for path in files}

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder / "study.json").read_text())["rows"]
        return rows

    def page(self) -> str:
        return (self.folder / "docs" / "study.md").read_text()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, finished_pipeline: PipelineConfig) -> Study:
    made = Study(tmp_path_factory.mktemp("study"), finished_pipeline)
    outcome = run_study(made.config(), made.pipeline, json=True)
    assert (outcome.failed, outcome.not_started) == ({}, ())
    return made


def test_every_row_and_seed_is_measured_on_both_splits_all_domains_and_tasks(study: Study) -> None:
    spec = Workbench(study.pipeline).dataset.spec
    found = {(r["name"], r["seed"], r["split"], r["domain"], r["task"]) for r in study.rows()}
    assert found == {
        (name, seed, split, domain, task)
        for name, seed in (("base", 1), ("base", 2), ("separate", 1))
        for split in ("validation", "test")
        for domain in ("all", *spec.domains)
        for task in spec.task_names
    }


def test_metrics_are_those_of_the_probabilities_kept(study: Study) -> None:
    bench = Workbench(study.pipeline)
    data = bench.encoded(Progress(quiet=True))
    p = np.load(study.fit_folder("separate", 1) / "test.npy")
    assert (p.dtype, np.isnan(p).any()) == (np.float32, False)
    expected = {
        (m.domain, m.task): m for m in metrics_of(bench, data, data.visits_of("test"), p, natural=True)
    }
    for row in study.rows():
        if (row["name"], row["split"]) == ("separate", "test"):
            assert row["auc"] == expected[row["domain"], row["task"]].auc
            assert row["log_loss"] == expected[row["domain"], row["task"]].log_loss


def test_a_model_per_domain_knows_nothing_of_the_other_domains(study: Study) -> None:
    result = json.loads((study.fit_folder("separate", 1) / "result.json").read_text())
    data = Workbench(study.pipeline).encoded(Progress(quiet=True))
    train_rows = data.rows_of(data.visits_of("train"))
    domains = data.domain[data.row_request[train_rows]]
    assert [part["domains"] for part in result["parts"]] == [[name] for name in data.domains]
    assert [part["train_rows"] for part in result["parts"]] == np.bincount(domains).tolist()


def test_seeds_differ_and_nothing_else(study: Study) -> None:
    first, second = (np.load(study.fit_folder("base", seed) / "test.npy") for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_the_page_shows_what_was_asked_and_every_plot_is_there(study: Study) -> None:
    page = study.page()
    assert "3 of 3 fits are done" in page
    assert "| as good as the base | AUC " in page
    assert "Missing" not in page
    plots = [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert len(plots) == 6
    assert all((study.folder / "docs" / plot).read_text().startswith("<?xml") for plot in plots)


def test_what_is_finished_is_not_fitted_again(study: Study) -> None:
    before = study.finished_at()
    run_study(study.config(), study.pipeline, json=True)
    assert study.finished_at() == before


def test_only_what_changed_is_fitted_again(tmp_path: Path, finished_pipeline: PipelineConfig) -> None:
    own = Study(tmp_path, finished_pipeline)
    rows = {"base": {**ROWS["base"], "seeds": [1]}, "other": {"label": "other", "group": "x"}}
    run_study(own.config(rows=rows, bars=[]), own.pipeline, json=True)
    before = own.finished_at()
    rows["other"] = {"label": "renamed", "group": "y", "model": {"embedding_width": 3}}
    run_study(own.config(rows=rows, bars=[]), own.pipeline, json=True)
    after = own.finished_at()
    assert {path for path in after if after[path] != before[path]} == {
        str(own.fit_folder("other", 1) / "result.json")
    }
    assert "renamed" in own.page()


def test_without_budget_what_is_missing_is_told_and_the_rest_reported(
    tmp_path: Path, finished_pipeline: PipelineConfig
) -> None:
    own = Study(tmp_path, finished_pipeline)
    run_study(own.config(bars=[]), own.pipeline, rows=["separate"], json=True)
    outcome = run_study(own.config(budget_hours=1e-9), own.pipeline, json=True)
    assert outcome.not_started == ("base/1", "base/2")
    assert "**Missing:** `base` (seed 1), `base` (seed 2)." in own.page()
    assert "**not measured** (lacking: base)" in own.page()
    assert {row["name"] for row in own.rows()} == {"separate"}


def test_a_row_that_makes_no_model_is_refused_before_any_fit(
    tmp_path: Path, finished_pipeline: PipelineConfig
) -> None:
    own = Study(tmp_path, finished_pipeline)
    rows = {**ROWS, "wrong": {"label": "w", "group": "x", "model": {"backbone": {"name": "mlp", "depth": 3}}}}
    with pytest.raises(ConfigError, match=r"rows\.wrong"):
        run_study(own.config(rows=rows), own.pipeline, json=True)
    assert own.finished_at() == {}
    with pytest.raises(ConfigError, match="is no row"):
        run_study(own.config(), own.pipeline, rows=["gone"], json=True)


def test_a_row_that_would_read_empty_histories_is_refused(study: Study) -> None:
    assert study.pipeline.history.limits.behaviors_max == 0
    rows = {**ROWS, "raw": {"label": "r", "group": "x", "model": {"interests": [{"name": "twin"}]}}}
    with pytest.raises(ConfigError, match=r"rows\.raw: .*behaviors_max"):
        run_study(study.config(rows=rows), study.pipeline, json=True)


def test_a_report_fits_nothing(tmp_path: Path, finished_pipeline: PipelineConfig) -> None:
    own = Study(tmp_path, finished_pipeline)
    run_study(own.config(), own.pipeline, report_only=True, json=True)
    assert own.finished_at() == {}
    assert "0 of 3 fits are done" in own.page()


def test_rivals_and_public_libraries_are_measured_on_the_same_rows(
    tmp_path: Path, finished_pipeline: PipelineConfig
) -> None:
    own = Study(tmp_path, finished_pipeline)
    run_study(own.config(bars=[]), own.pipeline, rows=["base"], json=True)
    inputs = make_inputs(Workbench(own.pipeline), Progress(quiet=True))
    ours = np.load(own.fit_folder("base", 1) / "test.npy")[:, 0]
    whole = np.full(len(inputs.data.item), np.nan, np.float32)
    whole[inputs.splits["test"].rows] = ours
    whole[inputs.splits["validation"].rows] = np.load(own.fit_folder("base", 1) / "validation.npy")[:, 0]
    rivals = own.pipeline.workspace / "rivals"
    libraries = own.pipeline.workspace / "public_libraries"
    fingerprint = inputs.bench.dataset.spec.fingerprint
    digest = inputs.bench.features_digest
    rivals.mkdir()
    for name, made_from in {
        "lightgbm": {"fingerprint": fingerprint},
        "of_features": {"fingerprint": fingerprint, "features": digest},
        "old": {"fingerprint": "another dataset"},
        "of_old_features": {"fingerprint": fingerprint, "features": "others"},
    }.items():
        np.save(rivals / f"{name}.npy", whole)
        (rivals / f"{name}.json").write_text(json.dumps({"library": "lightgbm", **made_from}))
    libraries.mkdir()
    known = [row for row in own.rows() if (row["name"], row["seed"], row["task"]) == ("base", 1, "click")]
    elsewhere = [{**row, "name": "din", "library": "fuxictr", "features": digest} for row in known]
    elsewhere += [{**row, "name": "dcnv2", "features": "others"} for row in elsewhere]
    (tmp_path / "public_libraries.json").write_text(json.dumps({"rows": elsewhere}))
    for name in ("din", "dcnv2"):
        np.save(libraries / f"fuxictr-{name}-1.npy", ours.astype(np.float64))

    bars = [{"asked": "x", "row": "base", "than": ["every"], "metrics": ["auc"], "at_least": -1}]
    run_study(own.config(bars=bars), own.pipeline, report_only=True, json=True)
    assert {row["name"] for row in own.rows()} == {"base", "lightgbm", "of_features", "din"}

    def clicks(name: str, split: str) -> list[float]:
        chosen = [r for r in own.rows() if (r["name"], r["split"], r["task"]) == (name, split, "click")]
        return [row["auc"] for row in chosen if row["seed"] == 1]

    for split in ("validation", "test"):
        assert clicks("lightgbm", split) == clicks("din", split) == clicks("base", split)
    assert "## Against the rival" in own.page()
    assert "| din (fuxictr) |" in own.page()

    np.save(libraries / "fuxictr-din-1.npy", ours[::-1].astype(np.float64))  # not those of its results
    run_study(own.config(bars=bars), own.pipeline, report_only=True, json=True)
    assert "| din (fuxictr) |" not in own.page()
    assert "din" not in {row["name"] for row in own.rows()}
