"""PEPNet (arXiv:2302.01115): EPNet gates the embeddings by domain, PPNet gates the towers by person.

    E = [user, item, candidate];  O_ep = GateNU(E(F_d) + sg(E)) * E;  h_0 = [O_ep, interest]
    delta_l = GateNU_l(O_prior + sg(h_0)), split by task;  h_{t,l+1} = relu(h_{t,l} W_{t,l} + b_{t,l}) * delta_{t,l}

`sg` stops the gradient on the copies that enter the gates. Decides where the paper is ambiguous: the layers'
outputs are gated, not the first input (`gate_input: false`; `true` gates it too); each task has gates of its own;
a gate's hidden width is an option; interest is not gated by EPNet, because the interest modules read un-gated
embeddings. Differs: F_d is the domain and what is known of the candidate: its placement, and the counts of the
user's and of everyone's behaviors toward it, over all domains, where the paper's are of the domain alone; O_prior is
the user and the item, where the paper has the item's author too (here `prior_item_features`, the maker, say).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.errors import ConfigError
from training.modules.gate_nu import GateNU
from training.modules.split import BackboneWidths, ServedBackbone, fold_logit_columns


class Options(BaseModel):
    """Options of the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[int, ...] = Field(default=(128, 64), min_length=1)
    gate_hidden: int = Field(default=64, ge=1, description="hidden width of EPNet's gate")
    tower_gate_hidden: int = Field(default=32, ge=1, description="hidden width of each of PPNet's gates")
    domain_width: int = Field(default=16, ge=1)
    gate_input: bool = Field(default=False, description="PPNet gates the towers' input too")
    prior_user_features: tuple[str, ...] = ("user_id",)
    prior_item_features: tuple[str, ...] = ("item_id",)


def build(options: Options, *, widths: BackboneWidths) -> PepNet:
    """Build the backbone for inputs of given widths."""
    return PepNet(options, widths)


class PepNet(nn.Module):
    """The PEPNet backbone."""

    def __init__(self, options: Options, widths: BackboneWidths) -> None:
        super().__init__()
        self.widths = widths
        self.tasks, self.columns = widths.tasks_count, widths.logit_columns
        self.prior_user = _indices(widths.user_slices, options.prior_user_features)
        self.prior_item = _indices(widths.item_slices, options.prior_item_features)
        gated = widths.user + widths.item + widths.candidate
        inputs = gated + widths.interest
        self.domain = nn.Embedding(widths.domains_count, options.domain_width)
        self.domain_gate = GateNU(options.domain_width + widths.candidate + gated, options.gate_hidden, gated)
        sizes = (inputs, *options.hidden)
        gate_inputs = len(self.prior_user) + len(self.prior_item) + inputs
        gate_sizes = (inputs, *options.hidden) if options.gate_input else options.hidden
        self.gate_input = options.gate_input
        self.tower_gates: list[GateNU] = nn.ModuleList(  # type: ignore[assignment]
            GateNU(gate_inputs, options.tower_gate_hidden, size * self.tasks) for size in gate_sizes
        )
        self.weights = nn.ParameterList(torch.empty(self.tasks, a, b) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(self.tasks, 1, b) for b in options.hidden)
        self.last_weight = nn.Parameter(torch.empty(self.tasks, sizes[-1], self.columns))
        self.last_bias = nn.Parameter(torch.zeros(self.tasks, 1, self.columns))
        for weight in (*self.weights, self.last_weight):
            for task in range(self.tasks):
                nn.init.kaiming_uniform_(weight[task].T, nonlinearity="relu")

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return logits (B, T, columns)."""
        embedding = torch.cat([user, item, candidate], dim=-1)
        domain_gate = self.domain_gate(
            torch.cat([self.domain(domain), candidate, embedding.detach()], dim=-1)
        )
        h0 = torch.cat([domain_gate * embedding, interest], dim=-1)
        gate_in = torch.cat([user[:, self.prior_user], item[:, self.prior_item], h0.detach()], dim=-1)
        gates = [gate(gate_in) for gate in self.tower_gates]
        return towers(h0, gates, self.weights, self.biases, self.last_weight, self.last_bias, self.gate_input)

    def served(self) -> ServedPepNet:
        """User, domain: their shares of the gates' first layers. Item: the same, its embedding. Joint: the rest."""
        return ServedPepNet(self)


