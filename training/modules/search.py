"""Searches (GSU): which behaviors of a life cycle a target keeps before attention reads them.

A search has no gradient. What it ranks by is made of whole numbers, so that torch and ONNX Runtime keep the
same behaviors; where two are ranked equal, the newer is kept, that is the later in the history. Knows nothing
of attention. The search of TWIN ranks by attention itself and is in `target_attention.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RANK_BITS = 20


class Search(nn.Module):
    """What is precomputed of a target and of a behavior, and which behaviors are kept given both."""

    def of_targets(self, target: Tensor) -> Tensor:
        """Return what the search needs of targets, (B, D) -> (B, Wt); stored per item in serving, in float32."""
        raise NotImplementedError

    def of_items(self, items: Tensor) -> Tensor:
        """Return what the search needs of the items of a history, (U, D) -> (U, Wi); stored likewise."""
        raise NotImplementedError

    def kept(self, targets: Tensor, items: Tensor, valid: Tensor) -> Tensor:
        """Return which behaviors each target keeps.

        Shapes:
            targets: (V, P, Wt); items: (V, L, Wi); valid: (V, L) bool, False for padding;
            returns (V, P, L) bool, False for padding.
        """
        raise NotImplementedError


class RankedSearch(Search):
    """A search that keeps the `keep` behaviors ranked highest, the newer of equals; all of them for None."""

    keep: int | None

    def ranks(self, targets: Tensor, items: Tensor) -> Tensor:
        """Return what behaviors are ranked by, (V, P, L): whole numbers in float64, as `keep_best` wants them."""
        raise NotImplementedError

    def kept(self, targets: Tensor, items: Tensor, valid: Tensor) -> Tensor:
        """Return the `keep` ranked highest."""
        return keep_best(self.ranks(targets, items), valid, self.keep)


def keep_newest(matching: Tensor, keep: int | None) -> Tensor:
    """Return the newest `keep` of what matches, (..., L) bool, oldest first; None keeps all."""
    if keep is None:
        return matching
    so_far = matching.float().cumsum(-1)
    newer = so_far[..., -1:] - so_far
    return matching & (newer < keep)


def keep_best(score: Tensor, valid: Tensor, keep: int | None) -> Tensor:
    """Return the `keep` highest of what is valid, the newer of equals; all where there are no more, or for None.

    What is not valid never takes the place of what is, however low that scores.

    Shapes:
        score: (V, P, L) whole numbers in float64, |score| * L below 2^53; valid: (V, L) bool;
        returns (V, P, L) bool.
    """
    length = score.shape[-1]
    valid = valid[:, None, :].expand(score.shape)
    if keep is None or (not torch.compiler.is_exporting() and length <= keep):
        return valid
    place = torch.arange(length, device=score.device, dtype=torch.float64)
    key = torch.where(valid, score * length + place, -torch.inf)  # no two are equal
    padding = key.new_full((*key.shape[:-1], keep), -torch.inf)  # so that keep columns always exist
    least = torch.cat([key, padding], dim=-1).topk(keep, dim=-1).values[..., -1:]
    return valid & (key >= least)


def ranked(score: Tensor) -> Tensor:
    """Return scores as whole multiples of 2^-RANK_BITS: what differs only by the order of summation is equal."""
    return torch.round(score * 2.0**RANK_BITS)
