"""RCR: cross-entropy of each row, and a list term over normalized probabilities, with nearly the same optimum.

Source:
    Regression Compatible Listwise Objectives for Calibrated Ranking with Binary Relevance,
    arXiv:2211.01494, ListCE, as stated in arXiv:2403.14144:
    α · BCE + (1 − α) · (1/N⁺) Σ_P −ln(σ(z) / Σ σ(z)).
    Differs: as Combined-List (`compare`, `average`, one-label contexts add nothing, no weight of positives), and in
    log-sigmoids throughout.
    The list term's optimum has σ in proportion to the rates of the rows as sampled where all contexts have equally
    many positives; else it is that up to what 1/N⁺ and the contexts of one label weigh.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from training.losses._listwise import ListwiseLoss, ListwiseOptions


class Options(ListwiseOptions):
    """Options of the loss."""


class RcrLoss(ListwiseLoss):
    """α · cross-entropy + (1 − α) · normalized-sigmoid list term.

    A constant does not cancel out of normalized sigmoids, so within a context too the list term needs the offset:
    both terms must read the same logit to have an optimum in common.
    """

    def log_scores(self, sampled: Tensor) -> Tensor:
        """Return ln σ(z): probabilities are normalized."""
        return functional.logsigmoid(sampled)


def build(options: Options) -> RcrLoss:
    """Return the loss of these options."""
    return RcrLoss(options.alpha, options.compare, options.average)
