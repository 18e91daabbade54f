"""Crocodile (arXiv:2405.12706): several embedding sets, an expert for each, decorrelated, mixed dimension by dimension.

    O^m = expert_m([user^m, item^m, candidate^m, interest])            e^m: the m-th of M sets of every feature
    r = [user id, item id, domain id];  g = softmax over the M experts of reshape(r W_g, M x d), per dimension
    t = sum_m g_m * O^m;  logits = tower of the domain (t);  loss + alpha * cross-covariance of the experts

A feature's sets lie in one table, M * k wide: set m is its columns m * k to (m + 1) * k. Decides or differs:
- Interest modules read the whole item embedding, so every expert reads the whole interest vector; `interest:
  split` cuts it, too, into M parts.
- The paper's gate reads embeddings of its own. With `prior_width: p` the last p columns of each prior feature's
  table are such, and belong to no set (interest modules do read the item's); with 0, the default, the gate reads the
  embeddings that the experts read. The domain's embedding is the gate's own, and no expert reads the domain.
- `gate: per_domain` has a W_g for each domain, as the paper's superscript has it; the default is one for all, for
  its motive is that a gate does not grow with the number of domains.
- `pairs`, `reduction`: see `modules/cross_covariance.py`. `rows`: the paper finds 32 rows as good as all. Their sum
  is B / rows times smaller than the batch's, which the default of `alpha` allows for: the paper's 2e-5 if its batch,
  which it does not tell, had 4096 rows. With `reduction: mean` or other `rows`, choose `alpha` anew.
- An expert is a network of ReLU layers, `last_linear: true` without the last ReLU. With T tasks, towers have T
  outputs. 4 sets are the default where the paper has 5, since they divide the usual widths. The paper's loss, a sum of
  the domains' means, is not offered: losses here are means over rows.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.data.batch import Batch
from training.errors import ConfigError
from training.modules.cross_covariance import Pairs, Reduction, cross_covariance_loss
from training.modules.domain_rows import run_by_domain
from training.modules.embedding_sets import EmbeddingSets
from training.modules.embeddings import INIT_STD
from training.modules.grouped_towers import GroupAxes, GroupedTowers
from training.modules.split import BackboneWidths, ServedBackbone
from training.modules.split_linear import SplitLinear
from training.modules.stacked_layers import StackedLayers, as_columns, from_columns


class Options(BaseModel):
    """Options of the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sets: int = Field(
        default=4, ge=1, description="embedding sets and experts; divides every feature's width"
    )
    hidden: tuple[int, ...] = Field(default=(128, 64), min_length=1, description="layers of an expert")
    last_linear: bool = Field(default=False, description="no ReLU after an expert's last layer")
    tower_hidden: tuple[int, ...] = (32,)
    interest: Literal["whole", "split"] = Field(
        default="whole", description="every expert reads all of the interest vector, or a part of its own"
    )
    gate: Literal["shared", "per_domain"] = Field(default="shared", description="the gate's weights")
    domain_width: int = Field(default=16, ge=1)
    prior_user_features: tuple[str, ...] = ("user_id",)
    prior_item_features: tuple[str, ...] = ("item_id",)
    prior_width: int = Field(
        default=0,
        ge=0,
        description="last columns of each prior feature that only the gate reads; 0: it reads all",
    )
    alpha: float = Field(default=2.5e-3, ge=0, description="weight of the covariance loss")
    pairs: Pairs = Field(default="p_gt_q", description="pairs of experts; p_ge_q has each with itself, too")
    reduction: Reduction = Field(default="sum", description="over rows")
    rows: int | None = Field(
        default=32, ge=2, description="drawn for the covariance loss; none: all of the batch"
    )


def build(options: Options, *, widths: BackboneWidths) -> Crocodile:
    """Build the backbone for inputs of given widths.

    Raises:
        ConfigError: the sets do not divide a feature's width, or a prior feature is none of the data's.
    """
    return Crocodile(options, widths)


