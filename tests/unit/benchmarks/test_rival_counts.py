from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rival_counts import count_keys, counts_before, past_counts
from tests.unit.training.data.small_tables import DAY_MS, small_tables
from training.data.canonical import write_dataset
from training.data.dataset import Dataset

_events = st.lists(st.tuples(st.sampled_from(["ann", "bob", None]), st.sampled_from("xy"), st.integers(0, 6)))
_SCHEMA = {"user_id": pl.String, "item_id": pl.String, "at_ms": pl.Int64}


@given(_events.filter(bool), _events.filter(bool), st.sampled_from([("user_id",), ("user_id", "item_id")]))
def test_counts_are_of_equal_keys_strictly_before(behaviors, exposures, key):
    width = len(key)
    count, days = counts_before(
        pl.DataFrame(behaviors, _SCHEMA, orient="row"), pl.DataFrame(exposures, _SCHEMA, orient="row"), key
    )
    for row, (user, item, at) in enumerate(exposures):
        wanted = (user, item)[:width]
        past = [t for u, i, t in behaviors if (u, i)[:width] == wanted and t < at and None not in wanted]
        assert count[row] == len(past)
        expected = (at - max(past)) / DAY_MS if past else np.nan
        np.testing.assert_allclose(days[row], expected, rtol=1e-6)


def test_each_key_gives_a_count_and_days_for_every_exposure(tmp_path):
    write_dataset(small_tables(), tmp_path / "dataset")
    dataset = Dataset(tmp_path / "dataset")
    assert count_keys(dataset) == [("user_id", "item_id"), ("user_id",), ("item_id",), ("item_id", "device")]
    counts = past_counts(dataset)
    assert counts["user_id_count"].to_list() == [1, 1, 2, 1, 1, 1]
    assert counts["item_id_count"].to_list() == [0, 0, 1, 1, 2, 0]
    assert counts["user_id_days"].to_list() == [1, 1, 7, 10, 10, 24]
    # ann took the cup on day 2, in the visit on a tv: it counts for no phone
    assert counts["item_id+device_count"].to_list() == [0] * 6
