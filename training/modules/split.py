"""How a module is split for serving: what is computed per item ahead of time, per request, and per candidate.

A served request has one user, one context, one domain and one history, and N candidates. Work that
depends only on the item is done at export and stored as columns of the item tables; work that depends only
on the request is done once in it; only the rest runs N times. Each trainable module states its own split by
`served()`, which returns a module of one of the two kinds below. One that gains nothing from a split states
none and is served by `unsplit.py` as it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class HistoryPart:
    """Clusters or recent behaviors of several histories, padded.

    Axes:
        index: (V, L) into the rows of `items`; size: (V, L), 0 marks padding; age, strength: (V, L) bucket ids.
        items: (U, D) item embeddings that the index points into, each projected once.
    """

    items: Tensor
    index: Tensor
    size: Tensor
    age: Tensor
    strength: Tensor


@dataclass(frozen=True)
class RowLayout:
    """Which history a row reads, and its place among that history's rows, so that rows can be padded.

    Axes:
        visit: (B,) index of the row's history; slot: (B,) place in it; width: most rows of one history.
    """

    visit: Tensor
    slot: Tensor
    width: int


@dataclass(frozen=True)
class ItemLayout:
    """What an interest module is built for: the width of an item's embedding, and where its features lie in it."""

    width: int
    slices: dict[str, slice]


@dataclass(frozen=True)
class BackboneWidths:
    """What a backbone is built for: widths of its inputs, where single features lie in them, and its outputs."""

    user: int
    item: int
    candidate: int
    interest: int
    user_slices: dict[str, slice]
    item_slices: dict[str, slice]
    candidate_slices: dict[str, slice]
    domains_count: int
    tasks_count: int
    logit_columns: int


class ServedInterest(nn.Module):
    """An interest module's served form.

    `item_columns` and `history_columns` are run at export, over all items: what is read of an item that is a
    candidate, and of one that stands in a history. `forward` is run per request.
    """

    ends_in_map = True
    """Whether `forward` applies `last_map`; not where a backbone has folded it into its own weights."""

    def last_map(self) -> Tensor | None:
        """Return the linear map (mixed, out) that ends the module, if folding it away saves work; else None."""
        return None

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return what is stored per item for when it is a candidate, (I, D) -> (I, W)."""
        raise NotImplementedError

    def history_columns(self, embedding: Tensor) -> Tensor:
        """Return what is stored per item for when it is in a history, (I, D) -> (I, H)."""
        return embedding

    def forward(
        self, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor
    ) -> Tensor:
        """Return the interest of the user in each candidate, (N, out).

        Shapes:
            columns: (N, W); history: (L, H); size, age, strength: (L,), see `HistoryPart`.
        """
        raise NotImplementedError


class ServedSearchingInterest(ServedInterest):
    """The served form of a module that may search (GSU).

    It ranks in a graph of its own, `service.contract.search` keeps the best, and `forward` attends (ESU) to those.
    """

    keep: int | None = None
    """How many positions the search keeps; None where there is no search."""
    newest_first = False
    """Whether the last position wins of those ranked equal, not the first."""

    def ranks(self, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor) -> Tensor:
        """Return what each of A lists ranks positions by, (A, N, L): whole numbers, padding lowest."""
        raise NotImplementedError

    def forward(
        self,
        columns: Tensor,
        history: Tensor,
        size: Tensor,
        age: Tensor,
        strength: Tensor,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Return the interest of the user in each candidate, (N, out).

        Shapes:
            kept: (N, L) bool, what the search keeps; None where there is no search. The rest as of `ServedInterest`.
        """
        raise NotImplementedError


class ServedBackbone(nn.Module):
    """A backbone's served form; JRC's two logit columns are folded into one."""

    linear_in_interest = False
    """Whether interest is read by `SplitLinear` layers and by nothing else."""

    def fold_interest(self, matrix: Tensor) -> None:
        """From now on read what `matrix` (mixed, interest) maps to interest: the map goes into the first layers."""
        for module in self.modules():
            fold = getattr(module, "fold_interest", None)
            if fold is not None and module is not self:
                fold(matrix)

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return what is stored per item for all domains, (I, Ws)."""
        return embedding[:, :0]

    def item_columns_by_domain(self, embedding: Tensor) -> Tensor:
        """Return what is stored per item and domain, (M, I, Wd)."""
        return embedding[None, :, :0]

    def forward(
        self,
        user: Tensor,
        shared: Tensor,
        by_domain: Tensor,
        candidate: Tensor,
        interest: Tensor,
        domain: Tensor,
    ) -> Tensor:
        """Return natural-rate logits (N, T).

        Shapes:
            user: (1, dU); shared: (N, Ws); by_domain: (N, Wd); candidate: (N, dP); interest: (N, dS);
            domain: (1,) int64.
        """
        raise NotImplementedError


def fold_logit_columns(logits: Tensor) -> Tensor:
    """Return one logit per task, (..., T, 1 or 2) -> (..., T): JRC serves f1 - f0 (arXiv:2208.06164)."""
    return logits[..., 1] - logits[..., 0] if logits.shape[-1] == 2 else logits[..., 0]
