"""Histories to read, and the modules that read them, in float64, with parameters moved away from their start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.modules.split import HistoryPart, ItemLayout, RowLayout
from training.plugins import load_plugin

ITEM = ItemLayout(6, {"item_id": slice(0, 4), "category": slice(4, 6)})
CATEGORIES = 4


def built(name: str, **options: Any) -> nn.Module:
    """Return an interest module whose parameters are as if it had learned."""
    torch.manual_seed(3)
    plugin = load_plugin("training.interest", name)
    made: nn.Module = plugin.build(plugin.Options.model_validate(options), item=ITEM).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.6)
    return made.eval()


def item_vectors(count: int, seed: int) -> Tensor:
    """Return items (count, 6) as embeddings are made: the last two columns are one of CATEGORIES rows."""
    random = torch.Generator().manual_seed(seed)
    own = torch.randn(count, 4, generator=random).double()
    table = torch.randn(CATEGORIES, 2, generator=torch.Generator().manual_seed(99)).double()
    return torch.cat([own, table[torch.randint(0, CATEGORIES, (count,), generator=random)]], dim=1)


def history(length: int, *, seed: int = 0, sizes: bool = False) -> HistoryPart:
    """Return one history of `length` behaviors, with sizes above 1 where asked for."""
    random = torch.Generator().manual_seed(seed)
    size = torch.randint(1, 6, (1, length), generator=random).double()
    return HistoryPart(
        items=item_vectors(length, seed),
        index=torch.arange(length)[None],
        size=size if sizes else torch.ones_like(size),
        age=torch.randint(0, 40, (1, length), generator=random),
        strength=torch.randint(0, 20, (1, length), generator=random),
    )


def ragged(lengths: list[int], *, seed: int = 0) -> HistoryPart:
    """Return several histories over common items, padded to the longest."""
    random = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(1, *lengths))
    real = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    return HistoryPart(
        items=item_vectors(40, seed),
        index=torch.randint(0, 40, shape, generator=random),
        size=real.double(),
        age=torch.randint(0, 40, shape, generator=random),
        strength=torch.randint(0, 20, shape, generator=random),
    )


def one_visit(rows: int) -> RowLayout:
    """Return the layout of rows that read one history."""
    return RowLayout(torch.zeros(rows, dtype=torch.int64), torch.arange(rows), rows)


def changed(part: HistoryPart, **new: Tensor) -> HistoryPart:
    """Return a history with some of its tensors replaced."""
    return HistoryPart(**{**vars(part), **new})


def at(part: HistoryPart, order: Tensor) -> HistoryPart:
    """Return a history with its positions taken in some order."""
    names = ("index", "size", "age", "strength")
    return changed(part, **{name: getattr(part, name)[:, order] for name in names})


def close(a: Tensor, b: object, atol: float = 1e-12) -> None:
    """Assert equality up to `atol`."""
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), atol=atol, rtol=0)
