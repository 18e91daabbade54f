from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from training.errors import ConfigError
from training.plugins import load_plugin, plugin_names

PACKAGE = "plugins_of_a_test"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("beta", "alpha", "_shared_by_both"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n")
    module = ModuleType(PACKAGE)
    module.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    for name in ("alpha", "beta"):
        monkeypatch.delitem(sys.modules, f"{PACKAGE}.{name}", raising=False)
    return PACKAGE


def test_a_plug_in_is_there_because_its_file_is(package: str) -> None:
    assert plugin_names(package) == ("alpha", "beta")
    assert load_plugin(package, "beta").NAME == "beta"


@pytest.mark.parametrize("name", ["gamma", "_shared_by_both", "", "alpha.beta", "../alpha"])
def test_a_name_without_a_file_is_refused_with_those_there_are(package: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"is none of {PACKAGE}: alpha, beta"):
        load_plugin(package, name)


@pytest.mark.parametrize(
    "kind", ["training.backbones", "training.interest", "training.losses", "training.data.sources"]
)
def test_every_plug_in_has_options_that_refuse_what_they_do_not_know(kind: str) -> None:
    for name in plugin_names(kind):
        plugin = load_plugin(kind, name)
        assert plugin.Options.model_config["extra"] == "forbid", name
        assert plugin.Options.model_config["frozen"], name
        assert callable(plugin.build), name
