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
from service.contract.served_inputs import Feeds, ItemTables, assemble
from tests.support.synthetic_dataset import DOMAINS
from training.config import ModelConfig
from training.data.encoded import EncodedData
from training.export.raw_requests import Case
from training.export.served_scorer import ItemTableContent
from training.fit import batch_builder
from training.model import CtrModel
from training.modules.split import HistoryPart, RowLayout
from training.plugins import load_plugin, plugin_names

TASKS = (TaskSpec(name="click"), TaskSpec(name="buy", given="click"))
BACKBONES, INTERESTS = plugin_names("training.backbones"), plugin_names("training.interest")
SMALL: dict[str, dict[str, Any]] = {
    "star": {"hidden": [8, 4], "auxiliary_width": 4, "domain_width": 2},
    "pepnet": {"hidden": [8, 4], "gate_hidden": 5, "tower_gate_hidden": 3, "domain_width": 2},
    "twin_v2": {"heads": 4, "head_width": 4, "out_width": 5},
    "short_term": {"heads": 2, "head_width": 4, "out_width": 3},
}
VARIED: dict[str, tuple[Any, ...]] = {"keep": (None, 3), "mass": (False, True), "gate_input": (False, True)}
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
    """Return each backbone without interests, with each interest in each variant, and with all of them.

    Logit columns, 1 and 2, take turns.
    """
    together = tuple(interest_variants(name)[-1] for name in INTERESTS)
    interests = [(), *((v,) for name in INTERESTS for v in interest_variants(name)), together]
    backbones = [backbone for name in BACKBONES for backbone in backbone_variants(name)]
    return [
        Choice(backbone, chosen, 1 + (b + i) % 2)
        for b, backbone in enumerate(backbones)
        for i, chosen in enumerate(interests)
    ]


def exported_choices() -> list[Choice]:
    """Return fewer, for each takes seconds to export: every pair, no interest, and all without their splits."""
    found: list[Choice] = []
    for name in BACKBONES:
        first, last = backbone_variants(name)[0], backbone_variants(name)[-1]
        together = tuple(interest_variants(interest)[-1] for interest in INTERESTS)
        found.append(Choice(first))
        found += [Choice(last, (interest_variants(interest)[-1],), 2) for interest in INTERESTS]
        found.append(Choice(first, together, 2, plain=True))
    return found


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
            "embedding_width": 3,
            "embedding_widths": {"item_id": 5, "user_id": 4},
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
    rows = np.arange(len(content.embedding))
    return ItemTables(rows, content.shared, content.by_domain, content.embedding)


def feeds_of(data: EncodedData, tables: ItemTables, case: Case) -> Feeds:
    """Return the served graph's tensors of a case, by the contract's function."""
    visit = int(data.request_visit[case.request])
    clusters, recents = (
        {
            name: getattr(part, name)[part.starts[visit] : part.starts[visit + 1]]
            for name in ("item", "size", "age", "strength")
        }
        for part in (data.parts["clusters"], data.parts["recents"])
    )
    history = History(
        **clusters,
        recent_item=recents["item"],
        recent_age=recents["age"],
        recent_strength=recents["strength"],
    )
    return assemble(
        tables,
        domain=int(data.domain[case.request]),
        user_ids=data.user_ids[case.request].tolist(),
        candidates=data.item[case.rows].astype(np.uint32),
        candidate_ids=data.candidate_ids[case.rows],
        history=history,
    )


def tensors(feeds: Feeds) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feeds.items()}


def furthest(pairs: Iterator[tuple[F32, F32]]) -> float:
    """Return the largest difference over pairs of arrays; NaN if there is one in any."""
    return float(np.max([np.abs(a - b).max() for a, b in pairs]))


def _named(options: dict[str, Any]) -> str:
    varied = [f"{name}={options[name]}" for name in VARIED if name in options]
    return "-".join([options["name"], *varied])
