"""Several embedding sets in one table per feature: which columns of a backbone's input belong to which set.

A feature's table is M * k wide, and after them may come columns of no set: set m is columns m * k to (m + 1) * k.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from training.errors import ConfigError
from training.modules.split import BackboneWidths


class EmbeddingSets:
    """Cuts a row's [user, item, candidate, interest] into M inputs of one width."""

    def __init__(
        self, widths: BackboneWidths, sets: int, *, apart: Mapping[str, int], split_interest: bool
    ) -> None:
        """`apart` are how many last columns of user and item features belong to no set.

        Without `split_interest` every set has the whole interest vector.

        Raises:
            ConfigError: the sets do not divide what is left of a feature's width, or the interest vector's.
        """
        self.count = sets
        self._chunks: list[int] = []  # widths of the pieces that the input is cut into, in its order
        self._of_set: list[list[int]] = [[] for _ in range(sets)]
        for slices, own in (
            (widths.user_slices, apart),
            (widths.item_slices, apart),
            (widths.candidate_slices, {}),
        ):
            for name, columns in slices.items():
                self._cut(f"feature {name!r}", columns.stop - columns.start, own.get(name, 0))
        if split_interest:
            self._cut("the interest vector", widths.interest, 0)
        elif widths.interest:
            for chunks in self._of_set:
                chunks.append(len(self._chunks))
            self._chunks.append(widths.interest)
        self.width = sum(self._chunks[i] for i in self._of_set[0])
        """Columns of one set."""

    def _cut(self, name: str, width: int, apart: int) -> None:
        """Cut `width` columns into the sets' pieces and, after them, `apart` columns of no set."""
        if width < apart or (width - apart) % self.count:
            without = f" without the {apart} that are set apart" if apart else ""
            raise ConfigError(
                f"{name} is {width} wide, which {self.count} embedding sets do not divide{without}"
            )
        if width > apart:
            for chunks in self._of_set:
                chunks.append(len(self._chunks))
                self._chunks.append((width - apart) // self.count)
        if apart:
            self._chunks.append(apart)

    def inputs(self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor) -> Tensor:
        """Return what each set reads of the rows, (M, B, width)."""
        pieces = torch.cat([user, item, candidate, interest], dim=-1).split(self._chunks, dim=-1)
        by_set = torch.cat([pieces[i] for i in chain.from_iterable(self._of_set)], dim=-1)
        inputs: Tensor = by_set.unflatten(-1, (self.count, self.width)).transpose(0, 1)
        return inputs

    def spread(self, weight: Tensor) -> Tensor:
        """Return weights (M, width, h) on the sets as weights (M, d, h) on the whole input, 0 for the other sets'."""
        pieces = torch.arange(sum(self._chunks)).split(self._chunks)
        out = weight.new_zeros(self.count, sum(self._chunks), weight.shape[-1])
        for own, one, chunks in zip(out, weight, self._of_set, strict=True):
            own[torch.cat([pieces[i] for i in chunks])] = one
        return out
