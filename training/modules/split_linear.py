"""A first layer over [user, item, candidate, interest], split so that a request computes each side's share once.

    [e_domain, user, item, candidate, interest] W + b
        = item W_i                              stored per item at export
        + (user W_u + e_domain W_e + b)         once per request
        + [candidate, interest] W_j             per candidate

Knows nothing of what follows the layer: of experts, gates or towers, whose first layers may lie side by side in
one `SplitLinear`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.modules.split import BackboneWidths


class SplitLinear(nn.Module):
    """A trained linear first layer in its served form; its weights are copied, and learn no more.

    The weights may be shared by all domains or be each domain's own. The item's share is stored accordingly, by
    `ServedBackbone.item_columns` or `.item_columns_by_domain`: `by_domain` says which.
    """

    user_weight: Tensor
    item_weight: Tensor
    joint_weight: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        widths: BackboneWidths,
        *,
        domain_embedding: Tensor | None = None,
    ) -> None:
        """Split a layer.

        Shapes:
            weight: (d, h) shared by all domains, or (M, d, h), each its own; its rows are those of the input in the
                order domain embedding (if there is one), user, item, candidate, interest.
            bias: (h,), or (M, h); None: no bias.
            domain_embedding: (M, dD), the domains' embeddings where the layer reads them; they end in the bias.

        Raises:
            ValueError: the weight has not one row per column of the input.
        """
        super().__init__()
        self.by_domain = weight.dim() == 3
        self.candidate_width = widths.candidate
        domain_width = 0 if domain_embedding is None else domain_embedding.shape[-1]
        parts = (domain_width, widths.user, widths.item, widths.candidate + widths.interest)
        if weight.shape[-2] != sum(parts):
            raise ValueError(f"a weight of {weight.shape[-2]} rows does not split into {parts}")
        weight = weight.detach()
        domain_weight, user_weight, item_weight, joint_weight = weight.split(parts, dim=-2)
        total = weight.new_zeros(weight.shape[-1]) if bias is None else bias.detach()
        if domain_embedding is not None:
            share = domain_embedding.detach()[:, None] @ domain_weight  # (M, 1, dD) @ ([M,] dD, h)
            total = total + share[:, 0]
        for name, value in (
            ("user_weight", user_weight),
            ("item_weight", item_weight),
            ("joint_weight", joint_weight),
            ("bias", total),
        ):
            self.register_buffer(name, value.clone().contiguous())

    def fold_interest(self, matrix: Tensor) -> None:
        """From now on read what `matrix` (mixed, interest) maps to interest."""
        candidate, interest = self.joint_weight.tensor_split([self.candidate_width], dim=-2)
        self.joint_weight = torch.cat([candidate, matrix @ interest], dim=-2).contiguous()

    def item_columns(self, embedding: Tensor) -> Tensor:
        """Return the item's share: (I, D) -> (I, h), or (M, I, h) where the weights are each domain's own."""
        return embedding @ self.item_weight

    def forward(self, user: Tensor, item_share: Tensor, joint: Tensor, domain: Tensor) -> Tensor:
        """Return the layer's output before any activation, (N, h).

        Shapes:
            user: (1, dU); item_share: (N, h), this domain's where the weights are; joint: (N, dP + dS), candidate
            and interest side by side; domain: (1,) int64.
        """
        if self.by_domain:
            user_weight, joint_weight = self.user_weight[domain][0], self.joint_weight[domain][0]
        else:
            user_weight, joint_weight = self.user_weight, self.joint_weight
        bias = self.bias[domain] if self.bias.dim() == 2 else self.bias
        once = user @ user_weight + bias  # (1, h)
        return item_share + once + joint @ joint_weight
