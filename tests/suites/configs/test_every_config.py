"""Every config of the configs folder: each of its models is trained by the real stage on real data, and can be served.

A config is here because its file is there. See `made_small.py` for what is made small, and what is sealed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from tests.suites.configs.made_small import (
    CONFIGS,
    VERIFY_ROWS,
    Case,
    Sealed,
    Trained,
    is_study,
    lay_out,
    seal,
    sealed_and_others,
    small_configs,
    train,
)
from training.config import ModelConfig
from training.export.parity import LOGIT_DIFFERENCE_LIMIT
from training.plugins import plugin_names

PROCESSES_MAX = 4  # of up to a gigabyte each
SEALED, OTHERS = sealed_and_others()
Made = dict[Case, Future[Sealed | Trained]]


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The models of the tests that were asked for, made in as many processes as there are cores."""
    tests = [test for test in request.session.items if getattr(test, "module", None) is request.module]
    asked = [test.callspec.params for test in tests if hasattr(test, "callspec")]
    cases: list[Case] = [params["case"] for params in asked if "case" in params]
    placed = lay_out(tmp_path_factory.mktemp("configs"), sorted({case.config for case in cases}))
    context = multiprocessing.get_context("spawn")  # what has read tables has threads, and must not be forked
    with ProcessPoolExecutor(min(PROCESSES_MAX, os.cpu_count() or 1), mp_context=context) as pool:
        yield {
            case: pool.submit(seal if case in SEALED else train, placed[case.config], case.model)
            for case in cases
        }
        pool.shutdown(cancel_futures=True)


def test_every_config_is_here() -> None:
    assert {path.stem for path in CONFIGS} == {case.config for case in SEALED + OTHERS}
    assert not any(is_study(case.config) for case in SEALED) and any(is_study(case.config) for case in OTHERS)


@pytest.mark.parametrize("case", SEALED, ids=str)
def test_a_model_passes_the_parity_gate_and_the_service_loads_it(case: Case, made: Made) -> None:
    found = made[case].result()
    model = small_configs()[case.config].models[case.model]
    assert isinstance(found, Sealed)
    assert found.label.startswith(f"{case.model}-") and found.backbone == model.backbone.name
    assert found.domains == (model.domains or ("mailer", "display", "both"))
    assert found.rows_count >= VERIFY_ROWS
    assert 0 <= found.logit_difference_max <= found.logit_difference_limit == 1e-4


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_a_model_trains_and_its_served_form_scores_alike(case: Case, made: Made) -> None:
    found = made[case].result()
    assert isinstance(found, Trained)
    assert found.logit_difference_max <= LOGIT_DIFFERENCE_LIMIT


@pytest.mark.parametrize("kind", ["backbones", "interest", "losses", "optim", "calibration"])
def test_every_method_has_a_model_of_its_name(kind: str) -> None:
    def named(model: ModelConfig) -> set[str]:
        return {
            "backbones": {model.backbone.name},
            "interest": {interest.name for interest in model.interests},
            "losses": {loss.name for loss in model.losses.values()},
            "optim": {model.fit.optimizer.name},
            "calibration": {model.calibration.name} if model.calibration else set(),
        }[kind]

    models = small_configs()["every_method"].models
    for name in plugin_names(f"training.{kind}"):
        assert name in models, f"configs/every_method.yaml has no model {name}"
        assert name in named(models[name])
