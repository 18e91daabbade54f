"""What every calibration must do; a new file is tested because it exists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract import served_inputs as names
from service.contract.history import HistoryLimits
from tests.suites.models.built import SMALL, TASKS, Choice, build, furthest
from tests.suites.models.test_every_export import export
from tests.support.synthetic_encoded import tiny_encoded
from tests.unit.training.calibration.rows import rows_at_their_rates, together
from training.calibration import Calibration, build_calibration
from training.data.encoded import EncodedData
from training.export.parity import LOGIT_DIFFERENCE_LIMIT, draw_cases, reference_logits
from training.fit import predict, probabilities
from training.plugins import plugin_names

NAMES = plugin_names("training.calibration")
LOGITS = np.linspace(-9.0, 1.0, 400)
BENDS = (lambda z: 0.5 * z - 1.0, lambda z: 1.5 * z + 0.5, lambda z: z - 2.0)
"""The true logit in each of three domains."""

pytestmark = pytest.mark.parametrize("name", NAMES)


def made(name: str, *, per_domain: bool = False) -> Calibration:
    return build_calibration(name, {"per_domain": per_domain}, domains_count=3, tasks_count=2)


def fitted(name: str, *, per_domain: bool) -> Calibration:
    calibration = made(name, per_domain=per_domain)
    rows = together(*(rows_at_their_rates(LOGITS, bend, domain=d) for d, bend in enumerate(BENDS)))
    for task in range(2):
        calibration.fit(task, rows)
    return calibration


def test_is_the_identity_to_the_bit_until_it_is_fitted(name: str) -> None:
    logit = torch.randn(1000, 2) * 20
    for per_domain in (False, True):
        assert torch.equal(made(name, per_domain=per_domain)(logit, torch.randint(3, (1000,))), logit)


def test_recovers_what_each_domain_lacks(name: str) -> None:
    calibration = fitted(name, per_domain=True)
    z = torch.from_numpy(LOGITS[60:-60]).float()[:, None].repeat(1, 2)
    for domain, bend in enumerate(BENDS):
        out = calibration(z, torch.tensor([domain]))
        expected = torch.from_numpy(bend(LOGITS[60:-60])).float()[:, None].expand_as(out)
        torch.testing.assert_close(out, expected, atol=0.05, rtol=0)
        torch.testing.assert_close(out, calibration(z, torch.full((len(z),), domain)), atol=0, rtol=0)


def test_one_map_for_all_domains_has_the_rate_of_all(name: str) -> None:
    calibration = fitted(name, per_domain=False)
    z = torch.from_numpy(LOGITS).float()[:, None].repeat(1, 2)
    rate = np.mean([1 / (1 + np.exp(-bend(LOGITS))) for bend in BENDS])
    found = torch.sigmoid(calibration(z, torch.tensor([0])))[:, 0].mean()
    assert float(found) == pytest.approx(rate, rel=0.02)


def test_too_few_rows_take_the_map_of_all_or_none(name: str) -> None:
    much = rows_at_their_rates(LOGITS, BENDS[0], domain=0)
    little = rows_at_their_rates(LOGITS[:10], BENDS[1], domain=1)
    calibration = made(name, per_domain=True)
    calibration.fit(0, together(much, little))
    calibration.fit(1, little)
    z = torch.from_numpy(LOGITS).float()[:, None].repeat(1, 2)
    own, few, none = (calibration(z, torch.tensor([domain])) for domain in range(3))
    assert torch.equal(few[:, 0], none[:, 0])
    assert bool((own[:, 0] - z[:, 0]).abs().max() > 0.5) and bool((few[:, 0] - z[:, 0]).abs().max() > 0.5)
    assert torch.equal(own[:, 1], z[:, 1])


def test_logits_never_change_places(name: str) -> None:
    calibration = fitted(name, per_domain=True)
    z = (torch.randn(5000, 1) * 10).unique(dim=0).repeat(1, 2)
    for domain in range(3):
        assert bool((calibration(z, torch.tensor([domain])).diff(dim=0) >= 0).all())


def test_nothing_of_it_is_learned_by_gradients(name: str) -> None:
    assert list(made(name).parameters()) == []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return tiny_encoded(tmp_path_factory.mktemp("logs"), limits=HistoryLimits(behaviors_max=20))[1]


@pytest.mark.parametrize("per_domain", [False, True])
def test_the_served_graph_is_calibrated_as_the_model_is(
    name: str, per_domain: bool, data: EncodedData, tmp_path: Path
) -> None:
    model = build(Choice({"name": "pepnet", **SMALL["pepnet"]}, (), 2), data)
    visits = data.visits_of("validation")
    before = predict(model, data, visits)
    model.calibration = fitted(name, per_domain=per_domain)
    after = predict(model, data, visits)
    domain = torch.from_numpy(data.domain[data.row_request[data.rows_of(visits)]])
    np.testing.assert_array_equal(after, model.calibration(torch.from_numpy(before), domain).numpy())
    assert np.abs(after - before).max() > 0.5
    exported = export(model, data, tmp_path)
    cases = draw_cases(data, rows_min=1, rng=np.random.default_rng(0))
    worst = furthest((exported.run(data, case), reference_logits(model, data, case)) for case in cases)
    assert worst <= LOGIT_DIFFERENCE_LIMIT
    p = exported.run(data, cases[0], names.PROBABILITY)
    np.testing.assert_allclose(p, probabilities(exported.run(data, cases[0]), TASKS), atol=1e-6)
