"""Laying out our encoded data as the flat rows that libraries read: one row an exposure, its history beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128

from benchmarks.public_libraries.exchange import (
    KEEP_PROBABILITY,
    LENGTH,
    ROWS_FILE,
    FieldSpec,
    RowsSpec,
    label,
    recent,
)
from service.contract.features import FeatureSpec, Side
from service.contract.history import I64
from service.contract.manifest import TaskSpec
from training.data.encoded import COUNTED_SIDES, EncodedData, ranges

I32 = npt.NDArray[np.int32]

DOMAIN = "domain"
CHUNK_ROWS = 100_000
RECENTS = "recents"
OF_REQUEST = (Side.USER, Side.CONTEXT)
OF_ROW = (Side.CANDIDATE, *COUNTED_SIDES)


def write_rows(
    folder: Path,
    data: EncodedData,
    visits: dict[str, I64],
    *,
    tasks: tuple[TaskSpec, ...],
    domains_count: int,
    recents_max: int,
) -> RowsSpec:
    """Write the rows of each split's visits, in order, or leave what was written from the same data.

    Ids are ours plus one, so that 0 is padding. A task that implies another is 1 where both happened and 0 where the
    other did not: libraries know no condition. Tasks with an unknown label left are not handed over.
    """
    rows_count = {split: len(data.rows_of(chosen)) for split, chosen in visits.items()}
    labels = entire_space_labels(data, tasks)
    known = [
        t for t in tasks if not any(np.isnan(labels[t.name][data.rows_of(v)]).any() for v in visits.values())
    ]
    spec = RowsSpec(
        fields=_fields(data, domains_count),
        tasks=tuple(task.name for task in known),
        recents_max=recents_max,
        rows_count=rows_count,
        source=_fingerprint(data, visits),
    )
    if (folder / ROWS_FILE).is_file() and RowsSpec.load(folder) == spec:
        return spec
    (folder / ROWS_FILE).unlink(missing_ok=True)
    for split, chosen in visits.items():
        out = folder / split
        out.mkdir(parents=True, exist_ok=True)
        rows = data.rows_of(chosen)
        for name, column in _columns(data, rows).items():
            np.save(out / f"{name}.npy", (column + 1).astype(np.int32))
        for task in known:
            np.save(out / f"{label(task.name)}.npy", labels[task.name][rows].astype(np.float32))
        np.save(out / f"{KEEP_PROBABILITY}.npy", data.keep_probability[rows].astype(np.float64))
        _write_histories(out, data, chosen, recents_max)
    spec.save(folder)
    return spec


def entire_space_labels(data: EncodedData, tasks: tuple[TaskSpec, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """Return each task's labels among all rows, (B,): 0 where its condition did not happen, NaN where unknown."""
    index = {task.name: i for i, task in enumerate(tasks)}
    out: dict[str, npt.NDArray[np.float32]] = {}
    for task in tasks:
        own = data.labels[:, index[task.name]]
        out[task.name] = own if task.given is None else np.where(out[task.given] == 0, np.float32(0), own)
    return out


def _fingerprint(data: EncodedData, visits: dict[str, I64]) -> str:
    """Return a hash of all that rows are made of."""
    digest = xxh3_128()
    arrays = (data.item, data.item_ids, data.candidate_ids, data.user_ids, data.domain, data.labels)
    recents = data.parts[RECENTS]
    for array in (*arrays, data.keep_probability, recents.starts, recents.item, *visits.values()):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _fields(data: EncodedData, domains_count: int) -> tuple[FieldSpec, ...]:
    """Return the fields in the order of sides that the models concatenate, the domain's last."""
    known = [
        FieldSpec(feature.name, feature.encoder.ids_count + 1, feature.side.value)
        for feature in _features(data, *OF_REQUEST, *OF_ROW, Side.ITEM)
    ]
    return (*known, FieldSpec(DOMAIN, domains_count + 1, DOMAIN))


def _features(data: EncodedData, *sides: Side) -> list[FeatureSpec]:
    """Return the features of some sides, in the order of their columns of ids."""
    return [feature for side in sides for feature in data.features if feature.side is side]


def _columns(data: EncodedData, rows: I64) -> dict[str, I64]:
    """Return our ids of every field for some rows, (B,) each."""
    requests = data.row_request[rows]
    columns: dict[str, I64] = {}
    for sides, ids, at in (
        (OF_REQUEST, data.user_ids, requests),
        (OF_ROW, data.candidate_ids, rows),
        ((Side.ITEM,), data.item_ids, data.item[rows]),
    ):
        named = _features(data, *sides)
        if len(named) != ids.shape[1]:
            raise ValueError(f"{ids.shape[1]} columns of ids for the {len(named)} features of {sides}")
        columns |= {feature.name: ids[at, i] for i, feature in enumerate(named)}
    columns[DOMAIN] = data.domain[requests]
    return columns


def _write_histories(out: Path, data: EncodedData, visits: I64, recents_max: int) -> None:
    """Write the newest behaviors of every row's visit, field by field, a chunk of rows at a time."""
    part = data.parts[RECENTS]
    stops = part.starts[visits + 1]
    starts = np.maximum(part.starts[visits], stops - recents_max)
    lengths = stops - starts
    flat = ranges(starts, stops)
    at_visit = np.repeat(np.arange(len(visits)), lengths)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = np.full((len(visits), recents_max), -1, np.int64)  # (V, L) item rows, -1 is padding
    items[at_visit, place] = part.item[flat]
    visit_of_row = np.repeat(np.arange(len(visits)), data.row_starts[visits + 1] - data.row_starts[visits])
    np.save(out / f"{LENGTH}.npy", lengths[visit_of_row].astype(np.int32))
    for i, feature in enumerate(_features(data, Side.ITEM)):
        ids = np.where(items < 0, 0, data.item_ids[items, i] + 1).astype(np.int32)  # (V, L)
        written = np.lib.format.open_memmap(
            out / f"{recent(feature.name)}.npy",
            mode="w+",
            dtype=np.int32,
            shape=(len(visit_of_row), recents_max),
        )
        for start in range(0, len(visit_of_row), CHUNK_ROWS):
            written[start : start + CHUNK_ROWS] = ids[visit_of_row[start : start + CHUNK_ROWS]]
        written.flush()
        del written
