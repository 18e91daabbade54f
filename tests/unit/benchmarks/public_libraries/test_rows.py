"""The flat rows that libraries read hold what our encoded data hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.public_libraries.exchange import (
    KEEP_PROBABILITY,
    LENGTH,
    RowsSpec,
    label,
    read_column,
    recent,
)
from benchmarks.public_libraries.rows import DOMAIN, entire_space_labels, write_rows
from service.contract.features import Side
from service.contract.manifest import TaskSpec
from tests.support.synthetic_encoded import tiny_encoded
from training.data.dataset import Dataset
from training.data.encoded import COUNTED_SIDES, EncodedData

RECENTS_MAX = 5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RowsSpec, Dataset, EncodedData]:
    folder = tmp_path_factory.mktemp("rows")
    dataset, data = tiny_encoded(folder / "dataset")
    visits = {split: data.visits_of(split) for split in ("train", "validation", "test")}
    spec = write_rows(
        folder / "rows",
        data,
        visits,
        tasks=_tasks(dataset),
        domains_count=len(dataset.spec.domains),
        recents_max=RECENTS_MAX,
    )
    return folder / "rows", spec, dataset, data


def _tasks(dataset: Dataset) -> tuple[TaskSpec, ...]:
    return tuple(TaskSpec(name=task.name, given=task.given) for task in dataset.spec.tasks)


def test_every_feature_is_a_field_and_the_domain_one_more(
    written: tuple[Path, RowsSpec, Dataset, EncodedData],
) -> None:
    _, spec, _, data = written
    assert {field.name for field in spec.fields} == {feature.name for feature in data.features} | {DOMAIN}
    left = spec.without([Side.MATCH.value, "item_id"])
    assert {field.name for field in spec.fields} - {field.name for field in left.fields} == {
        f.name for f in data.features if f.side is Side.MATCH or f.name == "item_id"
    }


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_ids_are_ours_plus_one_row_by_row(
    written: tuple[Path, RowsSpec, Dataset, EncodedData], split: str
) -> None:
    folder, spec, _, data = written
    rows = data.rows_of(data.visits_of(split))
    items = [feature.name for feature in data.features if feature.side is Side.ITEM]
    sides = (Side.CANDIDATE, *COUNTED_SIDES)
    candidates = [f.name for side in sides for f in data.features if f.side is side]
    for n, row in enumerate(rows):
        for i, name in enumerate(items):
            assert read_column(folder, split, name)[n] == data.item_ids[data.item[row], i] + 1
        for i, name in enumerate(candidates):
            assert read_column(folder, split, name)[n] == data.candidate_ids[row, i] + 1
        assert read_column(folder, split, DOMAIN)[n] == data.domain[data.row_request[row]] + 1
    np.testing.assert_array_equal(read_column(folder, split, KEEP_PROBABILITY), data.keep_probability[rows])
    for field in spec.fields:
        column = read_column(folder, split, field.name)
        assert column.min(initial=1) >= 1
        assert column.max(initial=0) < field.ids_count


def test_histories_are_the_newest_behaviors_oldest_first_then_padding(
    written: tuple[Path, RowsSpec, Dataset, EncodedData],
) -> None:
    folder, spec, _, data = written
    part, visits = data.parts["recents"], data.visits_of("train")
    field = spec.of_side("item")[0]
    column = [feature.name for feature in data.features if feature.side is Side.ITEM].index(field.name)
    lengths, recents = read_column(folder, "train", LENGTH), read_column(folder, "train", recent(field.name))
    assert lengths.max() == RECENTS_MAX  # the synthetic life cycles are longer
    n = 0
    for visit in visits:
        newest = part.item[part.starts[visit] : part.starts[visit + 1]][-RECENTS_MAX:]
        expected = np.zeros(RECENTS_MAX, np.int64)
        expected[: len(newest)] = data.item_ids[newest, column] + 1
        for _ in range(data.row_starts[visit + 1] - data.row_starts[visit]):
            assert lengths[n] == len(newest)
            np.testing.assert_array_equal(recents[n], expected)
            n += 1
    assert n == len(lengths)


def test_labels_of_all_rows_are_those_of_the_first_task(
    written: tuple[Path, RowsSpec, Dataset, EncodedData],
) -> None:
    folder, spec, _, data = written
    rows = data.rows_of(data.visits_of("test"))
    np.testing.assert_array_equal(read_column(folder, "test", label(spec.tasks[0])), data.labels[rows, 0])


def test_a_task_that_implies_another_never_happened_where_the_other_did_not(
    written: tuple[Path, RowsSpec, Dataset, EncodedData],
) -> None:
    _, _, dataset, data = written
    tasks = _tasks(dataset)
    labels = entire_space_labels(data, tasks)
    for task in tasks:
        if task.given is not None:
            assert (labels[task.name][labels[task.given] == 0] == 0).all()


def test_rows_of_the_same_data_are_not_written_twice(
    written: tuple[Path, RowsSpec, Dataset, EncodedData],
) -> None:
    folder, spec, dataset, data = written
    before = (folder / "train" / f"{DOMAIN}.npy").stat().st_mtime_ns
    again = write_rows(
        folder,
        data,
        {split: data.visits_of(split) for split in ("train", "validation", "test")},
        tasks=_tasks(dataset),
        domains_count=len(dataset.spec.domains),
        recents_max=RECENTS_MAX,
    )
    assert again == spec
    assert (folder / "train" / f"{DOMAIN}.npy").stat().st_mtime_ns == before


def test_rows_of_other_data_are_written_anew(
    written: tuple[Path, RowsSpec, Dataset, EncodedData], tmp_path: Path
) -> None:
    _, spec, dataset, data = written
    other = data.candidate_ids.copy()
    other[data.rows_of(data.visits_of("test"))[0], 0] += 1
    visits = {split: data.visits_of(split) for split in ("train", "validation", "test")}
    for ids, same in ((data.candidate_ids, True), (other, False)):
        again = write_rows(
            tmp_path,
            replace(data, candidate_ids=ids),
            visits,
            tasks=_tasks(dataset),
            domains_count=len(dataset.spec.domains),
            recents_max=RECENTS_MAX,
        )
        assert (again.source == spec.source) is same
    first = spec.of_side(Side.CANDIDATE.value)[0].name
    rows = data.rows_of(visits["test"])
    np.testing.assert_array_equal(read_column(tmp_path, "test", first), other[rows, 0] + 1)
