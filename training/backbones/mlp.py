"""One network for all domains, which reads the domain as one more feature: the control of every multi-domain model.

h = relu(h W + b) layer by layer from [e_domain, user, item, candidate, interest];  all tasks' logits at the end
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.modules.concatenated_inputs import ConcatenatedInputs
from training.modules.split import BackboneWidths, ServedBackbone
from training.modules.stacked_layers import FoldedLayers, StackedLayers, after_first


class Options(BaseModel):
    """Options of the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[int, ...] = Field(default=(128, 64), min_length=1, description="widths of the layers")
    domain_width: int = Field(
        default=16, ge=0, description="width of the domain's embedding among the inputs; 0: none"
    )


def build(options: Options, *, widths: BackboneWidths) -> Mlp:
    """Build the backbone for inputs of given widths."""
    return Mlp(options, widths)


class Mlp(nn.Module):
    """The plain network."""

    def __init__(self, options: Options, widths: BackboneWidths) -> None:
        super().__init__()
        self.tasks, self.columns = widths.tasks_count, widths.logit_columns
        self.inputs = ConcatenatedInputs(widths, domain_width=options.domain_width)
        sizes = (self.inputs.width, *options.hidden, self.tasks * self.columns)
        self.layers = StackedLayers((), sizes, last_linear=True)

    def forward(
        self, user: Tensor, item: Tensor, candidate: Tensor, interest: Tensor, domain: Tensor
    ) -> Tensor:
        """Return logits (B, T, columns)."""
        wide = self.layers(self.inputs(user, item, candidate, interest, domain))
        logits: Tensor = wide.unflatten(-1, (self.tasks, self.columns))
        return logits

    def served(self) -> ServedMlp:
        """Item, user and domain: their shares of the first layer. Joint: the rest."""
        return ServedMlp(self)


class ServedMlp(ServedBackbone):
    """The plain network with its first layer split by side; its other layers are the same for every domain."""

    linear_in_interest = True

    def __init__(self, trained: Mlp) -> None:
        super().__init__()
        (weight, bias), *rest = trained.layers.layers()
        self.first = trained.inputs.split(weight, bias[0])
        self.rest = FoldedLayers(rest, tasks=trained.tasks, logit_columns=trained.columns)

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share of the first layer, (I, h)."""
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
        h: Tensor = self.first(user, shared, torch.cat([candidate, interest], dim=-1), domain)
        return after_first(h, self.rest.layers(), last_linear=True)