def towers(
    h0: Tensor,
    gates: list[Tensor],
    weights: nn.ParameterList,
    biases: nn.ParameterList,
    last_weight: Tensor,
    last_bias: Tensor,
    gate_input: bool,
) -> Tensor:
    """Run the T towers over h0 (B, d), each layer's output times its gate (B, T * width): logits (B, T, columns)."""
    tasks = last_weight.shape[0]
    by_task = [gate.unflatten(-1, (tasks, -1)).transpose(0, 1) for gate in gates]  # (T, B, width)
    h = h0[None]
    if gate_input:
        h = h * by_task.pop(0)
    for weight, bias, gate in zip(weights, biases, by_task, strict=True):
        h = torch.relu(torch.matmul(h, weight) + bias) * gate
    return (torch.matmul(h, last_weight) + last_bias).transpose(0, 1)


class ServedPepNet(ServedBackbone):
    """PEPNet with every gate's first layer split by side; a gate itself is per row and cannot be folded."""

    def __init__(self, trained: PepNet) -> None:
        super().__init__()
        self.trained = trained
        widths = trained.widths
        self.user_width, self.item_width, self.candidate_width = widths.user, widths.item, widths.candidate
        self.gate_widths = [trained.domain_gate.first.out_features] + [
            gate.first.out_features for gate in trained.tower_gates
        ]
        with torch.no_grad():
            self.last_weight = nn.Parameter(fold_logit_columns(trained.last_weight)[..., None].clone())
            self.last_bias = nn.Parameter(fold_logit_columns(trained.last_bias)[..., None].clone())

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's embedding, then its share of each gate's first layer, (I, dI + sum of gate widths)."""
        trained = self.trained
        start = trained.domain.embedding_dim + self.candidate_width + self.user_width
        first = trained.domain_gate.first.weight[:, start : start + self.item_width]
        shares = [embedding @ first.T]
        users, items = len(trained.prior_user), len(trained.prior_item)
        for gate in trained.tower_gates:
            prior = gate.first.weight[:, users : users + items]
            shares.append(embedding[:, trained.prior_item] @ prior.T)
        return torch.cat([embedding, *shares], dim=-1)

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
        trained = self.trained
        item, domain_share, *prior_shares = shared.split([self.item_width, *self.gate_widths], dim=-1)
        rows = shared.shape[0]
        gate = trained.domain_gate
        weight = gate.first.weight.T  # rows: domain, candidate, user, item, candidate again
        at_user = trained.domain.embedding_dim + self.candidate_width
        at_item = at_user + self.user_width
        once = (
            trained.domain(domain) @ weight[: trained.domain.embedding_dim]
            + user @ weight[at_user:at_item]
            + gate.first.bias
        )  # (1, g)
        candidate_weight = (
            weight[trained.domain.embedding_dim : at_user] + weight[at_item + self.item_width :]
        )
        delta = gate.after_first(domain_share + once + candidate @ candidate_weight)
        embedding = torch.cat([user.expand(rows, -1), item, candidate], dim=-1)
        h0 = torch.cat([delta * embedding, interest], dim=-1)
        users, items = len(trained.prior_user), len(trained.prior_item)
        prior_user = user[:, trained.prior_user]
        gates = []
        for tower_gate, item_share in zip(trained.tower_gates, prior_shares, strict=True):
            first = tower_gate.first.weight.T
            once = prior_user @ first[:users] + tower_gate.first.bias
            joint = h0 @ first[users + items :]
            gates.append(tower_gate.after_first(item_share + once + joint))
        logits = towers(
            h0, gates, trained.weights, trained.biases, self.last_weight, self.last_bias, trained.gate_input
        )
        return logits[..., 0]


def _indices(slices: dict[str, slice], names: tuple[str, ...]) -> list[int]:
    """Return the columns of some features; a feature that the data lack is an error of the config."""
    missing = [name for name in names if name not in slices]
    if missing:
        raise ConfigError(f"PEPNet's prior features {missing} are not among {sorted(slices)}")
    return [column for name in names for column in range(slices[name].start, slices[name].stop)]
