from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from training.errors import ConfigError
from training.study.config import StudyConfig, load_study, merged

PIPELINE = Path("configs/demo.yaml").resolve()


def study(**changes: Any) -> dict[str, Any]:
    return {
        "pipeline": str(PIPELINE),
        "budget_hours": 1,
        "base": {
            "backbone": {"name": "star", "hidden": [8]},
            "interests": [{"name": "short_term"}],
            "losses": {"default": {"name": "jrc", "alpha": 0.5}},
            "fit": {"epochs": 3},
        },
        "reference": "base",
        "rows": {"base": {"label": "base", "group": "control"}},
        **changes,
    }


def read(folder: Path, content: dict[str, Any]) -> StudyConfig:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_study(path)[0]


def with_row(model: dict[str, Any]) -> dict[str, Any]:
    rows = {
        "base": {"label": "base", "group": "control"},
        "other": {"label": "other", "group": "x", "model": model},
    }
    return study(rows=rows)


def test_a_row_without_changes_is_the_base(tmp_path: Path) -> None:
    config = read(tmp_path, study())
    assert config.model_of("base", 1) == config.base
    assert config.model_of("base", 7).fit.seed == 7


def test_options_of_the_same_plugin_are_merged(tmp_path: Path) -> None:
    model = read(tmp_path, with_row({"losses": {"default": {"same_label": True}}})).model_of("other", 1)
    assert model.losses["default"].options == {"alpha": 0.5, "same_label": True}


def test_another_plugin_takes_no_options_of_the_base(tmp_path: Path) -> None:
    model = read(tmp_path, with_row({"losses": {"default": {"name": "bce"}}})).model_of("other", 1)
    assert (model.losses["default"].name, model.losses["default"].options) == ("bce", {})
    assert model.backbone.options == {"hidden": [8]}


def test_lists_are_replaced(tmp_path: Path) -> None:
    model = read(tmp_path, with_row({"interests": [], "fit": {"epochs": 1}})).model_of("other", 1)
    assert model.interests == ()
    assert model.fit.epochs == 1


def test_merging_changes_neither_side() -> None:
    base, changes = {"fit": {"epochs": 3}}, {"fit": {"batch_rows": 5}}
    assert merged(base, changes) == {"fit": {"epochs": 3, "batch_rows": 5}}
    assert (base, changes) == ({"fit": {"epochs": 3}}, {"fit": {"batch_rows": 5}})


def test_a_row_that_makes_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows\.other\.model"):
        read(tmp_path, with_row({"fit": {"epochs": 0}}))


def test_a_reference_that_is_no_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reference"):
        read(tmp_path, study(reference="gone"))


def test_the_pipeline_is_found_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(PIPELINE.read_text())
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study(pipeline="pipeline.yaml")))
    assert load_study(tmp_path / "study.yaml")[1].workspace == Path("runs/demo")
