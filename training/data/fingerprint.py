"""The fingerprint of tables: equal for equal content, whatever the files' compression or row groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import polars as pl


def fingerprint(description: str, tables: Iterable[tuple[str, pl.DataFrame]]) -> str:
    """Return the SHA-256 of a description and of tables: names, types, order and values of all columns."""
    digest = hashlib.sha256(description.encode())
    for name, table in tables:
        for column in table.iter_columns():
            digest.update(f"\n{name}.{column.name}:{column.dtype}:{len(column)}\n".encode())
            _add_values(digest, column)
    return digest.hexdigest()


def _add_values(digest: hashlib._Hash, column: pl.Series) -> None:
    if column.null_count():
        digest.update(column.is_null().to_numpy().tobytes())
    if column.dtype == pl.String:
        text = column.fill_null("")
        digest.update(text.str.len_bytes().to_numpy().astype("<u4").tobytes())
        digest.update("".join(text.to_list()).encode())
    else:
        values = column.fill_null(0).to_numpy()
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
