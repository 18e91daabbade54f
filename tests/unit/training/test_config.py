from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.support.pipelines import changed
from tests.support.synthetic_dataset import tiny_config
from training.config import ModelConfig, PipelineConfig, check_plugins, load_config
from training.errors import ConfigError
from training.study.config import load_study

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
LEAST = {
    "workspace": "runs/x",
    "dataset": {"source": "parquet", "path": "logs"},
    "embed": {"backbone": "star"},
    "models": {"star": {"backbone": {"name": "star", "hidden": [4]}}},
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return load_config(written(tmp_path, LEAST))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_that_comes_along_is_a_pipelines_or_a_studys(path: Path) -> None:
    if "pipeline" in yaml.safe_load(path.read_text()):
        load_study(path)
    else:
        check_plugins(load_config(path))


def test_a_plug_in_is_its_name_or_its_name_and_options(config: PipelineConfig) -> None:
    assert (config.embed.backbone.name, config.embed.backbone.options) == ("star", {})
    assert config.models["star"].backbone.options == {"hidden": [4]}


def test_a_config_written_out_reads_back_the_same(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "workspace", tmp_path / "registry", "memory://")
    assert load_config(written(tmp_path, config.model_dump(mode="json"))) == config


def test_a_task_without_a_loss_has_the_default_and_then_bce() -> None:
    model = ModelConfig.model_validate({"backbone": "star", "losses": {"click": "jrc", "default": "bce"}})
    assert [model.loss_of(task).name for task in ("click", "buy")] == ["jrc", "bce"]
    assert ModelConfig.model_validate({"backbone": "star"}).loss_of("click").name == "bce"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "cannot be read as YAML"),
        ("at: 2017-13-45", "cannot be read as YAML"),
        ("", r"\(whole file\)"),
        ("[]", r"\(whole file\)"),
        ({**LEAST, "modles": {}}, "modles: Extra inputs"),
        ({**LEAST, "models": {}}, "models: "),
        ({**LEAST, "models": {"Star!": {"backbone": "star"}}}, "models.Star!"),
        ({**LEAST, "models": {"a": {"backbone": "star", "fit": {"epoch": 3}}}}, "models.a.fit.epoch: Extra"),
        ({**LEAST, "models": {"a": {"backbone": "star", "fit": {"epochs": 0}}}}, "models.a.fit.epochs: "),
        ({**LEAST, "models": {"a": {"backbone": {"hidden": [4]}}}}, "models.a.backbone.name: "),
        ({**LEAST, "models": {"a": {"backbone": "star", "interests": ["twin_v2"] * 2}}}, "twice"),
        ({**LEAST, "dataset": {"path": "logs"}}, "dataset.source must name a data source"),
        ({**LEAST, "history": {"first_snapshot_days": float("inf")}}, "history.first_snapshot_days: "),
        ({**LEAST, "history": {"limits": {"recents_max": 51}}}, "tail_count must be at least"),
        ({**LEAST, "history": {"limits": {"behaviors_max": 51}}}, "tail_count must be at least"),
        ({**LEAST, "models": {"a": {"backbone": "star", "domains": ["No!"]}}}, "models.a.domains.0: "),
        ({**LEAST, "statistics": {"matches": []}}, "statistics.matches: Extra inputs"),
        ({**LEAST, "publish": {"snapshot_line": "../up"}}, "publish.snapshot_line: "),
    ],
)
def test_what_is_no_config_is_refused_with_the_key(tmp_path: Path, content: Any, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(path)
    assert str(path) in str(raised.value)


def test_a_tail_as_long_as_what_is_read_of_it_is_long_enough(tmp_path: Path) -> None:
    history = {"limits": {"recents_max": 5, "behaviors_max": 60}, "snapshots": {"tail_count": 60}}
    assert load_config(written(tmp_path, {**LEAST, "history": history})).history.limits.behaviors_max == 60


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pipeline.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"source": "csv"}}, "dataset: 'csv' is none of sources: complete_journey, parquet"),
        ({"dataset": {"source": "parquet", "pth": "logs"}}, "dataset.pth: Extra inputs"),
        ({"embed.backbone.name": "dcn"}, "embed.backbone: 'dcn' is none of backbones: crocodile, dcnv2, "),
        ({"models.star.backbone.options": {"hiden": [4]}}, "models.star.backbone.hiden: Extra inputs"),
        ({"models.star.backbone.options": {"hidden": ["x"]}}, "models.star.backbone.hidden.0: "),
        ({"models.star.interests": ["dien"]}, "models.star.interests.0: 'dien' is none of interest"),
        ({"models.star.fit.optimizer.name": "sgd"}, "models.star.fit.optimizer: 'sgd' is none of optim"),
        (
            {"embed.fit.optimizer": {"name": "adam", "momentum": 1}},
            "embed.fit.optimizer.momentum: Extra inputs",
        ),
        ({"embed.fit.optimizer": {"name": "adam", "beta1": 1}}, "embed.fit.optimizer.beta1: "),
        (
            {"models.star.interests": ["short_term", {"name": "twin_v2", "keep": 0}]},
            "models.star.interests.1.keep: ",
        ),
        ({"models.star.losses": {"click": "jrcc"}}, "models.star.losses.click: 'jrcc' is none of losses"),
        ({"models.star.losses": {"default": {"name": "jrc", "alpha": 2}}}, "losses.default.alpha: "),
    ],
)
def test_plug_ins_and_options_that_there_are_not_are_named_by_their_key(
    config: PipelineConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_plugins(changed(config, changes))


def test_all_that_is_wrong_with_plug_ins_is_told_at_once(config: PipelineConfig) -> None:
    wrong = changed(config, {"embed.backbone.name": "dcn", "models.star.backbone.options": {"a": 1, "b": 2}})
    with pytest.raises(ConfigError) as raised:
        check_plugins(wrong)
    assert [line.split(":")[0].strip() for line in str(raised.value).splitlines()[1:]] == [
        "embed.backbone",
        "models.star.backbone.a",
        "models.star.backbone.b",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presentation": {"mode": "pal"}}, "mode 'pal' needs the names of some"),
        (
            {"presentation": {"features": ["place"], "mode": "neutral"}, "fit": {"cold_start_ratio": 0}},
            "let fit.cold_start_ratio show it",
        ),
        ({"presentation": {"features": ["place"], "mode": "blind"}}, "presentation.mode"),
        ({"entire_space": "all"}, "entire_space"),
    ],
)
def test_options_of_a_model_that_contradict_each_other_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"backbone": "mlp", **changes})


def test_the_form_of_a_task_is_the_models_or_its_own() -> None:
    one = ModelConfig.model_validate({"backbone": "mlp", "entire_space": "product"})
    own = ModelConfig.model_validate({"backbone": "mlp", "entire_space": {"buy": "direct"}})
    assert [one.entire_space_of(task) for task in ("buy", "like")] == ["product", "product"]
    assert [own.entire_space_of(task) for task in ("buy", "like")] == ["direct", "conditional"]
