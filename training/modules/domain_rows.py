"""Each row through the networks of its own domain, in a batch that mixes domains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def run_by_domain(run: Callable[..., Tensor], domains_count: int, domain: Tensor, *inputs: Tensor) -> Tensor:
    """Return `run(m, *inputs)` for the rows of each domain m, in the rows' order.

    No row costs another domain's work, and no weights are repeated per row. A domain of no rows is run on none, so
    that its parameters have a gradient, of zeros. While a graph is exported, where no shape may depend on data,
    every domain runs on every row and the row's own is picked.

    Shapes:
        domain: (B,) int64; each input: (B, ...); run: rows of each input -> (rows, ...); returns: (B, ...).
    """
    if torch.compiler.is_exporting():
        every = torch.stack([run(m, *inputs) for m in range(domains_count)])
        return every[domain, torch.arange(domain.shape[0], device=domain.device)]
    order = torch.argsort(domain, stable=True)
    counts: list[int] = torch.bincount(domain, minlength=domains_count).tolist()
    parts = [x.index_select(0, order).split(counts) for x in inputs]
    outs = [run(m, *(part[m] for part in parts)) for m in range(domains_count)]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return torch.cat(outs).index_select(0, back)
