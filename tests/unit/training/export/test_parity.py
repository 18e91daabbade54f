"""The cases that parity is measured on: of every domain, number of candidates and length of history."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.synthetic_encoded import tiny_encoded
from training.data.encoded import EncodedData
from training.export.parity import CANDIDATES_COUNTS, CLUSTERS_COUNT_BOUNDS, draw_cases


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return tiny_encoded(tmp_path_factory.mktemp("logs"))[1]


def test_every_kind_that_the_data_have_is_drawn(data: EncodedData) -> None:
    cases = draw_cases(data, rows_min=1, rng=np.random.default_rng(0))
    lengths = np.diff(data.parts["clusters"].starts)

    def kind(request: int) -> tuple[int, int]:
        length = lengths[data.request_visit[request]]
        return int(data.domain[request]), sum(bound <= length for bound in CLUSTERS_COUNT_BOUNDS)

    there = {kind(request) for request in range(len(data.domain))}
    assert {band for _, band in there} >= {1, 2, 3, 4}  # none, one, few, more
    for count in CANDIDATES_COUNTS:
        assert {kind(case.request) for case in cases if len(case.rows) == count} == there
    assert len(cases) == len(there) * len(CANDIDATES_COUNTS)


def test_a_case_has_its_own_rows_first_and_others_of_its_domain(data: EncodedData) -> None:
    for case in draw_cases(data, rows_min=1, rng=np.random.default_rng(1)):
        own = np.flatnonzero(data.row_request == case.request)
        count = min(len(own), len(case.rows))
        assert case.rows[:count].tolist() == own[:count].tolist()
        domains = data.domain[data.row_request[case.rows]]
        assert set(domains.tolist()) == {int(data.domain[case.request])}


@pytest.mark.parametrize("rows_min", [1, 2000])
def test_as_many_rows_are_drawn_as_asked_for(data: EncodedData, rows_min: int) -> None:
    cases = draw_cases(data, rows_min=rows_min, rng=np.random.default_rng(2))
    assert sum(len(case.rows) for case in cases) >= rows_min
