"""SDIM (arXiv:2205.10249): the behaviors whose hashes collide with the target's, summed; no search, no softmax.

m hashes are cut into m / tau groups. A group's tau bits are a signature; behavior and target at angle theta have
the same one with probability (1 - theta / pi)^tau, so that their expected weight is a steep kernel of the angle.

    S_g = sum of z_i over the behaviors with signature_g(e_i) = signature_g(e_target),   z = [e, t]
    out = (tau / m) sum_g l2(S_g) W^o

All sums of a history are made once, one per group and signature (what the paper's BSE server holds); a target
only picks its own. Differs: z has the behavior's cross features (age, strength; `crossed: []` for none); W^o,
without bias, stands for the layer above, so that interest modules have the width they are given. A sum of
nothing stays zero, and with it the output for an empty history. R is drawn once and saved with the model, and
signatures are equal to the bit in training and serving (`modules/exact_projection.py`). A cluster counts once
per member. Without `normalize` (l2), sums grow with the length of the history.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import embedding

from training.modules.alike_histories import over_alike_histories, pad_rows, take_rows
from training.modules.cross_features import CrossFeatures, CrossName
from training.modules.exact_projection import SimHash
from training.modules.split import HistoryPart, ItemLayout, RowLayout, ServedInterest

TINY = 1e-24


class Options(BaseModel):
    """Options of the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Literal["behaviors", "clusters"] = "behaviors"
    hashes: int = Field(default=48, ge=1, description="m, a multiple of tau")
    tau: int = Field(default=3, ge=1, le=10, description="bits of a signature")
    normalize: bool = Field(default=True, description="l2-normalize the sum of each group")
    out_width: int = Field(default=64, ge=1)
    crossed: tuple[CrossName, ...] = Field(
        default=("age", "strength"), description="what is summed of a behavior beside its item"
    )

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.hashes % self.tau:
            raise ValueError(f"hashes ({self.hashes}) must be a multiple of tau ({self.tau})")
        return self


def reads(options: Options) -> str:
    """Return the part of the history that is read."""
    return options.part


class HashedSums(nn.Module):
    """SDIM's module. G groups of S = 2^tau signatures each."""

    places: Tensor

    def __init__(self, options: Options, *, item: ItemLayout) -> None:
        super().__init__()
        self.groups, self.signatures = options.hashes // options.tau, 2**options.tau
        self.normalize, self.out_width = options.normalize, options.out_width
        self.hash = SimHash(item.width, options.hashes)
        self.cross = CrossFeatures(options.crossed)
        self.output = nn.Linear(item.width + self.cross.width, options.out_width, bias=False)  # W^o
        self.register_buffer("places", 2.0 ** torch.arange(options.tau), persistent=False)

    def forward(self, target: Tensor, part: HistoryPart, layout: RowLayout) -> Tensor:
        """Return (B, out_width) for targets (B, D)."""
        known = self.signature(part.items)  # (U, G), once per item

        def read(rows: tuple[Tensor, ...], part: HistoryPart, layout: RowLayout) -> Tensor:
            sought = pad_rows(rows[0], part.index.shape[0], layout)
            return take_rows(self.pick(sought, self.sums(known, part)), layout)

        return over_alike_histories(read, (self.signature(target),), part, layout)

    def signature(self, items: Tensor) -> Tensor:
        """Return each group's signature as a whole number in [0, S), (..., D) -> (..., G)."""
        bits = (self.hash(items) > 0).unflatten(-1, (self.groups, -1)).to(items.dtype)
        signature: Tensor = (bits * self.places).sum(-1)
        return signature

    def sums(self, known: Tensor, part: HistoryPart) -> Tensor:
        """Return what each signature's behaviors sum to, behind W^o and divided by G: (V, G * S, out_width)."""
        behaviors = self.cross.beside(embedding(part.index, part.items), part)  # (V, L, D + cross)
        bucket = self._one_hot(embedding(part.index, known)) * part.size[..., None]  # (V, L, G * S)
        summed = torch.matmul(bucket.transpose(1, 2), behaviors)
        if self.normalize:
            summed = summed / (summed * summed).sum(-1, keepdim=True).clamp(min=TINY).sqrt()
        out: Tensor = self.output(summed) / self.groups
        return out

    def pick(self, sought: Tensor, sums: Tensor) -> Tensor:
        """Return the sum over groups of what each target's signatures hold, (V, P, G) -> (V, P, out_width)."""
        return torch.matmul(self._one_hot(sought), sums)

    def _one_hot(self, signature: Tensor) -> Tensor:
        """Return (..., G) -> (..., G * S) of 0 and 1."""
        every = torch.arange(self.signatures, device=signature.device)
        return (signature[..., None] == every).to(signature.dtype).flatten(-2)

    def fill_unseen(self, age_seen: Tensor, strength_seen: Tensor) -> None:
        """Give each bucket that training never saw the embedding of the nearest that it saw."""
        self.cross.fill_unseen(age_seen, strength_seen)

    def served(self) -> ServedHashedSums:
        """Item: signatures. Request: all sums behind W^o. Joint: picking G of them."""
        return ServedHashedSums(self)


class ServedHashedSums(ServedInterest):
    """SDIM with the sums of a history made once per request."""

    def __init__(self, trained: HashedSums) -> None:
        super().__init__()
        self.trained = trained

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return signatures (I, G)."""
        return self.trained.signature(embedding)

    def history_columns(self, embedding: Tensor) -> Tensor:
        """Return signatures, then embeddings, (I, G + D)."""
        return torch.cat([self.trained.signature(embedding), embedding], dim=-1)

    def forward(
        self, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor
    ) -> Tensor:
        """Return (N, out_width)."""
        groups = self.trained.groups
        index = torch.arange(history.shape[0])[None]
        part = HistoryPart(history[:, groups:], index, size[None], age[None], strength[None])
        return self.trained.pick(columns[None], self.trained.sums(history[:, :groups], part))[0]


def build(options: Options, *, item: ItemLayout) -> HashedSums:
    """Build the module for the embeddings of items."""
    return HashedSums(options, item=item)
