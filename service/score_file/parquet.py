"""Parquet files of candidates: rows in as requests, rows out with their scores. All that knows of pyarrow here.

Knows nothing of models, but for the names of features. A file is read in parts, and of a part only what it needs is in
memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.contract.features import I64, RawValue
from service.contract.files import sync_folder
from service.contract.history import F32
from service.errors import InputFileError
from service.pipeline.decode import AT_MS_MAX, ID_CHARACTERS_MAX
from service.score_file.settings import AT_COLUMN, REQUEST_COLUMN

PART_ROWS: Final = 65_536
"""Rows read together, and written as a row group."""

MODEL_COLUMN: Final = "model"
DEGRADED_COLUMN: Final = "degraded"


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a file are called, None for one that is not read, and what all rows have in its place.

    A column of moments, or of requests, may be missing where it has its usual name.
    """

    user: str
    item: str
    domain: str | None
    at: str | None
    request: str
    domain_of_all: str
    at_ms_of_all: int


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One request, or a part of one that is long. Candidates are parallel lists, (N,); `row` is its first, from 0."""

    row: int
    user_id: str
    domain: str
    at_ms: int
    context: Mapping[str, RawValue]
    item_ids: list[str]
    candidate_contexts: list[Mapping[str, RawValue]]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows in their order, and the requests that they are."""

    rows: Any  # pa.Table
    requests: list[FileRequest]


