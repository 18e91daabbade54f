"""Numbers to buckets, many at a time: what a search among boundaries gives, by one look-up in a table.

The bits of a positive float, read as a whole number, rise as it does; their first few name a cell of an octave. The
cells are made so small that no two boundaries lie in one, so that a number's bucket is that of its cell's beginning,
plus one if it has reached the boundary in it. Knows nothing of features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_MANTISSA_BITS: Final = 52
_EXPONENT_OF_1: Final = 1023
_LEAST, _MOST = 1e-30, 1e30
_CELL_BITS_MAX: Final = 8
"""Of the mantissa: boundaries nearer to each other than 2^-8 of their size are searched for."""


class BucketTables:
    """The buckets of several kinds of numbers, each between rising, positive boundaries of its own.

    A value equal to a boundary lies in the bucket above it.
    """

    def __init__(self, boundaries: Sequence[Sequence[float]]) -> None:
        kinds = [_Cells(np.array(own, np.float64)) for own in boundaries]
        self._searched = {i: kind.boundaries for i, kind in enumerate(kinds) if not kind.told_apart}
        begins = np.cumsum([0, *(len(kind.base) for kind in kinds)], dtype=np.int64)[:-1]
        first = np.array([kind.first for kind in kinds], np.int64)
        self._least = np.array([kind.least for kind in kinds], np.float64)[:, None]
        self._most = np.array([kind.most for kind in kinds], np.float64)[:, None]
        self._shift = np.array([kind.shift for kind in kinds], np.int64)[:, None]
        self._offset = (begins - first)[:, None]
        self._base = np.concatenate([np.zeros(0, np.int64), *(kind.base for kind in kinds)])
        self._next = np.concatenate([np.zeros(0), *(kind.next for kind in kinds)])

    def of(self, values: F64) -> I64:
        """Return how many boundaries each value has reached, a row a kind: (kinds, P), at least 0 and no NaN."""
        inside = np.minimum(np.maximum(values, self._least), self._most)
        cells = (inside.view(np.int64) >> self._shift) + self._offset
        reached: I64 = self._base.take(cells) + (inside >= self._next.take(cells))
        for kind, boundaries in self._searched.items():
            reached[kind] = np.searchsorted(boundaries, values[kind], side="right")
        return reached


class _Cells:
    """The cells of one kind of numbers: what of a value's bits names its cell, and what each cell begins with.

    Where no cells of a sensible size tell all boundaries apart, all values are in one, of no meaning.
    """

    def __init__(self, boundaries: F64) -> None:
        self.boundaries, self.told_apart = boundaries, False
        self.shift, self.least, self.most = _MANTISSA_BITS, 1.0, 1.0
        self.first, self.base, self.next = _EXPONENT_OF_1, np.zeros(1, np.int64), np.zeros(1)
        if len(boundaries) == 0 or not (boundaries[0] >= _LEAST and boundaries[-1] <= _MOST):
            return
        for bits in range(_CELL_BITS_MAX + 1):
            shift = _MANTISSA_BITS - bits
            if len(np.unique(boundaries.view(np.int64) >> shift)) == len(boundaries):
                self.told_apart, self.shift = True, shift
                self.least, self.most = boundaries[0] / 2, boundaries[-1] * 2
                self.first, last = (np.array([self.least, self.most]).view(np.int64) >> shift).tolist()
                begins = (np.arange(self.first, last + 1) << shift).view(np.float64)
                self.base = np.searchsorted(boundaries, begins, side="left")
                self.next = np.append(boundaries, np.inf)[self.base]
                return
