"""Combined-List: cross-entropy of each row, and a softmax of each positive against all it is compared with.

Source:
    Scale Calibration of Deep Ranking Models (Yan et al., KDD 2022) as stated in Understanding the Ranking
    Loss for Recommendation with Sparse User Feedback, arXiv:2403.14144:
    α · BCE + (1 − α) · (1/N⁺) Σ_P −ln(e^z / Σ e^z).
    Differs: rows are compared within a context unless `compare: batch`, which is the paper's, and each context
    counts alike unless `average: positives`; a context
    (or batch) of one label only adds nothing, where the paper's term compares positives with each other or
    is 0/0; no weight of positives (β, the paper's device to simulate sparsity); log-sum-exp per context
    instead of raw exponentials.
    The term grows with the logarithm of the rows compared, so α does not carry over between sizes.
"""

from __future__ import annotations

from torch import Tensor

from training.losses._listwise import ListwiseLoss, ListwiseOptions


class Options(ListwiseOptions):
    """Options of the loss."""


class CombinedListLoss(ListwiseLoss):
    """α · cross-entropy + (1 − α) · listwise softmax.

    An offset that is the same for a whole context cancels there. Over the batch it makes the softmax that of the rows
    as sampled: its optimum has e^z in proportion to their rates, which are their odds where rates are small.
    """

    def log_scores(self, sampled: Tensor) -> Tensor:
        """Return the logits themselves: e^z is normalized."""
        return sampled


def build(options: Options) -> CombinedListLoss:
    """Return the loss of these options."""
    return CombinedListLoss(options.alpha, options.compare, options.average)
