"""What a search (GSU) keeps of a history for each candidate: a graph ranks, and numpy selects.

ONNX Runtime's TopK takes five times as long to find the same, and where a history is no longer than what is kept there
is nothing to rank at all. Knows nothing of what is ranked, and nothing of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.contract.manifest import Searches
from service.contract.served_inputs import ITEM_SHARED, PARTS, Feeds

Bool = npt.NDArray[np.bool_]
Ranks = npt.NDArray[np.floating[Any]]
Run = Callable[[Sequence[str], Feeds], Sequence[Ranks]]
"""Runs the graph that ranks: the outputs asked for, of the inputs given."""

SORTED_AT_ONCE: Final = 512
"""Keys of 32 bits that numpy sorts in registers; a longer row takes five times as long a key."""


def ranks_output(interest: str) -> str:
    """Return the name of what a module's search ranks by, (A, N, L): whole numbers, the highest first."""
    return f"ranks_{interest}"


def kept_input(interest: str) -> str:
    """Return the name of what a module's search keeps, (N, L) bool, among what the scoring graph reads."""
    return f"kept_{interest}"


def with_kept(feeds: Feeds, searches: Searches, run: Run) -> Feeds:
    """Return a request's tensors and what each search keeps.

    The graph that ranks is not run where no history is longer than what is kept of it.
    """
    lengths = [len(feeds[PARTS[search.part][0]]) for search in searches.each]
    if all(length <= search.keep for search, length in zip(searches.each, lengths, strict=True)):
        ranks: Sequence[Ranks] = [
            np.zeros((1, len(feeds[ITEM_SHARED]), length), np.float32) for length in lengths
        ]
    else:
        outputs = [ranks_output(search.interest) for search in searches.each]
        ranks = run(outputs, {name: feeds[name] for name in searches.graph_inputs})
    kept = {
        kept_input(search.interest): kept_of(own, search.keep, newest_first=search.newest_first)
        for search, own in zip(searches.each, ranks, strict=True)
    }
    return {**feeds, **kept}


def kept_of(ranks: Ranks, keep: int, *, newest_first: bool) -> Bool:
    """Return which positions each candidate keeps: the heads' ranked lists merged until `keep` distinct are found.

    Walking the lists in turn, a position is met at step A * rank + a of the head a that ranks it best; the `keep`
    smallest steps win. All are kept where there are no more than `keep`. Of equals, the first position is ranked
    higher, or the last with `newest_first`. Ranks beyond 2^62 / L are taken for equal.

    Shapes:
        ranks: (A, N, L) whole numbers; returns (N, L).
    """
    heads, rows, length = ranks.shape
    if length <= keep:
        return np.ones((rows, length), np.bool_)
    best = _best(ranks, keep, newest_first=newest_first)
    never = heads * keep
    met = np.full((rows, length), never, np.min_scalar_type(never))
    of_row = np.arange(rows)[:, None]
    for head, places in enumerate(best):
        own = np.full_like(met, never)
        own[of_row, places] = np.arange(head, never, heads)
        np.minimum(met, own, out=met)
    last = np.partition(met, keep - 1, axis=-1)[:, keep - 1 : keep]
    kept: Bool = met <= last
    return kept


def _best(ranks: Ranks, keep: int, *, newest_first: bool) -> npt.NDArray[np.signedinteger[Any]]:
    """Return the places of the `keep` highest, the highest first, (A, N, keep); there are more than `keep`.

    A key is a rank with its place in the lowest bits, so that no two are equal and a sorted key tells its place.
    """
    length = ranks.shape[-1]
    bits = (length - 1).bit_length()
    reach = 2.0 ** (31 - bits)
    if -reach <= ranks.min() and ranks.max() < reach:
        key: npt.NDArray[np.signedinteger[Any]] = ranks.astype(np.int32)
    else:
        reach = 2.0 ** (62 - bits)
        with np.errstate(invalid="ignore"):  # a rank that is no number makes a probability that is none
            key = ranks.clip(-reach, reach).astype(np.int64)
    place = np.arange(length, dtype=key.dtype)
    key <<= bits
    key |= place if newest_first else place[::-1]
    if keep < SORTED_AT_ONCE < length:  # the best of all are among the best of each block
        blocks = [key[..., i : i + SORTED_AT_ONCE] for i in range(0, length, SORTED_AT_ONCE)]
        key = np.concatenate([np.sort(block, axis=-1)[..., -keep:] for block in blocks], axis=-1)
    key.sort(axis=-1)
    found: npt.NDArray[np.signedinteger[Any]] = key[..., : -keep - 1 : -1] & ((1 << bits) - 1)
    if not newest_first:
        np.subtract(length - 1, found, out=found)
    return found
