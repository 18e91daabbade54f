"""An interest module's served form, read as the service reads it: what it searches for is found before."""

from __future__ import annotations

import torch
from torch import Tensor

from service.contract.search import kept_of
from training.modules.split import ServedInterest, ServedSearchingInterest


def read_served(
    served: ServedInterest, columns: Tensor, history: Tensor, size: Tensor, age: Tensor, strength: Tensor
) -> Tensor:
    """Return the interest of the user in each candidate, (N, out)."""
    inputs, kept = (columns, history, size, age, strength), []
    if isinstance(served, ServedSearchingInterest) and served.keep is not None:
        ranks = served.ranks(*inputs).detach().numpy()
        kept = [torch.from_numpy(kept_of(ranks, served.keep, newest_first=served.newest_first))]
    out: Tensor = served(*inputs, *kept)
    return out
