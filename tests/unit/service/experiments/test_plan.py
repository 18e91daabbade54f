"""The experiment plan: what it may say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import StartupError
from service.experiments.plan import read_plan
from tests.support.known_registry import PLAN

SECOND = """
  - name: second
    salt: other
    domains: [both]
    arms: [{name: all, model: mmoe, share: 1}]
"""


def read(tmp_path: Path, text: str) -> object:
    (tmp_path / "plan.yaml").write_text(text)
    return read_plan(tmp_path / "plan.yaml")


def test_a_layer_covers_its_domains_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN + SECOND)
    plan = read_plan(tmp_path / "plan.yaml")
    layers = {domain: plan.layer_of(domain) for domain in ("mailer", "display", "both", "popup")}
    assert {domain: layer and layer.name for domain, layer in layers.items()} == {
        "mailer": "ranker",
        "display": "ranker",
        "both": "second",
        "popup": None,
    }
    assert plan.models() == ("star", "pepnet", "mmoe")


def test_a_plan_without_layers_has_only_its_default(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("version: 1\ndefault_model: star\n")
    assert read_plan(tmp_path / "plan.yaml").models() == ("star",)


def test_the_plan_that_is_shipped_is_one() -> None:
    plan = read_plan(Path(__file__).parents[4] / "deploy" / "experiments.yaml")
    assert plan.models() == ("star", "pepnet")
    assert all(plan.layer_of(domain) for domain in ("mailer", "display", "both"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "document"),
        ("[]", "document"),
        ("version: 2\ndefault_model: star", "version"),
        ("version: 1\ndefault_model: ../etc", "default_model"),
        (PLAN.replace("share: 0.5", "share: 0.6"), "sum to 1.2"),
        (PLAN.replace("share: 0.5", "share: -0.5"), "share"),
        (PLAN.replace("share: 0.5", "share: .nan"), "share"),
        (PLAN.replace("treatment", "control"), "control occurs more than once"),
        (PLAN.replace("mailer, display", "mailer, mailer"), "mailer occurs more than once"),
        (PLAN.replace("mailer, display", ""), "domains"),
        (PLAN.replace("salt: test", "salt: ''"), "salt"),
        (PLAN + SECOND.replace("both", "mailer"), "mailer occurs more than once"),
        (PLAN + SECOND.replace("second", "ranker"), "ranker occurs more than once"),
        ("a: &a [*a]", "document|no YAML|version"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        read(tmp_path, text)


def test_a_plan_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="TWINSTAR_EXPERIMENTS_FILE"):
        read_plan(tmp_path / "nowhere.yaml")
