"""STAR (arXiv:2101.11427): one shared network times one network per domain, after partitioned normalization.

    z' = PN_p(z);  h = relu(h (W_p * W) + b_p + b) layer by layer;  logit = star(z') + auxiliary(z, p)

Decides or differs where the paper is silent or single-task: batches may mix domains (statistics are taken
per domain within the batch); W_p starts at ones and b_p at zero, so that training starts from one shared
network; with T tasks the last star layer has T outputs; the auxiliary network reads the domain's embedding
beside the un-normalized input.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.modules.partitioned_norm import PartitionedNorm
from training.modules.split import BackboneWidths, ServedBackbone
from training.modules.split_linear import SplitLinear
from training.modules.stacked_layers import FoldedLayers, after_first


class Options(BaseModel):
    """Options of the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[int, ...] = Field(default=(128, 64), min_length=1)
    auxiliary_width: int = Field(default=32, ge=1)
    domain_width: int = Field(default=16, ge=1)


def build(options: Options, *, widths: BackboneWidths) -> Star:
    """Build the backbone for inputs of given widths."""
    return Star(options, widths)


class StarLinear(nn.Module):
    """x (W_p * W) + b_p + b, arXiv:2101.11427 section 4.3."""

    def __init__(self, inputs: int, outputs: int, domains: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.domain_weight = nn.Parameter(torch.ones(domains, inputs, outputs))
        self.domain_bias = nn.Parameter(torch.zeros(domains, outputs))
        nn.init.kaiming_uniform_(self.weight.T, nonlinearity="relu")

    def forward(self, x: Tensor, domain: int) -> Tensor:
        """Return (B, outputs) for rows (B, inputs) of one domain."""
        return torch.addmm(self.bias + self.domain_bias[domain], x, self.weight * self.domain_weight[domain])

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return W_p * W as (M, inputs, outputs) and b_p + b as (M, outputs)."""
        return self.domain_weight * self.weight, self.domain_bias + self.bias


class Star(nn.Module):
    """The STAR backbone."""

    def __init__(self, options: Options, widths: BackboneWidths) -> None:
        super().__init__()
        self.widths = widths
        self.outputs = (widths.tasks_count, widths.logit_columns)
        inputs = widths.user + widths.item + widths.candidate + widths.interest
        sizes = (inputs, *options.hidden, widths.tasks_count * widths.logit_columns)
        self.norm = PartitionedNorm(inputs, widths.domains_count)
        self.layers: list[StarLinear] = nn.ModuleList(  # type: ignore[assignment]
            StarLinear(a, b, widths.domains_count) for a, b in pairwise(sizes)
        )
        self.domain = nn.Embedding(widths.domains_count, options.domain_width)
        self.auxiliary_first = nn.Linear(options.domain_width + inputs, options.auxiliary_width)
        self.auxiliary_last = nn.Linear(options.auxiliary_width, sizes[-1])

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return logits (B, T, columns)."""
        z = torch.cat([user, item, candidate, interest], dim=-1)
        main = self._star(self.norm(z, domain), domain)
        auxiliary = self.auxiliary_last(
            torch.relu(self.auxiliary_first(torch.cat([self.domain(domain), z], dim=-1)))
        )
        logits: Tensor = (main + auxiliary).unflatten(-1, self.outputs)
        return logits

    def _star(self, z: Tensor, domain: Tensor) -> Tensor:
        """Run each domain's rows through its own network."""
        if torch.compiler.is_exporting():  # no data-dependent shapes there: every network on every row
            every = torch.stack([self._one_domain(z, d) for d in range(self.widths.domains_count)])
            return every.gather(0, domain[None, :, None].expand(1, -1, every.shape[-1]))[0]
        out = z.new_empty(len(z), self.outputs[0] * self.outputs[1])
        for d in range(self.widths.domains_count):
            rows = torch.nonzero(domain == d)[:, 0]
            out = out.index_copy(0, rows, self._one_domain(z.index_select(0, rows), d))
        return out

    def _one_domain(self, h: Tensor, domain: int) -> Tensor:
        for layer in self.layers[:-1]:
            h = torch.relu(layer(h, domain))
        out: Tensor = self.layers[-1](h, domain)
        return out

    def served(self) -> ServedStar:
        """User: its share of both first layers. Item: the same, per domain. Domain: all folding. Joint: the rest."""
        return ServedStar(self)


class ServedStar(ServedBackbone):
    """STAR with normalization, W_p * W and JRC's columns folded per domain, and the first layers split by side."""

    linear_in_interest = True

    def __init__(self, trained: Star) -> None:
        super().__init__()
        with torch.no_grad():
            scale, shift = trained.norm.folded()  # (M, d), (M, d): z' = scale z + shift
            (weight, bias), *rest = [layer.folded() for layer in trained.layers]
            bias = bias + torch.einsum("md,mdh->mh", shift, weight)
            self.first = SplitLinear(scale[..., None] * weight, bias, trained.widths)
            tasks, columns = trained.outputs
            self.rest = FoldedLayers(rest, tasks=tasks, logit_columns=columns)
            self.auxiliary_first = SplitLinear(
                trained.auxiliary_first.weight.T,
                trained.auxiliary_first.bias,
                trained.widths,
                domain_embedding=trained.domain.weight,
            )
            last = trained.auxiliary_last
            self.auxiliary_last = FoldedLayers(
                [(last.weight.T, last.bias)], tasks=tasks, logit_columns=columns
            )

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the auxiliary network's first layer, (I, a)."""
        return self.auxiliary_first.item_columns(embedding)

    def item_columns_by_domain(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the star network's first layer, (M, I, h)."""
        return self.first.item_columns(embedding)

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
        joint = torch.cat([candidate, interest], dim=-1)
        rest = [(weight[domain][0], bias[domain][0]) for weight, bias in self.rest.layers()]
        star = after_first(self.first(user, by_domain, joint, domain), rest, last_linear=True)
        first = self.auxiliary_first(user, shared, joint, domain)
        return star + after_first(first, self.auxiliary_last.layers(), last_linear=True)
