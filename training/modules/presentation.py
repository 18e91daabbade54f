"""Candidate features that say how a candidate is presented: its position, its place on a page. Modes of reading them.

They explain clicks, and at the time of scoring they are not known, or are what the scores decide. So a model may

none      not read them, as if they were left out;
feature   read what the request says, the unknown value (id 0) where it says nothing;
neutral   read them in training and the unknown value in serving, whatever the request says. Training shows the
          unknown value in place of a share of all values (`fit.cold_start_ratio`), so it is learned;
pal       not read them in its towers: in training a tower of their own and the domain's says how likely the candidate
          is seen, p(click) = p(seen | presentation, domain) · p(click | candidate, seen), and serving is the second
          factor alone.

In evaluation a module reads what it reads in serving, so that metrics are those of what is served.

Source:
    PAL: a Position-bias Aware Learning Framework for CTR Prediction in Live Recommender Systems (Guo et al.,
    RecSys 2019), for `pal`; its baselines `BASE_none`, and feature with a fixed serving value, for the others.
    Differs: in logits (`joint_columns`), stably; any loss; sampled negatives (the product takes the offset, since
    rows are left out for lack of a click); several features and the domain instead of a position number; the
    tower starts at a high probability of being seen, `seen_at_start`, from which it learns, where the paper
    leaves the start open. As there, the two factors are known up to a constant only: what is served is no
    natural rate but one of rows that are seen, too high by about the mean of 1 / p(seen). Calibration mends it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from training.modules.embeddings import FeatureEmbeddings


class NeutralEmbeddings(FeatureEmbeddings):
    """Embeddings that read some features as unknown, unless they are being trained."""

    shown: Tensor

    def __init__(
        self, ids_counts: Mapping[str, int], widths: Mapping[str, int], presented: Collection[str]
    ) -> None:
        super().__init__(ids_counts, widths)
        shown = torch.tensor([name not in presented for name in ids_counts], dtype=torch.int64)
        self.register_buffer("shown", shown, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids (..., F) to (..., width)."""
        return super().forward(ids if self.training else ids * self.shown)


class BlindEmbeddings(FeatureEmbeddings):
    """Embeddings that do not read some columns of the ids."""

    read: Tensor

    def __init__(
        self, ids_counts: Mapping[str, int], widths: Mapping[str, int], presented: Collection[str]
    ) -> None:
        super().__init__({name: n for name, n in ids_counts.items() if name not in presented}, widths)
        read = [column for column, name in enumerate(ids_counts) if name not in presented]
        self.register_buffer("read", torch.tensor(read, dtype=torch.int64), persistent=False)
        self.columns_count = len(ids_counts)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids (..., F) to (..., width)."""
        return super().forward(ids[..., self.read])


def candidate_embeddings(
    ids_counts: Mapping[str, int], widths: Mapping[str, int], presented: Collection[str], mode: str
) -> FeatureEmbeddings:
    """Return the embeddings of candidate ids, whose `presented` columns are read as a mode says."""
    if mode == "neutral":
        return NeutralEmbeddings(ids_counts, widths, presented)
    if mode == "pal":
        return BlindEmbeddings(ids_counts, widths, presented)
    return FeatureEmbeddings(ids_counts, widths)


class SeenTower(nn.Module):
    """How likely a candidate is seen where it stands: a small network on presentation features and the domain.

    Its last layer starts at 0, so that all places start alike.
    """

    columns: Tensor

    def __init__(
        self,
        ids_counts: Mapping[str, int],
        presented: Collection[str],
        *,
        width: int,
        hidden: Sequence[int],
        domains_count: int,
        seen_at_start: float,
    ) -> None:
        """`ids_counts` are those of all columns of the candidate ids, in order."""
        super().__init__()
        names = [name for name in ids_counts if name in presented]
        columns = [column for column, name in enumerate(ids_counts) if name in presented]
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        self.features = FeatureEmbeddings({n: ids_counts[n] for n in names}, dict.fromkeys(names, width))
        self.domain = nn.Embedding(domains_count, width)
        layers: list[nn.Module] = []
        inputs = self.features.width + width
        for size in hidden:
            layers += [nn.Linear(inputs, size), nn.ReLU()]
            inputs = size
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(inputs, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, math.log(seen_at_start) - math.log1p(-seen_at_start))

    def forward(self, candidate_ids: Tensor, domain: Tensor) -> Tensor:
        """Return the logit of being seen, (B,), of candidate ids (B, F) in domains (B,)."""
        x = torch.cat([self.features(candidate_ids[:, self.columns]), self.domain(domain)], dim=-1)
        out: Tensor = self.last(self.hidden(x))[:, 0]
        return out
