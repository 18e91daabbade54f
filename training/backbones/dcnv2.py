"""DCN-V2 (arXiv:2008.13535): a network of explicit feature crosses beside, or below, a deep network.

    x_0 = [domain, user, item, candidate, interest];  x_{l+1} = x_0 * (W_l x_l + b_l) + x_l
    parallel: logits = last([x_L, deep(x_0)]);  stacked: logits = last(deep(x_L))

`rank: r` writes each W_l as U_l V_l^T with U_l, V_l (d, r). Differs or decides: the mixture of low-rank experts
of the paper's section 3.2 is left out; with T tasks only the last layer has T outputs; the domain is embedded
like any feature (`domain_feature: false` leaves it out), so this is one model of all domains with a domain
feature; interest vectors are crossed like embeddings.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training.modules.embeddings import INIT_STD
from training.modules.split import BackboneWidths, ServedBackbone, fold_logit_columns
from training.modules.split_linear import SplitLinear


class Options(BaseModel):
    """Options of the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_layers: int = Field(default=3, ge=1)
    rank: int | None = Field(default=None, ge=1, description="of each cross layer's matrix; none: full rank")
    structure: Literal["parallel", "stacked"] = Field(
        default="parallel", description="the deep network reads x_0, or what the crosses made of it"
    )
    hidden: tuple[int, ...] = Field(
        default=(128, 64), description="of the deep network; none, where stacked: the crosses alone"
    )
    domain_feature: bool = Field(default=True, description="the domain is one of the features")
    domain_width: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _parallel_has_a_deep_network(self) -> Self:
        if self.structure == "parallel" and not self.hidden:
            raise ValueError("hidden: a parallel structure needs a deep network; stacked does without one")
        return self


def build(options: Options, *, widths: BackboneWidths) -> DcnV2:
    """Build the backbone for inputs of given widths."""
    return DcnV2(options, widths)


class CrossLayer(nn.Module):
    """x_0 * (W x + b) + x, or W = U V^T of a rank; (B, d) to (B, d)."""

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.inner = None if rank is None else nn.Linear(width, rank, bias=False)  # V^T
        self.outer = nn.Linear(width if rank is None else rank, width)

    @property
    def first(self) -> nn.Linear:
        """Return the linear map that reads x."""
        return self.outer if self.inner is None else self.inner

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Return the next x."""
        return self.after_first(x0, x, self.first(x))

    def after_first(self, x0: Tensor, x: Tensor, h: Tensor) -> Tensor:
        """Return the next x from h = first(x), for a caller that splits it."""
        return x0 * (h if self.inner is None else self.outer(h)) + x


class DcnV2(nn.Module):
    """The DCN-V2 backbone."""

    def __init__(self, options: Options, widths: BackboneWidths) -> None:
        super().__init__()
        self.widths = widths
        self.parallel = options.structure == "parallel"
        self.outputs = (widths.tasks_count, widths.logit_columns)
        self.domain: nn.Embedding | None = None
        inputs = widths.user + widths.item + widths.candidate + widths.interest
        if options.domain_feature:
            self.domain = nn.Embedding(widths.domains_count, options.domain_width)
            nn.init.normal_(self.domain.weight, std=INIT_STD)
            inputs += options.domain_width
        self.crosses: list[CrossLayer] = nn.ModuleList(  # type: ignore[assignment]
            CrossLayer(inputs, options.rank) for _ in range(options.cross_layers)
        )
        sizes = (inputs, *options.hidden)
        self.deep: list[nn.Linear] = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))  # type: ignore[assignment]
        for layer in self.deep:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.last = nn.Linear(sizes[-1] + inputs * self.parallel, widths.tasks_count * widths.logit_columns)

    def request_side(self, user: Tensor, domain: Tensor) -> Tensor:
        """Return what of x_0 depends on the request alone, its first columns."""
        return user if self.domain is None else torch.cat([self.domain(domain), user], dim=-1)

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return logits (B, T, columns)."""
        x0 = torch.cat([self.request_side(user, domain), item, candidate, interest], dim=-1)
        deep_first = self.deep[0](x0) if self.parallel else None
        h = self.after_first(x0, self.crosses[0].first(x0), deep_first)
        logits: Tensor = self.last(h).unflatten(-1, self.outputs)
        return logits

    def after_first(self, x0: Tensor, cross_first: Tensor, deep_first: Tensor | None) -> Tensor:
        """Return what the last layer reads, (B, .), from x_0 and what the layers that read it made of it.

        `deep_first` is the deep network's first layer before its ReLU; none where stacked.
        """
        x = self.crosses[0].after_first(x0, x0, cross_first)
        for cross in self.crosses[1:]:
            x = cross(x0, x)
        if deep_first is None:
            for layer in self.deep:
                x = torch.relu(layer(x))
            return x
        h = torch.relu(deep_first)
        for layer in self.deep[1:]:
            h = torch.relu(layer(h))
        return torch.cat([x, h], dim=-1)

    def served(self) -> ServedDcnV2:
        """User, domain, item: their shares of the layers that read x_0. Joint: x_0 itself and the rest."""
        return ServedDcnV2(self)


class ServedDcnV2(ServedBackbone):
    """DCN-V2 with the layers that read x_0 split by side, and JRC's columns folded.

    Stored per item: its embedding, for x_0 is multiplied in whole, then its share of each such layer.
    """

    def __init__(self, trained: DcnV2) -> None:
        super().__init__()
        self.trained = trained
        self.item_width = trained.widths.item
        firsts = [trained.crosses[0].first, *([trained.deep[0]] if trained.parallel else [])]
        self.share_widths = [first.out_features for first in firsts]
        biases: list[Tensor] = [
            first.weight.new_zeros(first.out_features) if first.bias is None else first.bias
            for first in firsts
        ]
        weights: list[Tensor] = [first.weight for first in firsts]
        self.firsts = SplitLinear(
            torch.cat(weights).T,
            torch.cat(biases),
            trained.widths,
            domain_embedding=None if trained.domain is None else trained.domain.weight,
        )
        with torch.no_grad():
            last = trained.last.weight.T.unflatten(-1, trained.outputs)
            bias = trained.last.bias.unflatten(-1, trained.outputs)
            self.register_buffer("last_weight", fold_logit_columns(last).clone())
            self.register_buffer("last_bias", fold_logit_columns(bias).clone())

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's embedding and its shares of the layers that read x_0, (I, dI + shares)."""
        return torch.cat([embedding, self.firsts.item_columns(embedding)], dim=-1)

    def forward(
        self,
        user: Tensor,
        shared: Tensor,
        by_domain: Tensor,
        candidate: Tensor,
        interest: Tensor,
        domain: Tensor,
    ) -> Tensor:
        """Return natural-rate logits (N, T)."""
        item, share = shared[:, : self.item_width], shared[:, self.item_width :]
        rows = torch.cat([candidate, interest], dim=-1)
        first = self.firsts(user, share, rows, domain)
        request = self.trained.request_side(user, domain)  # (1, .)
        x0 = torch.cat([request.expand(shared.shape[0], -1), item, rows], dim=-1)
        cross_first, *deep_first = first.split(self.share_widths, dim=-1)
        h = self.trained.after_first(x0, cross_first, deep_first[0] if deep_first else None)
        return h @ self.get_buffer("last_weight") + self.get_buffer("last_bias")
