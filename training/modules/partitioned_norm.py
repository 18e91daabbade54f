"""Partitioned normalization: batch normalization whose statistics and affine are a domain's own.

Source:
    STAR, arXiv:2101.11427: z' = (γ · γ_p) ⊗ (z − μ) / √(σ² + ε) + (β + β_p). Differs: statistics are
    masked by domain, so a batch may mix domains; the variance is biased in training and in the running
    statistics alike, so that both normalize by the same thing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

ROWS_MIN = 2
"""Rows that a domain needs in a batch for statistics of its own: of one row, the variance is 0."""


class PartitionedNorm(nn.Module):
    """Normalizes each row by its domain's statistics: those of the batch in training, running ones else.

    A domain with fewer than ROWS_MIN rows in a training batch is normalized by its running statistics,
    which the batch then leaves as they are. A domain's first update sets them; later ones move them by
    `momentum`. Before the first they are 0 and 1.
    """

    running_mean: Tensor  # (M, D)
    running_var: Tensor  # (M, D)
    updates_count: Tensor  # (M,)

    def __init__(self, width: int, domains_count: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))
        self.domain_gamma = nn.Parameter(torch.ones(domains_count, width))
        self.domain_beta = nn.Parameter(torch.zeros(domains_count, width))
        self.register_buffer("running_mean", torch.zeros(domains_count, width))
        self.register_buffer("running_var", torch.ones(domains_count, width))
        self.register_buffer("updates_count", torch.zeros(domains_count, dtype=torch.int64))

    def forward(self, z: Tensor, domain: Tensor) -> Tensor:
        """Normalize.

        Shapes:
            z: (B, D); domain: (B,) in [0, M).
            returns: (B, D).
        """
        mean, var = (
            self._batch_statistics(z, domain) if self.training else (self.running_mean, self.running_var)
        )
        scale, shift = self._affine(mean, var)
        return z * embedding(domain, scale) + embedding(domain, shift)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return (s, t) with z' = s[p] · z + t[p] outside training, for folding into the next layer.

        Shapes:
            returns: (M, D), (M, D).
        """
        return self._affine(self.running_mean, self.running_var)

    def _affine(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.gamma * self.domain_gamma * torch.rsqrt(var + self.eps)
        return scale, self.beta + self.domain_beta - scale * mean

    def _batch_statistics(self, z: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and variance to normalize each domain by, (M, D); update the running ones."""
        member = nn.functional.one_hot(domain, len(self.domain_gamma)).to(z.dtype)  # (B, M)
        rows = member.sum(0)[:, None]  # (M, 1)
        divisor = rows.clamp(min=1.0)
        mean = member.T @ z / divisor
        var = member.T @ (z - embedding(domain, mean)).square() / divisor
        enough = rows >= ROWS_MIN
        with torch.no_grad():
            first = (self.updates_count == 0)[:, None]
            step = torch.where(first, 1.0, self.momentum) * enough  # (M, 1)
            old_mean, old_var = self.running_mean.clone(), self.running_var.clone()
            self.running_mean.lerp_(mean, step.to(mean.dtype))
            self.running_var.lerp_(var, step.to(var.dtype))
            self.updates_count += enough[:, 0]
        return torch.where(enough, mean, old_mean), torch.where(enough, var, old_var)
