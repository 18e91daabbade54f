"""A CTR model: embeddings, interest modules and a backbone, composed as the config says."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from service.contract.features import FeatureSpec, Side
from training.calibration import build_calibration
from training.config import ModelConfig
from training.data.batch import Batch
from training.modules.embeddings import FeatureEmbeddings
from training.modules.presentation import SeenTower, candidate_embeddings
from training.modules.split import BackboneWidths, HistoryPart, ItemLayout, fold_logit_columns
from training.plugins import load_plugin


class CtrModel(nn.Module):
    """Rows in, logits out: (B, T, columns), where columns is 2 if a task's loss needs two logits, else 1."""

    item_ids: Tensor

    def __init__(
        self,
        config: ModelConfig,
        *,
        features: tuple[FeatureSpec, ...],
        item_ids: Tensor,
        domains_count: int,
        tasks_count: int,
        logit_columns: int,
    ) -> None:
        """`item_ids` (I, FI) are the feature ids of every item row; row 0 is the cold-start item, all unknown."""
        super().__init__()
        self.register_buffer("item_ids", item_ids, persistent=False)
        self.user = FeatureEmbeddings(*_sizes(config, features, Side.USER, Side.CONTEXT))
        self.item = FeatureEmbeddings(*_sizes(config, features, Side.ITEM))
        candidate = _sizes(config, features, Side.CANDIDATE, Side.MATCH, Side.POPULARITY)
        presentation = config.presentation
        self.candidate = candidate_embeddings(*candidate, presentation.features, presentation.mode)
        layout = ItemLayout(self.item.width, self.item.slices)
        self.interests = nn.ModuleDict()
        self.reads: dict[str, str] = {}
        for interest in config.interests:
            plugin = load_plugin("training.interest", interest.name)
            options = plugin.Options.model_validate(interest.options)
            self.interests[interest.name] = plugin.build(options, item=layout)
            self.reads[interest.name] = part_read(plugin, options)
        interest_widths: list[int] = [module.out_width for module in self.interests.values()]  # type: ignore[misc]
        widths = BackboneWidths(
            user=self.user.width,
            item=self.item.width,
            candidate=self.candidate.width,
            interest=sum(interest_widths),
            user_slices=self.user.slices,
            item_slices=self.item.slices,
            candidate_slices=self.candidate.slices,
            domains_count=domains_count,
            tasks_count=tasks_count,
            logit_columns=logit_columns,
        )
        backbone = load_plugin("training.backbones", config.backbone.name)
        self.backbone = backbone.build(
            backbone.Options.model_validate(config.backbone.options), widths=widths
        )
        self.seen = None
        if presentation.mode == "pal":
            self.seen = SeenTower(
                candidate[0],
                presentation.features,
                width=config.embedding_width,
                hidden=presentation.hidden,
                domains_count=domains_count,
                seen_at_start=presentation.seen_at_start,
            )
        self.calibration = None
        if (chosen := config.calibration) is not None:
            self.calibration = build_calibration(
                chosen.name, chosen.options, domains_count=domains_count, tasks_count=tasks_count
            )

    def embed_items(self, rows: Tensor) -> Tensor:
        """Return the embedding of item rows, (..., D)."""
        out: Tensor = self.item(self.item_ids[rows])
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T, columns)."""
        item = self.embed_items(batch.item)
        user = self.user(batch.user_ids).index_select(0, batch.request)
        parts: dict[str, HistoryPart] = {}
        for name in set(self.reads.values()):
            ids = batch.parts[name]
            parts[name] = HistoryPart(
                self.embed_items(ids.item_rows), ids.index, ids.size, ids.age, ids.strength
            )
        interests = [
            module(item, parts[self.reads[name]], batch.layout) for name, module in self.interests.items()
        ]
        interest = torch.cat(interests, dim=-1) if interests else item[:, :0]
        candidate = self.candidate(batch.candidate_ids)
        out: Tensor = self.backbone(user, item, candidate, interest, batch.domain[batch.request])
        return out

    def seen_logit(self, batch: Batch) -> Tensor | None:
        """Return the logit (B,) of each row's having been seen, None where the model knows nothing of it.

        Read by the losses in training; nothing of it is served.
        """
        if self.seen is None:
            return None
        out: Tensor = self.seen(batch.candidate_ids, batch.domain[batch.request])
        return out

    def natural_logits(self, batch: Batch) -> Tensor:
        """Return what is served: one natural-rate logit a task, (B, T), calibrated where the model is."""
        logit = fold_logit_columns(self(batch))
        if self.calibration is None:
            return logit
        out: Tensor = self.calibration(logit, batch.domain[batch.request])
        return out

    def auxiliary_loss(self, batch: Batch) -> Tensor | None:
        """Return the sum of the modules' own losses for the batch of the last training forward, None without any."""
        losses = [
            module.auxiliary_loss(batch)
            for module in (*self.interests.values(), self.backbone)
            if hasattr(module, "auxiliary_loss")
        ]
        return torch.stack(losses).sum() if losses else None


def _width(config: ModelConfig, feature: FeatureSpec) -> int:
    counted = feature.side in (Side.MATCH, Side.POPULARITY)
    default = config.counted_embedding_width if counted else config.embedding_width
    return config.embedding_widths.get(feature.name, default)


def _sizes(
    config: ModelConfig, features: tuple[FeatureSpec, ...], *sides: Side
) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many ids the features of some sides have, and how wide each is embedded."""
    chosen = [feature for side in sides for feature in features if feature.side is side]
    return {f.name: f.encoder.ids_count for f in chosen}, {f.name: _width(config, f) for f in chosen}


def part_read(plugin: ModuleType, options: BaseModel) -> str:
    """Return the part of the history that an interest module of these options reads."""
    part: str = plugin.reads(options) if hasattr(plugin, "reads") else plugin.READS
    return part


def parameters_by_kind(model: nn.Module) -> Mapping[str, list[Any]]:
    """Return the parameters of embedding tables and all others, to give them learning rates of their own."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return {
        "embeddings": [p for p in model.parameters() if id(p) in embeddings],
        "dense": [p for p in model.parameters() if id(p) not in embeddings],
    }
