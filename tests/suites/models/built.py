"""Every backbone with every interest module, small, and requests to score with them.

A plug-in is here because its file is there. `SMALL` only makes known ones quick; a new one has its defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.contract.history import F32, History
from service.contract.manifest import TaskSpec
from service.contract.search import kept_of
from service.contract.served_inputs import (
    ITEM_SHARED,
    PARTS,
    Feeds,
    ItemTables,
    assemble,
    rows_by_catalogue_id,
)
from tests.support.synthetic_dataset import DOMAINS
from training.config import ModelConfig
from training.data.encoded import EncodedData
from training.export.raw_requests import Case
from training.export.served_scorer import DOMAIN, INPUT_NAMES, ItemTableContent, ServedScorer, ServedSearch
from training.fit import batch_builder
from training.model import CtrModel
from training.modules.split import HistoryPart, RowLayout
from training.plugins import load_plugin, plugin_names

TASKS = (TaskSpec(name="click"), TaskSpec(name="buy", given="click"))
BACKBONES, INTERESTS = plugin_names("training.backbones"), plugin_names("training.interest")
PARTNER = "star"
"""The backbone that interest modules are tried with: a module cannot know which backbone reads it."""

SMALL: dict[str, dict[str, Any]] = {
    "star": {"hidden": [8, 4], "auxiliary_width": 4, "domain_width": 2},
    "crocodile": {"sets": 2, "hidden": [8, 4], "tower_hidden": [3], "domain_width": 2},
    "dcnv2": {"cross_layers": 2, "hidden": [8, 4], "domain_width": 2},
    "pepnet": {"hidden": [8, 4], "gate_hidden": 5, "tower_gate_hidden": 3, "domain_width": 2},
    "mlp": {"hidden": [8, 4], "domain_width": 2},
    "shared_bottom": {"bottom_hidden": [8], "tower_hidden": [4], "domain_width": 2},
    "mmoe": {"experts_count": 2, "expert_hidden": [6], "tower_hidden": [4], "domain_width": 2},
    "ple": {"expert_hidden": [5], "tower_hidden": [4], "domain_width": 2},
    "twin_v2": {"heads": 4, "head_width": 4, "out_width": 5},
    "short_term": {"heads": 2, "head_width": 4, "out_width": 3},
    "twin": {"heads": 2, "head_width": 4, "out_width": 3},
    "sim_hard": {"by": "category", "heads": 2, "head_width": 4, "out_width": 3},
    "sim_soft": {"heads": 2, "head_width": 4, "out_width": 3, "search_width": 4, "search_hidden": [5]},
    "eta": {"heads": 2, "head_width": 4, "out_width": 3, "bits": 16},
    "sdim": {"hashes": 12, "out_width": 3},
    "din": {"hidden": [6, 4], "last": 5},
}
VARIED: dict[str, tuple[Any, ...]] = {
    "keep": (None, 3),
    "mass": (False, True),
    "gate_input": (False, True),
    "groups": ("domains", "tasks", "domains_and_tasks"),
    "levels": (1, 2),
    "structure": ("stacked", "parallel"),
    "rank": (3, None),
    "gate": ("per_domain", "shared"),
}
"""Options that change what a graph does: each plug-in that has one is built with every value."""


@dataclass(frozen=True)
class Choice:
    """What one model is made of; `plain` hides the modules' splits."""

    backbone: dict[str, Any]
    interests: tuple[dict[str, Any], ...] = ()
    logit_columns: int = 1
    plain: bool = False
    id: str = field(default="", compare=False)

    def __str__(self) -> str:
        parts = [_named(self.backbone), *map(_named, self.interests), f"{self.logit_columns}-columns"]
        return "/".join([*parts, "unsplit"] if self.plain else parts)


def variants(package: str, name: str) -> list[dict[str, Any]]:
    """Return a plug-in's options, with every combination of those in VARIED that it has."""
    fields = load_plugin(package, name).Options.model_fields
    varied = [option for option in VARIED if option in fields]
    return [
        {"name": name, **SMALL.get(name, {}), **dict(zip(varied, values, strict=True))}
        for values in product(*(VARIED[option] for option in varied))
    ]


def backbone_variants(name: str) -> list[dict[str, Any]]:
    return variants("training.backbones", name)


def interest_variants(name: str) -> list[dict[str, Any]]:
    return variants("training.interest", name)


def every_choice() -> list[Choice]:
    """Return each backbone without interests and with all of them.

    And each interest in each variant with one backbone. Logit columns, 1 and 2, take turns.
    """
    found: list[Choice] = []
    for name in BACKBONES:
        for backbone in backbone_variants(name):
            found += [Choice(backbone, chosen, 1 + len(found) % 2) for chosen in ((), _together())]
    for name in INTERESTS:
        for interest in interest_variants(name):
            found.append(Choice(backbone_variants(PARTNER)[0], (interest,), 1 + len(found) % 2))
    return found