class Crocodile(nn.Module):
    """The Crocodile backbone."""

    def __init__(self, options: Options, widths: BackboneWidths) -> None:
        super().__init__()
        self.options, self.widths = options, widths
        priors = options.prior_user_features + options.prior_item_features
        self.sets = EmbeddingSets(
            widths,
            options.sets,
            apart=dict.fromkeys(priors, options.prior_width),
            split_interest=options.interest == "split",
        )
        self.prior_user = _prior_slices(widths.user_slices, options.prior_user_features, options.prior_width)
        self.prior_item = _prior_slices(widths.item_slices, options.prior_item_features, options.prior_width)
        self.experts = StackedLayers(
            (options.sets,), (self.sets.width, *options.hidden), last_linear=options.last_linear
        )
        self.domain = nn.Embedding(widths.domains_count, options.domain_width)
        nn.init.normal_(self.domain.weight, std=INIT_STD)
        self.prior_widths = (
            options.domain_width,
            sum(columns.stop - columns.start for columns in self.prior_user),
            sum(columns.stop - columns.start for columns in self.prior_item),
        )
        gates = 1 if options.gate == "shared" else widths.domains_count
        self.gate_weight = nn.Parameter(
            torch.empty(gates, sum(self.prior_widths), options.sets * options.hidden[-1])
        )
        for weight in self.gate_weight.detach():
            nn.init.xavier_uniform_(weight)
        self.towers = GroupedTowers(GroupAxes.of("domains", widths), options.hidden[-1], options.tower_hidden)
        self._outputs: Tensor | None = None

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return logits (B, T, columns)."""
        outputs = self.experts(self.sets.inputs(user, item, candidate, interest))  # (M, B, d)
        if self.training:
            self._outputs = outputs
        prior = torch.cat(
            [self.domain(domain), _columns(user, self.prior_user), _columns(item, self.prior_item)], dim=-1
        )
        if self.options.gate == "shared":
            gate = prior @ self.gate_weight[0]
        else:
            gate = run_by_domain(lambda m, r: r @ self.gate_weight[m], len(self.gate_weight), domain, prior)
        mixed = mix_by_dimension(gate, outputs)
        logits: Tensor = self.towers(mixed[:, None], domain)
        return logits

    def auxiliary_loss(self, batch: Batch) -> Tensor:
        """Return alpha times the covariance loss of the last training forward, whose outputs are then let go.

        Raises:
            RuntimeError: there was none since.
        """
        outputs, self._outputs = self._outputs, None
        if outputs is None:
            raise RuntimeError("the covariance loss is asked for once, after a forward in training")
        count = self.options.rows
        if count is not None and count < outputs.shape[1]:
            drawn = torch.randperm(outputs.shape[1], device=outputs.device)[:count]
            outputs = outputs.index_select(1, drawn)
        loss = cross_covariance_loss(outputs, pairs=self.options.pairs, reduction=self.options.reduction)
        return self.options.alpha * loss

    def train(self, mode: bool = True) -> Crocodile:
        """Switch between training and evaluation, where no outputs are kept."""
        self._outputs = None
        return super().train(mode)

    def served(self) -> ServedCrocodile:
        """User, domain, item: their shares of the experts' first layer and of the gate. Joint: the rest."""
        return ServedCrocodile(self)


def mix_by_dimension(gate: Tensor, outputs: Tensor) -> Tensor:
    """Return the experts' outputs (M, B, d) mixed by a softmax over the M per dimension: (B, d); gate: (B, M * d)."""
    weights = torch.softmax(from_columns(gate, (len(outputs),)), dim=0)
    return (weights * outputs).sum(0)


class ServedCrocodile(ServedBackbone):
    """Crocodile with the first layers of all experts as one, split by side, and the gate, linear in r, too."""

    linear_in_interest = True

    def __init__(self, trained: Crocodile) -> None:
        super().__init__()
        self.trained = trained
        self.prior_user, self.prior_item = trained.prior_user, trained.prior_item
        self.by_domain = trained.options.gate == "per_domain"
        weight, bias = trained.experts.layers()[0]
        with torch.no_grad():
            spread = trained.sets.spread(weight)  # an expert reads nothing of the other sets
            domain, user, item = trained.gate_weight.split(trained.prior_widths, dim=1)
            self.register_buffer("gate_domain", (trained.domain.weight[:, None] @ domain)[:, 0].clone())
            self.register_buffer("gate_user", user.clone())
            self.register_buffer("gate_item", item.clone())
        self.first = SplitLinear(as_columns(spread), bias.flatten(), trained.widths)
        self.share_width = spread.shape[0] * spread.shape[2]
        self.towers = trained.towers.served()

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the experts' first layer, then of a gate of all domains."""
        share = self.first.item_columns(embedding)
        if self.by_domain:
            return share
        return torch.cat(
            [share, _columns(embedding, self.prior_item) @ self.get_buffer("gate_item")[0]], dim=-1
        )

    def item_columns_by_domain(self, embedding: Tensor) -> Tensor:
        """Return the item's share of each domain's gate, (M, I, M d)."""
        if not self.by_domain:
            return super().item_columns_by_domain(embedding)
        return _columns(embedding, self.prior_item) @ self.get_buffer("gate_item")

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
        share, gate_share = shared[:, : self.share_width], shared[:, self.share_width :]
        h = self.first(user, share, torch.cat([candidate, interest], dim=-1), domain)
        experts = self.trained.experts
        outputs = experts.after_first(from_columns(h, experts.stack))
        gate_user = self.get_buffer("gate_user")
        gate_user = gate_user[domain][0] if self.by_domain else gate_user[0]
        once = (
            _columns(user, self.prior_user) @ gate_user + self.get_buffer("gate_domain")[domain]
        )  # (1, M d)
        mixed = mix_by_dimension(once + (by_domain if self.by_domain else gate_share), outputs)
        logits: Tensor = self.towers(mixed[None], domain)
        return logits


def _prior_slices(slices: dict[str, slice], names: tuple[str, ...], own: int) -> list[slice]:
    """Return the columns that the gate reads of some features: the last `own`, or all."""
    missing = [name for name in names if name not in slices]
    if missing:
        raise ConfigError(f"Crocodile's prior features {missing} are not among {sorted(slices)}")
    found = [slices[name] for name in names]
    return [slice(columns.stop - own, columns.stop) if own else columns for columns in found]


def _columns(x: Tensor, slices: list[slice]) -> Tensor:
    """Return some columns of x, next to each other."""
    return torch.cat([x[:, :0], *(x[:, columns] for columns in slices)], dim=-1)
