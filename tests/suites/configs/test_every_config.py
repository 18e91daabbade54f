"""Every config of the configs folder: each of its models runs the real stages on real data, and is served.

A config is here because its file is there. See `made_small.py` for what is made small.
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
    cases_by_graph,
    lay_out,
    small_configs,
    train_or_seal,
)
from training.config import ModelConfig
from training.plugins import plugin_names

GRAPHS = cases_by_graph()
FIRST_OF = {case: cases[0] for cases in GRAPHS for case in cases}
Outcomes = dict[Case, Future[Trained]]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """The models of the tests that were asked for, made in as many processes as there are cores."""
    tests = [test for test in request.session.items if test.module is request.module]  # type: ignore[attr-defined]
    asked = [test.callspec.params for test in tests if hasattr(test, "callspec")]
    cases = dict.fromkeys(params["case"] for params in asked if "case" in params)
    cases |= dict.fromkeys(FIRST_OF[case] for case in cases)
    folder = tmp_path_factory.mktemp("configs")
    placed = lay_out(folder, sorted({case.config for case in cases}))
    context = multiprocessing.get_context("spawn")  # what reads tables has threads, and must not be forked
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        yield {
            case: pool.submit(
                train_or_seal,
                placed[case.config],
                case.model,
                folder / "registries" / case.config / case.model,
                seal=FIRST_OF[case] == case,
            )
            for case in cases
        }
        pool.shutdown(cancel_futures=True)


def test_there_are_configs_of_pipelines_and_of_a_study() -> None:
    assert {path.stem for path in CONFIGS} == set(small_configs()) >= {"demo", "every_method", "study"}


@pytest.mark.parametrize("case", [cases[0] for cases in GRAPHS], ids=str)
def test_it_is_sealed_within_the_limit_of_parity_and_the_service_loads_it(
    case: Case, outcomes: Outcomes
) -> None:
    made = outcomes[case].result()
    model = small_configs()[case.config].models[case.model]
    assert isinstance(made, Sealed)
    assert made.label.startswith(f"{case.model}-") and made.backbone == model.backbone.name
    assert made.domains == (model.domains or ("mailer", "display", "both"))
    assert made.rows_count >= VERIFY_ROWS
    assert 0 <= made.logit_difference_max <= made.logit_difference_limit == 1e-4


@pytest.mark.parametrize("case", [case for cases in GRAPHS for case in cases[1:]], ids=str)
def test_it_trains_to_the_parameters_of_a_graph_that_is_sealed(case: Case, outcomes: Outcomes) -> None:
    assert outcomes[case].result().shapes == outcomes[FIRST_OF[case]].result().shapes


@pytest.mark.parametrize("kind", ["backbones", "interest", "losses", "optim"])
def test_every_method_has_a_model_of_its_name(kind: str) -> None:
    def named(model: ModelConfig) -> set[str]:
        return {
            "backbones": {model.backbone.name},
            "interest": {interest.name for interest in model.interests},
            "losses": {loss.name for loss in model.losses.values()},
            "optim": {model.fit.optimizer.name},
        }[kind]

    models = small_configs()["every_method"].models
    for name in plugin_names(f"training.{kind}"):
        assert name in models, f"configs/every_method.yaml has no model {name}"
        assert name in named(models[name])
