"""Complete Journey's 20.9 M promotions as sorted 64-bit keys: which products stood where, by domain.

One promotion is one integer, so that all of them take 170 MB, and a visit's exposures are a slice:

    store 16+ bits · week 6 · product 25 · placement rank 2 · mailer location 4 · display location 4
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

I64 = npt.NDArray[np.int64]

DOMAINS: Final = ("mailer", "display", "both")

_MAILER_LOCATIONS: Final = tuple("0ACDFHJLPXZ")
_DISPLAY_LOCATIONS: Final = tuple("012345679A")
_DOMAIN_BY_RANK: Final = ("both", "mailer", "display")  # the strongest placement first

_WEEK_BITS: Final = 6
_PRODUCT_BITS: Final = 25
_LOCATION_BITS: Final = 4
_RANK_SHIFT: Final = 2 * _LOCATION_BITS
_PRODUCT_SHIFT: Final = _RANK_SHIFT + 2


def shelf_key(store_id: pl.Series, week: pl.Series) -> I64:
    """Return one number for each store and week."""
    key: I64 = (store_id.to_numpy().astype(np.int64) << _WEEK_BITS) + week.to_numpy().astype(np.int64)
    return key


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is promoted in one domain, by store and week, then product: packed rows, (P,)."""

    packed: I64
    keys: I64  # packed without the placement

    def range_of(self, shelf: I64) -> tuple[I64, I64]:
        """Return where the rows of each store and week begin, and how many there are."""
        first = np.searchsorted(self.keys, shelf << _PRODUCT_BITS)
        last = np.searchsorted(self.keys, (shelf + 1) << _PRODUCT_BITS)
        return first, last - first

    def find(self, shelf: I64, product_id: I64) -> I64:
        """Return the row of each product in each store and week, -1 where it is not promoted there."""
        wanted = (shelf << _PRODUCT_BITS) + product_id
        row = np.searchsorted(self.keys, wanted)
        found = np.take(self.keys, row, mode="clip") == wanted if len(self.keys) else np.zeros(len(row), bool)
        return np.where(found, row, -1)

    def columns(self, rows: I64) -> list[pl.Series]:
        """Return product_id, mailer_location and display_location of some rows."""
        chosen = self.packed[rows]
        mask = (1 << _LOCATION_BITS) - 1
        return [
            pl.Series("product_id", self.keys[rows] & ((1 << _PRODUCT_BITS) - 1)),
            pl.Series("mailer_location", np.array(_MAILER_LOCATIONS)[(chosen >> _LOCATION_BITS) & mask]),
            pl.Series("display_location", np.array(_DISPLAY_LOCATIONS)[chosen & mask]),
        ]


def read_shelves(path: Path, visited: I64) -> tuple[Iterator[Shelf], dict[str, int]]:
    """Return what was promoted in the stores and weeks visited, a shelf for each of DOMAINS, and counts.

    Of several placements of a product in a store and week only the strongest stays.
    """
    shelf = pl.col("store_id") * (1 << _WEEK_BITS) + pl.col("week")
    packed = (
        pl.scan_parquet(path)
        .filter(shelf.is_in(pl.Series(np.unique(visited)).implode()))
        .select(_packed(shelf).alias("packed"))
        .collect(engine="streaming")["packed"]
        .to_numpy()
    )
    packed = np.sort(packed)
    strongest = np.ones(len(packed), bool)
    strongest[1:] = (packed[1:] >> _PRODUCT_SHIFT) != (packed[:-1] >> _PRODUCT_SHIFT)
    counts = {"promotions": len(packed), "promotions_duplicate": int(len(packed) - strongest.sum())}
    return _by_domain(packed[strongest]), counts


def _packed(shelf: pl.Expr) -> pl.Expr:
    mailer = pl.col("mailer_location").cast(pl.Enum(_MAILER_LOCATIONS)).to_physical().cast(pl.Int64)
    display = pl.col("display_location").cast(pl.Enum(_DISPLAY_LOCATIONS)).to_physical().cast(pl.Int64)
    rank = pl.when((mailer > 0) & (display > 0)).then(0).when(mailer > 0).then(1).otherwise(2).cast(pl.Int64)
    key = shelf * (1 << _PRODUCT_BITS) + pl.col("product_id")
    return ((key * 4 + rank) * (1 << _LOCATION_BITS) + mailer) * (1 << _LOCATION_BITS) + display


def _by_domain(packed: I64) -> Iterator[Shelf]:
    rank = (packed >> _RANK_SHIFT) & 3
    for domain in DOMAINS:
        rows = packed[rank == _DOMAIN_BY_RANK.index(domain)]
        yield Shelf(rows, rows >> _PRODUCT_SHIFT)
