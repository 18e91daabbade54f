"""The served graph: the served forms of a model's modules, composed.

Knows nothing of any one module: each states its own split (`training/modules/split.py`), and this only
concatenates their item columns and hands each its part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.contract import artefact
from service.contract import served_inputs as names
from service.contract.features import FeatureSpec, Side
from service.contract.history import F32
from service.contract.manifest import SearchSpec, TaskSpec
from service.contract.match import I32, match_keys
from service.contract.statistics import StatisticsEncoder
from training.model import CtrModel
from training.modules.joint_logits import joined_probabilities
from training.modules.split import ServedBackbone, ServedInterest, ServedSearchingInterest
from training.modules.unsplit import UnsplitBackbone, UnsplitInterest

TABLE_CHUNK_ROWS = 65_536

DOMAIN = "domain"
"""(1,) index into the manifest's domains: an input of the graph only until there is one graph for each."""

INPUT_NAMES = (
    DOMAIN,
    names.USER_IDS,
    names.CANDIDATE_IDS,
    names.ITEM_SHARED,
    names.ITEM_BY_DOMAIN,
    *(name for part in names.PARTS.values() for name in part),
)


@dataclass(frozen=True)
class ItemTableContent:
    """The item tables: shared (I, Ws), by_domain (M, I, Wd), match_keys (I, K), and by part of the history (I, H)."""

    shared: F32
    by_domain: F32
    history: Mapping[str, F32]
    match_keys: I32

    def files(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what is saved, by its name in an artefact."""
        return {
            artefact.ITEM_SHARED_FILE: self.shared,
            artefact.ITEM_BY_DOMAIN_FILE: self.by_domain,
            artefact.ITEM_MATCH_KEYS_FILE: self.match_keys,
            **{artefact.item_history_file(part): table for part, table in self.history.items()},
        }


class ServedScorer(nn.Module):
    """One request in, logits and probabilities of its N candidates out."""

    def __init__(self, model: CtrModel, tasks: Sequence[TaskSpec], domains_count: int) -> None:
        super().__init__()
        model.eval()
        self.domains_count = domains_count
        self.user, self.candidate = model.user, model.candidate
        self.interests = nn.ModuleDict(
            {name: _served_interest(module) for name, module in model.interests.items()}
        )
        self.reads = dict(model.reads)
        self.backbone = _served_backbone(model.backbone)
        self._fold_interests(model)
        self.calibration = model.calibration
        task_names = [task.name for task in tasks]
        self.given = [task_names.index(task.given) if task.given else None for task in tasks]
        self.direct = [task.entire_space == "direct" for task in tasks]
        probe = torch.zeros(1, model.item.width)
        self.item_widths = {name: m.item_columns(probe).shape[1] for name, m in self._interests().items()}
        self.history_widths = {
            name: m.history_columns(probe).shape[1] for name, m in self._interests().items()
        }

    def _fold_interests(self, model: CtrModel) -> None:
        """Let the backbone's first layers do the linear maps that interest modules end with, where they can."""
        interests = self._interests()
        maps = {name: module.last_map() for name, module in interests.items()}
        if not self.backbone.linear_in_interest or all(found is None for found in maps.values()):
            return
        parts: list[Tensor] = []
        for name, found in maps.items():
            trained = model.interests[name]
            parts.append(torch.eye(int(trained.out_width)) if found is None else found)  # type: ignore[arg-type]
            interests[name].ends_in_map = found is None
        self.backbone.fold_interest(torch.block_diag(*parts))

    def _interests(self) -> dict[str, ServedInterest]:
        return {name: m for name, m in self.interests.items() if isinstance(m, ServedInterest)}

    @property
    def searches(self) -> tuple[SearchSpec, ...]:
        """What modules search for; a module that is served as it is trained searches in the graph itself."""
        return tuple(
            SearchSpec.model_validate(
                {
                    "interest": name,
                    "part": self.reads[name],
                    "keep": module.keep,
                    "newest_first": module.newest_first,
                }
            )
            for name, module in self.interests.items()
            if isinstance(module, ServedSearchingInterest) and module.keep is not None
        )

    def readers(self, part: str) -> list[str]:
        """Return the interest modules that read a part of the history, in the order of their columns in its table."""
        return [name for name, read in self.reads.items() if read == part]

    def item_tables(self, model: CtrModel, features: Sequence[FeatureSpec]) -> ItemTableContent:
        """Return the tables over all item rows of the model that this was made from, and of its features."""
        levels = StatisticsEncoder([f for f in features if f.side is Side.MATCH]).levels
        item_features = [f.name for f in features if f.side is Side.ITEM]
        shared: list[F32] = []
        by_domain: list[F32] = []
        history: dict[str, list[F32]] = {part: [] for part in names.PARTS if self.readers(part)}
        with torch.inference_mode():
            for rows in torch.arange(len(model.item_ids)).split(TABLE_CHUNK_ROWS):
                embedding = model.embed_items(rows)
                for_all, for_each = self.item_rows(embedding)
                shared.append(for_all.numpy())
                by_domain.append(for_each.numpy())
                interests = self._interests()
                for part, tables in history.items():
                    of_part = [interests[name].history_columns(embedding) for name in self.readers(part)]
                    tables.append(torch.cat(of_part, dim=-1).numpy())
        return ItemTableContent(
            np.ascontiguousarray(np.concatenate(shared), np.float32),
            np.ascontiguousarray(np.concatenate(by_domain, axis=1), np.float32),
            {
                part: np.ascontiguousarray(np.concatenate(tables), np.float32)
                for part, tables in history.items()
            },
            match_keys(levels, model.item_ids.numpy(), item_features),
        )

    def item_rows(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is stored per item for when it is a candidate, shared (I, Ws) and by domain (M, I, Wd)."""
        columns = [module.item_columns(embedding) for module in self._interests().values()]
        by_domain = self.backbone.item_columns_by_domain(embedding)
        return (
            torch.cat([*columns, self.backbone.item_columns(embedding)], dim=-1),
            by_domain.expand(self.domains_count, -1, -1),
        )

    def forward(
        self,
        domain: Tensor,
        user_ids: Tensor,
        candidate_ids: Tensor,
        item_shared: Tensor,
        item_by_domain: Tensor,
        cluster_item: Tensor,
        cluster_size: Tensor,
        cluster_age: Tensor,
        cluster_strength: Tensor,
        recent_item: Tensor,
        recent_size: Tensor,
        recent_age: Tensor,
        recent_strength: Tensor,
        behavior_item: Tensor,
        behavior_size: Tensor,
        behavior_age: Tensor,
        behavior_strength: Tensor,
        kept: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, (N, T) each; inputs as `service.contract.served_inputs` says.

        Shapes:
            kept: by the interest module of each search, (N, L) bool: what it keeps.
        """
        parts = {
            "clusters": (cluster_item, cluster_size, cluster_age, cluster_strength),
            "recents": (recent_item, recent_size, recent_age, recent_strength),
            "behaviors": (behavior_item, behavior_size, behavior_age, behavior_strength),
        }
        columns, shared = self.own_columns(item_shared)
        history = self.own_history({part: table for part, (table, *_) in parts.items()})
        interests = [
            module(columns[name], history[name], *parts[self.reads[name]][1:], *_if_any(kept, name))
            for name, module in self.interests.items()
        ]
        logit = self.backbone(
            self.user(user_ids),
            shared,
            item_by_domain,
            self.candidate(candidate_ids),
            torch.cat(interests, dim=-1) if interests else shared[:, :0],
            domain,
        )
        if self.calibration is not None:
            logit = self.calibration(logit, domain)
        # Not Sigmoid: ONNX Runtime's is exact to 2^-24 only, so that small probabilities lose their digits, and
        # those of logits below -17 are 0.
        alone = 1.0 / (1.0 + torch.exp(-logit))
        return logit, joined_probabilities(alone, self.given, self.direct)

    def own_columns(self, item_shared: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the columns of candidates that each interest module reads, and those of the backbone."""
        rest = item_shared.shape[1] - sum(self.item_widths.values())
        *columns, shared = item_shared.split([*self.item_widths.values(), rest], dim=-1)
        return dict(zip(self.item_widths, columns, strict=True)), shared

    def own_history(self, tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the columns of a history's items that each interest module reads, of tables by part."""
        return {
            name: held
            for part, table in tables.items()
            if self.readers(part)
            for name, held in zip(
                self.readers(part),
                table.split([self.history_widths[name] for name in self.readers(part)], dim=-1),
                strict=True,
            )
        }


class ServedSearch(nn.Module):
    """What the searches of a served model rank by, in a graph of their own."""

    def __init__(self, scorer: ServedScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, item_shared: Tensor, parts: Mapping[str, Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """Return ranks (A, N, L), in the order of `ServedScorer.searches`.

        `parts` has the items, sizes, ages and strengths of each part of the history that a search reads.
        """
        columns, _ = self.scorer.own_columns(item_shared)
        history = self.scorer.own_history({part: tensors[0] for part, tensors in parts.items()})
        return tuple(
            self.scorer.interests[search.interest].ranks(  # type: ignore[operator]
                columns[search.interest], history[search.interest], *parts[search.part][1:]
            )
            for search in self.scorer.searches
        )


def _if_any(kept: Mapping[str, Tensor] | None, name: str) -> tuple[Tensor, ...]:
    return (kept[name],) if kept is not None and name in kept else ()


def _served_interest(module: nn.Module) -> ServedInterest:
    """Return the module's own served form, or the training form where it states none."""
    served = getattr(module, "served", None)
    return served() if served is not None else UnsplitInterest(module)


def _served_backbone(module: nn.Module) -> ServedBackbone:
    served = getattr(module, "served", None)
    return served() if served is not None else UnsplitBackbone(module)