class CandidateFile:
    """A Parquet file whose rows are candidates.

    Raises:
        InputFileError: it cannot be read, or lacks a column.
    """

    def __init__(self, path: Path, columns: Columns, *, keep: Sequence[str] | None) -> None:
        self.path, self._columns = path, columns
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise InputFileError(f"{path}: no Parquet file that can be read: {_first_line(error)}") from error
        self.schema = self._file.schema_arrow
        self.rows_count = int(self._file.metadata.num_rows)
        names = self.schema.names
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputFileError(f"{path}: column {repeated[0]!r} is there more than once: rename one")
        self.kept = tuple(names if keep is None else keep)
        self._has_at = columns.at in names
        self._has_request = columns.request in names
        needed = [columns.user, columns.item, columns.domain, columns.at, columns.request, *self.kept]
        for name in needed:
            if name not in (None, AT_COLUMN, REQUEST_COLUMN, *names):
                raise InputFileError(f"{path}: there is no column {name!r}; there are {', '.join(names)}")
        self._contexts: tuple[str, ...] = ()
        self._candidates: tuple[str, ...] = ()
        self._check_type(columns.user, _is_id, "text or integers")
        self._check_type(columns.item, _is_id, "text or integers")
        if columns.domain is not None:
            self._check_type(columns.domain, _is_text, "text")
        if columns.at is not None and self._has_at:
            self._check_type(columns.at, _is_moment, "integers (ms since 1970) or timestamps")

    def use_features(self, contexts: Iterable[str], candidates: Iterable[str]) -> list[str]:
        """Read these features of requests and of candidates; returns those that have no column."""
        contexts, candidates = list(contexts), list(candidates)
        self._contexts = tuple(name for name in contexts if name in self.schema.names)
        self._candidates = tuple(name for name in candidates if name in self.schema.names)
        for name in (*self._contexts, *self._candidates):
            self._check_type(name, _is_value, "text, numbers or booleans")
        return [name for name in (*contexts, *candidates) if name not in self.schema.names]

    def parts(self, *, limit: int | None, candidates_max_count: int) -> Iterator[Part]:
        """Yield the file's rows in order, in parts of whole requests; of a longer request so many candidates at once.

        Raises:
            InputFileError: a value is none that can be, or rows of one request contradict each other.
        """
        rest, row = None, 0
        for batch, is_last in _marking_last(self._tables(limit)):
            table = batch if rest is None else pa.concat_tables([rest, batch])
            starts = self._starts(table, row, candidates_max_count)
            # The last request may go on in the next rows.
            end = table.num_rows if is_last else int(starts[-1])
            if end:
                yield self._part(table.slice(0, end), row, starts[starts < end])
            rest, row = table.slice(end), row + end

    def _tables(self, limit: int | None) -> Iterator[Any]:
        known = self._columns
        read = {known.user, known.item, known.domain, known.at, known.request}
        read |= {*self._contexts, *self._candidates, *self.kept}
        wanted = [name for name in self.schema.names if name in read]
        left = self.rows_count if limit is None else min(limit, self.rows_count)
        try:
            for batch in self._file.iter_batches(PART_ROWS, columns=wanted):
                if left <= 0:
                    return
                table = pa.Table.from_batches([batch.slice(0, left)])
                left -= table.num_rows
                if table.num_rows:
                    yield table
        except (OSError, pa.ArrowException) as error:
            raise InputFileError(f"{self.path}: it is damaged: {_first_line(error)}") from error

    def _starts(self, table: Any, row: int, candidates_max_count: int) -> I64:
        """Return where requests begin, (requests,), after checking that a request has one user, moment and context."""
        known, names = self._columns, set(table.column_names)
        told = [name for name in (known.user, known.at, known.domain) if name is not None and name in names]
        key = [known.request] if self._has_request else told
        begins = np.ones(table.num_rows, bool)
        begins[1:] = np.any([_changes(table, name) for name in key], axis=0)
        for name in (*told, *self._contexts):
            wrong = np.flatnonzero(_changes(table, name) & ~begins[1:])
            if len(wrong):
                self._refuse(
                    row + int(wrong[0]) + 1,
                    name,
                    f"other than in the row before, of the same {' and '.join(key)}: a request has one",
                )
        starts = np.flatnonzero(begins)
        lengths = np.diff(starts, append=table.num_rows)
        if lengths.max() > candidates_max_count:
            starts = np.concatenate(
                [
                    np.arange(first, first + count, candidates_max_count)
                    for first, count in zip(starts.tolist(), lengths.tolist(), strict=True)
                ]
            )
        return starts.astype(np.int64)

    def _part(self, table: Any, row: int, starts: I64) -> Part:
        known = self._columns
        first_rows = table.take(pa.array(starts))
        users = self._ids(first_rows, known.user, row + starts)
        items = self._ids(table, known.item, np.arange(row, row + table.num_rows))
        domains = [known.domain_of_all] * len(starts)
        if known.domain is not None:
            domains = self._ids(first_rows, known.domain, row + starts)
        moments = [known.at_ms_of_all] * len(starts)
        if known.at is not None and self._has_at:
            moments = self._moments(first_rows, known.at, row + starts)
        contexts = _rows_of(first_rows, self._contexts)
        candidates = _rows_of(table, self._candidates)
        ends = [*starts[1:].tolist(), table.num_rows]
        requests = [
            FileRequest(row + a, users[i], domains[i], moments[i], contexts[i], items[a:b], candidates[a:b])
            for i, (a, b) in enumerate(zip(starts.tolist(), ends, strict=True))
        ]
        return Part(table.select(list(self.kept)), requests)

    def _ids(self, table: Any, name: str, rows: I64) -> list[str]:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_integer(column.type):
            self._check_rows(
                pc.less(column, 0), rows, name, "negative: an id is text, or an integer from 0 on"
            )
            column = column.cast(pa.string())
        lengths = pc.utf8_length(column)
        self._check_rows(pc.is_null(column), rows, name, "empty: every row needs one")
        self._check_rows(pc.equal(lengths, 0), rows, name, "an empty text: every row needs one")
        reason = f"over {ID_CHARACTERS_MAX} characters"
        self._check_rows(pc.greater(lengths, ID_CHARACTERS_MAX), rows, name, reason)
        values: list[str] = column.to_pylist()
        return values

    def _moments(self, table: Any, name: str, rows: I64) -> list[int]:
        column = table.column(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms", column.type.tz), safe=False)
        column = column.cast(pa.int64(), safe=False)  # what overflows is negative then
        self._check_rows(pc.is_null(column), rows, name, "empty: every row needs a moment, or none has one")
        outside = pc.or_(pc.less(column, 0), pc.greater(column, AT_MS_MAX))
        self._check_rows(outside, rows, name, "no time in ms since 1970, before the year 10000")
        values: list[int] = column.to_pylist()
        return values

    def _check_type(self, name: str, fits: Any, expected: str) -> None:
        found = self.schema.field(name).type
        plain = found.value_type if pa.types.is_dictionary(found) else found
        if not fits(plain):
            raise InputFileError(f"{self.path}: column {name!r} is of {found}, expected {expected}: cast it")

    def _check_rows(self, wrong: Any, rows: I64, name: str, reason: str) -> None:
        places = np.flatnonzero(wrong.fill_null(False).to_numpy())
        if len(places):
            self._refuse(int(rows[places[0]]), name, reason)

    def _refuse(self, row: int, column: str, reason: str) -> NoReturn:
        raise InputFileError(
            f"{self.path}: row {row} (from 0), column {column!r}: {reason}; nothing was written"
        )


class ScoredFile:
    """Writes parts with their scores beside them."""

    def __init__(self, path: Path, schema: Any, tasks: Sequence[str]) -> None:
        self._tasks = tuple(tasks)
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema)

    def write(
        self, part: Part, probability: F32, models: Sequence[str], degraded: Sequence[Sequence[str]]
    ) -> None:
        """Write a part. `probability` is (R, T), NaN where a model lacks a task; `models` and `degraded` (R,)."""
        table = part.rows
        for column, name in enumerate(self._tasks):
            values = probability[:, column]
            table = table.append_column(name, pa.array(values, pa.float32(), mask=np.isnan(values)))
        table = table.append_column(MODEL_COLUMN, pa.array(models, pa.string()))
        table = table.append_column(DEGRADED_COLUMN, pa.array(degraded, pa.list_(pa.string())))
        self._writer.write_table(table.cast(self._schema))

    def close(self) -> None:
        """Write what stands at a file's end."""
        self._writer.close()