def exported_choices() -> list[Choice]:
    """Return fewer, for each takes seconds to export: each backbone alone and unsplit, each interest with one."""
    found: list[Choice] = []
    for name in BACKBONES:
        found.append(Choice(backbone_variants(name)[-1]))
        found.append(Choice(backbone_variants(name)[0], (interest_variants("twin_v2")[-1],), 2, plain=True))
    partner = backbone_variants(PARTNER)[-1]
    found += [Choice(partner, (interest_variants(name)[-1],), 2) for name in INTERESTS]
    found.append(Choice(partner, _together(), 2))
    return found


def _together() -> tuple[dict[str, Any], ...]:
    return tuple(interest_variants(name)[-1] for name in INTERESTS)


class Plain(nn.Module):
    """A module that states no split, whatever the one inside it states."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        if hasattr(inside, "out_width"):
            self.out_width = inside.out_width

    def forward(self, *inputs: Tensor | HistoryPart | RowLayout) -> Tensor:
        out: Tensor = self.inside(*inputs)
        return out


def build(choice: Choice, data: EncodedData) -> CtrModel:
    """Return a model as if it had learned for a while: parameters moved, running statistics of the data."""
    torch.manual_seed(4)
    config = ModelConfig.model_validate(
        {
            "backbone": choice.backbone,
            "interests": choice.interests,
            "embedding_width": 2,
            "embedding_widths": {"item_id": 6, "user_id": 4},
        }
    )
    model = CtrModel(
        config,
        features=data.features,
        item_ids=torch.from_numpy(data.item_ids),
        domains_count=len(DOMAINS),
        tasks_count=len(TASKS),
        logit_columns=choice.logit_columns,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        model.train()
        model(batch_builder(data).build(data.visits_of("train")))
    if choice.plain:
        model.backbone = Plain(model.backbone)
        for name in list(model.interests):
            model.interests[name] = Plain(model.interests[name])
    return model.eval()


def item_tables(content: ItemTableContent) -> ItemTables:
    """Return an artefact's tables in memory; an item's catalogue id is its row."""
    rows = rows_by_catalogue_id(np.arange(len(content.shared), dtype=np.uint32))
    return ItemTables(rows, content.shared, content.by_domain, content.history, content.match_keys)


def feeds_of(data: EncodedData, tables: ItemTables, case: Case) -> Feeds:
    """Return the served graph's tensors of a case, by the contract's function."""
    visit = int(data.request_visit[case.request])
    counted_ids = data.counted_ids_of(case.request, data.item[case.rows])
    own = data.candidate_ids.shape[1] - counted_ids.shape[1]
    clusters, recents, behaviors = (
        {
            name: getattr(part, name)[part.starts[visit] : part.starts[visit + 1]]
            for name in ("item", "size", "age", "strength")
        }
        for part in (data.parts["clusters"], data.parts["recents"], data.parts["behaviors"])
    )
    history = History(
        **clusters,
        recent_item=recents["item"],
        recent_age=recents["age"],
        recent_strength=recents["strength"],
        behavior_item=behaviors["item"],
        behavior_age=behaviors["age"],
        behavior_strength=behaviors["strength"],
    )
    return assemble(
        tables,
        domain=int(data.domain[case.request]),
        user_ids=data.user_ids[case.request].tolist(),
        rows=data.item[case.rows].astype(np.int32),
        candidate_ids=np.concatenate([data.candidate_ids[case.rows, :own], counted_ids], axis=1),
        history=history,
    )


def graph_inputs(data: EncodedData, tables: ItemTables, case: Case) -> dict[str, Tensor]:
    """Return what `ServedScorer` is called with: all feeds, nothing for a part that no module reads, and the domain."""
    feeds = {**feeds_of(data, tables, case), DOMAIN: data.domain[[case.request]].astype(np.int64)}
    none = np.zeros(0, np.float32)
    return {name: torch.from_numpy(np.ascontiguousarray(feeds.get(name, none))) for name in INPUT_NAMES}


def searched_inputs(
    scorer: ServedScorer, data: EncodedData, tables: ItemTables, case: Case
) -> dict[str, Any]:
    """Return `graph_inputs`, and what the scorer's searches keep."""
    inputs = graph_inputs(data, tables, case)
    searches = scorer.searches
    parts = {s.part: [inputs[name] for name in PARTS[s.part]] for s in searches}
    ranks = ServedSearch(scorer)(inputs[ITEM_SHARED], parts)
    kept = {
        s.interest: torch.from_numpy(kept_of(own.numpy(), s.keep, newest_first=s.newest_first))
        for s, own in zip(searches, ranks, strict=True)
    }
    return {**inputs, "kept": kept}


def furthest(pairs: Iterator[tuple[F32, F32]]) -> float:
    """Return the largest difference over pairs of arrays, where they exceed 1 relative to them; NaN if any is."""
    return float(np.max([(np.abs(a - b) / np.maximum(1, np.abs(b).max())).max() for a, b in pairs]))


def _named(options: dict[str, Any]) -> str:
    varied = [f"{name}={options[name]}" for name in VARIED if name in options]
    return "-".join([options["name"], *varied])
