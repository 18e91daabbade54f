"""The setting chooses what models compute in; one that cannot be had is served in fp32, and says why."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from service.contract import artefact
from tests.integration.service.conftest import World, Worlds
from tests.support.known_artefact import HOUR_AT_MS, KnownModel
from tests.support.known_registry import PEPNET, STAR, KnownRegistry, build_registry, model_of

pytestmark = pytest.mark.anyio

INT8_HOUR_EFFECT = STAR.hour_effect + 0.01
OFF = 0.01 * HOUR_AT_MS
"""In log-odds of `click`: what this variant is off by. `multi` is off by up to one and a half times it."""


def registry_of(folder: Path, star: KnownModel) -> KnownRegistry:
    registry = build_registry(folder)
    version = star.publish(registry.folder, registry.catalogue, folder / "with-int8").version
    return replace(registry, versions=registry.versions | {"star": version})


async def scored_as(world: World, star: KnownModel) -> None:
    """Assert that users are scored by the models that are known, STAR's being this one."""
    models = {"star": star, "pepnet": PEPNET}
    met = set()
    for number in range(20):
        user = f"stranger {number}"
        model = models[model_of(user, "mailer", world.plan).name]
        met.add(model.name)
        answer = (await world.score({"user_id": user, "candidates": ["apple"]})).json()
        expected = model.probability("apple", domain="mailer", user_id=user)
        got = answer["results"][0]["click"]
        assert got == pytest.approx(expected[0], rel=1e-5)
    assert met == {"star", "pepnet"}


async def ready(world: World) -> dict[str, tuple[str, str | None]]:
    models = (await world.client.get("/readyz")).json()["models"]
    return {model["name"]: (model["precision"], model["why_fp32"]) for model in models}


async def test_fp32_is_served_unless_asked(worlds: Worlds, tmp_path: Path) -> None:
    registry = registry_of(tmp_path, replace(STAR, int8_hour_effect=INT8_HOUR_EFFECT))
    async with worlds("memory://", registry) as world:
        await scored_as(world, STAR)
        assert await ready(world) == {"star": ("fp32", None), "pepnet": ("fp32", None)}


async def test_models_that_carry_int8_are_served_in_it_and_the_others_say_why_not(
    worlds: Worlds, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = registry_of(tmp_path, replace(STAR, int8_hour_effect=INT8_HOUR_EFFECT))
    with caplog.at_level(logging.WARNING, logger="service.runtime"):
        async with worlds("memory://", registry, precision="int8") as world:
            await scored_as(world, replace(STAR, hour_effect=INT8_HOUR_EFFECT))
            found = await ready(world)
            assert found["star"] == ("int8", None)
            precision, why = found["pepnet"]
            assert precision == "fp32" and why is not None and "no int8 variant" in why
            metrics = (await world.client.get("/metrics")).text
            for name, expected in (("star", "int8"), ("pepnet", "fp32")):
                assert f'name="{name}",precision="{expected}"' in metrics
            await world.app.state.runtime.look()
    said = [record.model for record in caplog.records if record.message == "in fp32"]  # type: ignore[attr-defined]
    assert said == [f"pepnet-{registry.versions['pepnet']}"]


async def test_a_variant_further_off_than_its_gate_stated_is_not_served(
    worlds: Worlds, tmp_path: Path
) -> None:
    """As where a processor adds up in too few bits."""
    for stated, expected in ((1.5 * OFF, "int8"), (0.9 * OFF, "fp32")):
        star = replace(STAR, int8_hour_effect=INT8_HOUR_EFFECT, int8_log_odds_stated=stated)
        registry = registry_of(tmp_path / expected, star)
        async with worlds("memory://", registry, precision="int8") as world:
            precision, why = (await ready(world))["star"]
            assert precision == expected
            if expected == "fp32":
                assert why is not None and "golden request" in why
                await scored_as(world, STAR)


async def test_a_file_of_a_variant_that_is_not_the_exported_one_makes_the_artefact_unready(
    worlds: Worlds, tmp_path: Path
) -> None:
    """Also where nobody asks for it: an artefact is whole or it is none."""
    registry = registry_of(tmp_path, replace(STAR, int8_hour_effect=INT8_HOUR_EFFECT))
    folder = artefact.model_folder(registry.folder, "star") / registry.versions["star"]
    (folder / artefact.scorer_file("mailer", "int8")).unlink()
    async with worlds("memory://", registry) as world:
        response = await world.client.get("/readyz")
        assert response.status_code == 503 and "mailer.int8.onnx" in response.text
