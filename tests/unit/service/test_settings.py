"""Settings: every one is listed, documented, in the environment and on the command line."""

from __future__ import annotations

import re

import pytest

from service.__main__ import check, read_settings, unknown_variables
from service.errors import StartupError
from service.settings import PREFIX, Settings


def test_help_lists_every_setting_with_default_and_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read_settings(["--help"])
    assert end.value.code == 0
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in told
        assert field.description
        assert re.sub(r"\s+", " ", f"{field.description} (default: {field.default})") in told
    assert PREFIX in told


def test_a_variable_sets_and_an_option_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINSTAR_PORT", "8001")
    monkeypatch.setenv("TWINSTAR_WORKERS", "3")
    settings = read_settings(["--port", "8002"])
    assert (settings.port, settings.workers) == (8002, 3)


def test_workers_read_from_their_environment_what_the_command_line_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = read_settings(
        ["--store-url", "redis://host/1", "--log-sample-ratio", "0.5", "--registry", "/else/where"]
    )
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_numbers_carry_their_unit() -> None:
    units = ("_ms", "_s", "_bytes", "_count", "_ratio")
    for name, field in Settings.model_fields.items():
        if field.annotation in (int, float) and name not in ("port", "workers"):
            assert name.endswith(units), name


def test_variables_that_are_no_settings_are_told() -> None:
    assert unknown_variables({"TWINSTAR_PROT": "1", "TWINSTAR_PORT": "1", "PATH": ""}) == ["TWINSTAR_PROT"]


@pytest.mark.parametrize(
    "arguments", [["--port", "x"], ["--workers", "0"], ["--log-level", "loud"], ["--store-timeout-ms", "0"]]
)
def test_a_value_that_does_not_fit_is_refused_by_name(arguments: list[str]) -> None:
    with pytest.raises((StartupError, SystemExit)):
        read_settings(arguments)


def test_a_store_in_memory_is_for_one_worker(tmp_path: object) -> None:
    with pytest.raises(StartupError, match="one process"):
        check(Settings(store_url="memory://", workers=2))
