"""What the suites of models share."""

from __future__ import annotations

import numpy as np
import pytest

from service.contract.history import HistoryLimits
from tests.support.synthetic_encoded import tiny_encoded
from training.data.encoded import EncodedData
from training.export.parity import draw_cases
from training.export.raw_requests import Case


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return tiny_encoded(tmp_path_factory.mktemp("logs"), limits=HistoryLimits(behaviors_max=20))[1]


@pytest.fixture(scope="session")
def cases(data: EncodedData) -> list[Case]:
    """Requests of every domain with 1, 7 and 100 candidates and histories of none, one, few and many clusters."""
    found = draw_cases(data, rows_min=1, rng=np.random.default_rng(0))
    lengths = np.diff(data.parts["clusters"].starts)[data.request_visit]
    for domain in range(3):
        mine = [case for case in found if data.domain[case.request] == domain]
        assert {len(case.rows) for case in mine} == {1, 7, 100}
        drawn = [lengths[case.request] for case in mine]
        assert {0, 1} < set(drawn) and any(1 < n < 10 for n in drawn) and max(drawn) >= 10
    return found
