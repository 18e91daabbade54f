"""The attention of `SearchedAttention` over given behaviors, row by row, from the equations at its head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from training.modules.searched_attention import SearchedAttention
from training.modules.split import HistoryPart

F64 = np.ndarray[Any, np.dtype[np.float64]]


def attention_over(made: SearchedAttention, target: F64, part: HistoryPart, kept: Sequence[int]) -> F64:
    """Return the output for one target that keeps some positions of the first history."""
    w = {name: value.detach().numpy() for name, value in made.named_parameters()}
    d = made.head_width
    mixed, mass = np.zeros(made.heads * d), np.zeros(made.heads)
    for head in range(made.heads):
        block = slice(head * d, (head + 1) * d)
        query = w["query.weight"][block] @ target / math.sqrt(d)
        scores, values = [], []
        for i in kept:
            item = part.items[part.index[0, i]].numpy()
            key, value = w["key.weight"][block] @ item, w["value.weight"][block] @ item
            for name, bucket in (("age", part.age[0, i]), ("strength", part.strength[0, i])):
                if f"cross.tables.{name}.weight" in w:
                    vector = w[f"cross.tables.{name}.weight"][bucket]
                    rows = w[f"cross_key_value.linears.{name}.weight"].reshape(2, -1, 8)[:, block]
                    key, value = key + rows[0] @ vector, value + rows[1] @ vector
            scores.append(float(key @ query))
            values.append(value)
        weights = np.exp(np.array(scores))
        mass[head] = math.log(1 + weights.sum())
        if len(kept):
            mixed[block] = (weights / weights.sum()) @ np.array(values)
    out = w["output.weight"] @ mixed
    return np.concatenate([out, mass]) if made.mass else out
