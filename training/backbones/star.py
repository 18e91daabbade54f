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
from training.modules.split import BackboneWidths, ServedBackbone, fold_logit_columns


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

    def __init__(self, trained: Star) -> None:
        super().__init__()
        widths = trained.widths
        ends = [0, widths.user, widths.item, widths.candidate, widths.interest]
        for i in range(1, 5):
            ends[i] += ends[i - 1]
        self.user, self.item, self.candidate, self.interest = (slice(a, b) for a, b in pairwise(ends))
        with torch.no_grad():
            scale, shift = trained.norm.folded()  # (M, d), (M, d): z' = scale z + shift
            folded = [layer.folded() for layer in trained.layers]
            weight, bias = folded[0]
            bias = bias + torch.einsum("md,mdh->mh", shift, weight)
            weight = scale[..., None] * weight
            self._keep("first_weight", weight)
            self._keep("first_bias", bias)
            self.depth = len(folded)
            for i, (w, b) in enumerate(folded[1:], start=1):
                last = i == self.depth - 1
                self._keep(f"weight_{i}", fold_logit_columns(w.unflatten(-1, trained.outputs)) if last else w)
                self._keep(f"bias_{i}", fold_logit_columns(b.unflatten(-1, trained.outputs)) if last else b)
            domain_width = trained.domain.embedding_dim
            first = trained.auxiliary_first.weight.T  # (domain + d, a)
            self._keep(
                "auxiliary_domain",
                trained.domain.weight @ first[:domain_width] + trained.auxiliary_first.bias,
            )
            self._keep("auxiliary_first", first[domain_width:])
            last_weight = trained.auxiliary_last.weight.T.unflatten(-1, trained.outputs)
            self._keep("auxiliary_weight", fold_logit_columns(last_weight))
            self._keep(
                "auxiliary_bias",
                fold_logit_columns(trained.auxiliary_last.bias.unflatten(-1, trained.outputs)),
            )

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().clone().contiguous())

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the auxiliary network's first layer, (I, a)."""
        return embedding @ self.get_buffer("auxiliary_first")[self.item]

    def item_columns_by_domain(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the star network's first layer, (M, I, h)."""
        return embedding @ self.get_buffer("first_weight")[:, self.item]

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
        weight = self.get_buffer("first_weight")[domain][0]
        once = user @ weight[self.user] + self.get_buffer("first_bias")[domain]  # (1, h)
        rows = torch.cat([candidate, interest], dim=-1)
        h = torch.relu(by_domain + once + rows @ weight[self.candidate.start :])
        for i in range(1, self.depth):
            h = h @ self.get_buffer(f"weight_{i}")[domain][0] + self.get_buffer(f"bias_{i}")[domain]
            h = torch.relu(h) if i < self.depth - 1 else h
        first = self.get_buffer("auxiliary_first")
        once = user @ first[self.user] + self.get_buffer("auxiliary_domain")[domain]  # (1, a)
        a = torch.relu(shared + once + rows @ first[self.candidate.start :])
        return h + a @ self.get_buffer("auxiliary_weight") + self.get_buffer("auxiliary_bias")