@contextmanager
def written_whole(path: Path, file: CandidateFile, tasks: Sequence[str]) -> Iterator[ScoredFile]:
    """Give a file to write parts into, which is at `path` once the context ends well, and else nowhere.

    Raises:
        InputFileError: it cannot be written, or a column would be there twice.
    """
    if path.exists() and path.samefile(file.path):
        raise InputFileError(f"{path}: is the input: name another file to write")
    fields = [file.schema.field(name) for name in file.kept]
    fields += [pa.field(name, pa.float32()) for name in tasks]
    fields += [pa.field(MODEL_COLUMN, pa.string()), pa.field(DEGRADED_COLUMN, pa.list_(pa.string()))]
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise InputFileError(
                f"{file.path}: column {name!r} would be in the output twice: leave it out with --keep, or name "
                "the tasks' columns otherwise with --prefix"
            )
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputFileError(f"{path}: cannot be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        scored = ScoredFile(temporary, pa.schema(fields), tasks)
        try:
            yield scored
        finally:
            scored.close()
        os.fsync(handle)
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise InputFileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def _changes(table: Any, name: str) -> npt.NDArray[np.bool_]:
    """Return whether each row but the first has another value than the row before, (R - 1,); empty ones are equal."""
    column = table.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    codes = column.dictionary_encode(null_encoding="encode").indices.to_numpy()
    return np.asarray(codes[1:] != codes[:-1])


def _rows_of(table: Any, names: Sequence[str]) -> list[Mapping[str, RawValue]]:
    """Return the rows of some columns, one mapping each."""
    if not names:
        return [{}] * int(table.num_rows)
    columns = [table.column(name).to_pylist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _marking_last(tables: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    before = next(tables, None)
    while before is not None:
        after = next(tables, None)
        yield before, after is None
        before = after


def _is_text(found: Any) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found))


def _is_id(found: Any) -> bool:
    return _is_text(found) or bool(pa.types.is_integer(found))


def _is_moment(found: Any) -> bool:
    return bool(pa.types.is_integer(found) or pa.types.is_timestamp(found))


def _is_value(found: Any) -> bool:
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return _is_text(found) or any(test(found) for test in plain)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
