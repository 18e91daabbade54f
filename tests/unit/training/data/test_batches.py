"""Batches against plain loops: whole requests, histories once per visit, each visit once."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from tests.support.synthetic_encoded import MOMENTS_MS, tiny_encoded
from training.data.batch import Batch
from training.data.batches import BatchBuilder
from training.data.encoded import EncodedData

BOUNDARIES = np.array(MOMENTS_MS)
USER_FEATURES = 3  # user_id, country, years; device and two time features follow
CANDIDATE_FEATURES = 1  # position; what is counted follows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return tiny_encoded(tmp_path_factory.mktemp("logs"))[1]


def builder(data: EncodedData, *, cold_start_ratio: float = 0.0) -> BatchBuilder:
    return BatchBuilder(data, user_features_count=USER_FEATURES, cold_start_ratio=cold_start_ratio)


def check(data: EncodedData, visits: list[int], batch: Batch) -> None:
    """Compare a batch with loops over the visits."""
    place = request_number = 0
    for v, visit in enumerate(visits):
        slot = 0
        for request in range(data.request_starts[visit], data.request_starts[visit + 1]):
            assert batch.user_ids[request_number].tolist() == data.user_ids[request].tolist()
            assert batch.domain[request_number] == data.domain[request]
            for row in np.flatnonzero(data.row_request == request):
                assert batch.request[place] == request_number
                assert batch.item[place] == data.item[row]
                assert batch.candidate_ids[place].tolist() == data.candidate_ids[row].tolist()
                assert batch.offset[place].item() == pytest.approx(-math.log(data.keep_probability[row]))
                np.testing.assert_array_equal(batch.labels[place].numpy(), data.labels[row])
                assert (batch.layout.visit[place], batch.layout.slot[place]) == (v, slot)
                assert slot < batch.layout.width
                slot += 1
                place += 1
            request_number += 1
        check_history(data, visit, batch, v)
    assert place == len(batch.item) == len(batch.request) == len(batch.labels)
    assert request_number == len(batch.user_ids) == len(batch.domain)


def check_history(data: EncodedData, visit: int, batch: Batch, v: int) -> None:
    for name, part in data.parts.items():
        mine, ids = slice(part.starts[visit], part.starts[visit + 1]), batch.parts[name]
        length = mine.stop - mine.start
        assert ids.item_rows[ids.index[v, :length]].tolist() == part.item[mine].tolist()
        assert ids.size[v, :length].tolist() == part.size[mine].tolist() and bool((part.size[mine] > 0).all())
        assert ids.age[v, :length].tolist() == part.age[mine].tolist()
        assert ids.strength[v, :length].tolist() == part.strength[mine].tolist()
        assert not bool(ids.size[v, length:].any())
        assert len(set(ids.item_rows.tolist())) == len(ids.item_rows)


@pytest.mark.parametrize("seed", range(4))
def test_batch_equals_loops_over_visits_in_any_order(data: EncodedData, seed: int) -> None:
    visits = np.random.default_rng(seed).permutation(len(data.visit_user))[:17]
    check(data, visits.tolist(), builder(data).build(visits))


def test_batch_of_visits_without_history(data: EncodedData) -> None:
    nobody = np.flatnonzero(data.visit_user == data.users.index("u00"))
    batch = builder(data).build(nobody)
    check(data, nobody.tolist(), batch)
    assert not bool(batch.parts["clusters"].size.any()) and batch.parts["clusters"].index.shape[1] == 1


@pytest.mark.parametrize("batch_rows", [1, 5, 64, 333, 100_000])
def test_shuffled_gives_each_visit_once_and_keeps_units_together(data: EncodedData, batch_rows: int) -> None:
    visits = data.visits_of("train")
    cuts = list(
        builder(data).shuffled(visits, batch_rows, boundaries_ms=BOUNDARIES, rng=np.random.default_rng(0))
    )
    together = np.concatenate(cuts)
    assert sorted(together.tolist()) == visits.tolist()
    assert together.tolist() != visits.tolist()
    counts = data.row_starts[1:] - data.row_starts[:-1]
    for cut in cuts:
        assert len(cut) == 1 or counts[cut].sum() <= batch_rows
    for cut, after in pairwise(cuts):
        assert counts[cut].sum() + counts[after[0]] > batch_rows  # no batch ends early
    unit = [
        (int(data.visit_user[v]), sum(moment < data.visit_at_ms[v] for moment in MOMENTS_MS))
        for v in together
    ]
    runs = [u for i, u in enumerate(unit) if i == 0 or u != unit[i - 1]]
    assert len(runs) == len(set(runs))  # each unit in one piece
    for one in set(unit):
        mine = [v for v, u in zip(together, unit, strict=True) if u == one]
        assert mine == sorted(mine)


def test_shuffled_batches_hold_whole_requests_with_local_ids(data: EncodedData) -> None:
    made = builder(data)
    rng = np.random.default_rng(3)
    rows = 0
    for visits in made.shuffled(data.visits_of("train"), 150, boundaries_ms=BOUNDARIES, rng=rng):
        batch = made.build(visits)
        check(data, visits.tolist(), batch)
        rows += len(batch.item)
    assert rows == len(data.rows_of(data.visits_of("train")))


def test_each_epoch_has_its_own_order_and_a_seed_repeats_it(data: EncodedData) -> None:
    def orders(seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [
            np.concatenate(
                list(builder(data).shuffled(data.visits_of("train"), 99, boundaries_ms=BOUNDARIES, rng=rng))
            ).tolist()
            for _ in range(2)
        ]

    first, second = orders(1)
    assert first != second
    assert orders(1) == [first, second]


@pytest.mark.parametrize("batch_rows", [1, 50, 100_000])
def test_in_order_keeps_the_order(data: EncodedData, batch_rows: int) -> None:
    visits = data.visits_of("validation")
    cuts = list(builder(data).in_order(visits, batch_rows))
    assert np.concatenate(cuts).tolist() == visits.tolist()


def test_no_visits_no_batches(data: EncodedData) -> None:
    none = data.visits_of("train")[:0]
    rng = np.random.default_rng(0)
    assert list(builder(data).in_order(none, 10)) == []
    assert list(builder(data).shuffled(none, 10, boundaries_ms=BOUNDARIES, rng=rng)) == []


def test_cold_start_hides_users_as_a_whole_and_items_and_values_one_by_one(data: EncodedData) -> None:
    visits = np.arange(len(data.visit_user))
    before = data.user_ids.copy(), data.item.copy(), data.candidate_ids.copy()
    plain = builder(data).build(visits)
    cold = builder(data, cold_start_ratio=0.3).build(visits, np.random.default_rng(5))
    hidden_visits = 0
    for v in visits:
        requests = range(data.request_starts[v], data.request_starts[v + 1])
        own = [cold.user_ids[r, :USER_FEATURES].tolist() for r in requests]
        known = [plain.user_ids[r, :USER_FEATURES].tolist() for r in requests]
        assert own in (known, [[0] * USER_FEATURES] * len(own))
        hidden_visits += own != known
    hidden_items = cold.item != plain.item
    assert not bool(cold.item[hidden_items].any())
    counts = [(hidden_visits, len(visits)), (int(hidden_items.sum()), len(cold.item))]
    for ids, known_ids in (
        (cold.user_ids[:, USER_FEATURES:], plain.user_ids[:, USER_FEATURES:]),
        (cold.candidate_ids[:, :CANDIDATE_FEATURES], plain.candidate_ids[:, :CANDIDATE_FEATURES]),
    ):
        hidden = ids != known_ids
        assert not bool(ids[hidden].any())
        counts.append((int(hidden.sum()), int((known_ids > 0).sum())))
    for hidden_count, count in counts:
        assert abs(hidden_count - 0.3 * count) < 5 * math.sqrt(0.21 * count)
    after = data.user_ids, data.item, data.candidate_ids
    assert all((a == b).all() for a, b in zip(before, after, strict=True))  # the data stay as they were


def test_an_item_shown_as_unknown_has_the_counts_of_an_unknown_item(data: EncodedData) -> None:
    visits = np.arange(len(data.visit_user))
    plain = builder(data).build(visits)
    cold = builder(data, cold_start_ratio=0.3).build(visits, np.random.default_rng(5))
    hidden = (cold.item != plain.item).numpy()
    assert 0.2 < hidden.mean() < 0.4
    shown = cold.candidate_ids[:, CANDIDATE_FEATURES:].numpy()
    own = plain.candidate_ids[:, CANDIDATE_FEATURES:].numpy()
    assert shown[~hidden].tolist() == own[~hidden].tolist()
    cold_item = np.zeros(1, np.int64)
    unknown = [data.counted_ids_of(request, cold_item)[0].tolist() for request in range(len(data.domain))]
    expected = [unknown[request] for request in data.row_request[hidden]]
    assert shown[hidden].tolist() == expected
    assert expected != own[hidden].tolist()  # something was there to be hidden


def test_without_a_generator_nobody_is_cold(data: EncodedData) -> None:
    visits = np.arange(20)
    check(data, visits.tolist(), builder(data, cold_start_ratio=0.9).build(visits))


def test_one_request_with_any_rows_as_candidates(data: EncodedData) -> None:
    rng = np.random.default_rng(2)
    for request in rng.integers(0, len(data.domain), 10):
        rows = rng.integers(0, len(data.item), 13)
        batch = builder(data).one_request(int(request), rows)
        assert batch.item.tolist() == data.item[rows].tolist()
        own, counted = (
            batch.candidate_ids[:, :CANDIDATE_FEATURES],
            batch.candidate_ids[:, CANDIDATE_FEATURES:],
        )
        assert own.tolist() == data.candidate_ids[rows, :CANDIDATE_FEATURES].tolist()
        assert counted.tolist() == data.counted_ids_of(int(request), data.item[rows]).tolist()
        assert batch.user_ids.tolist() == [data.user_ids[request].tolist()]
        assert batch.domain.tolist() == [data.domain[request]]
        assert not bool(batch.request.any()) and not bool(batch.layout.visit.any())
        assert batch.layout.slot.tolist() == list(range(13)) and batch.layout.width == 13
        check_history(data, int(data.request_visit[request]), batch, 0)


def test_one_requests_own_rows_are_as_they_were(data: EncodedData) -> None:
    rows = np.flatnonzero(data.row_request == 300)
    batch = builder(data).one_request(300, rows)
    assert batch.candidate_ids.tolist() == data.candidate_ids[rows].tolist()


def test_one_request_with_any_items_in_place_of_its_rows_own(data: EncodedData) -> None:
    items, row = np.array([0, 3, 30, 3]), int(np.flatnonzero(data.row_request == 300)[0])
    batch = builder(data).one_request(300, np.repeat(row, 4), items=items)
    assert batch.item.tolist() == items.tolist()
    counted = data.counted_ids_of(300, items).tolist()
    own = data.candidate_ids[row, :CANDIDATE_FEATURES].tolist()
    assert batch.candidate_ids.tolist() == [[*own, *ids] for ids in counted]
    assert counted[0] != counted[1] == counted[3]
