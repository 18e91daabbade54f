"""What requests are scored with: verified artefacts in memory, and the plan that routes to them.

All of it is immutable. A request reads one `Serving` from its start to its end, so nothing tears when the
registry's pointers move. Knows nothing of HTTP and of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract.artefact import (
    SnapshotRef,
    catalogue_folder,
    current_version,
    model_folder,
    read_artefact,
    read_popularity,
    read_snapshot_ref,
)
from service.contract.catalogue import Catalogue, read_catalogue
from service.contract.errors import ArtefactError, ContractError
from service.contract.golden import replay_golden
from service.contract.history import Behaviors, build_history
from service.contract.manifest import Manifest, Precision
from service.contract.popularity import Popularity
from service.contract.served_inputs import RequestEncoder, read_item_tables
from service.errors import NotReady, ScoringError
from service.experiments.plan import Plan
from service.models.item_encoder import ItemEncoder
from service.models.scorer import Scorer

WARM_UP_CANDIDATES_COUNTS = (1, 200)


@dataclass(frozen=True, slots=True)
class LiveModel:
    """One version of a model that answers requests. `snapshot` is None where no users were ever published.

    why_fp32: why it is in fp32 although another precision was asked for, None where none was.
    """

    manifest: Manifest
    catalogue: Catalogue
    encoder: RequestEncoder
    scorer: Scorer
    why_fp32: str | None
    snapshot: SnapshotRef | None
    popularity: Popularity
    tasks: tuple[str, ...]

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that it scores."""
        return self.manifest.domains

    @property
    def label(self) -> str:
        """Name and version, as in the X-Model-Version header."""
        return f"{self.manifest.name}-{self.manifest.version}"


@dataclass(frozen=True, slots=True)
class Serving:
    """All that scoring reads: the plan, and every model that it may route to."""

    plan: Plan
    models: Mapping[str, LiveModel]
    catalogue: Catalogue

    @property
    def default_model(self) -> LiveModel:
        """The model where no layer decides."""
        return self.models[self.plan.default_model]

    def covered_until_ms(self) -> int:
        """Return the time before which every model's snapshot covers a user's behaviors."""
        return min((m.snapshot.at_ms if m.snapshot else 0) for m in self.models.values())


def load_serving(
    registry: Path, plan: Plan, *, precision: Precision = "fp32", threads_count: int = 1
) -> Serving:
    """Load the current version of every model that a plan names.

    A model is served in fp32 where it cannot be in the precision that is asked for.

    Raises:
        NotReady: with a reason for each that is missing, torn, or does not fit the others.
    """
    models: dict[str, LiveModel] = {}
    catalogues: dict[str, Catalogue] = {}
    reasons: list[str] = []
    for name in plan.models():
        try:
            models[name] = load_model(
                registry, name, catalogues, precision=precision, threads_count=threads_count
            )
        except (ContractError, ScoringError) as error:
            reasons.append(str(error))
    if not reasons:
        reasons = _misfits(plan, models, catalogues)
    if reasons:
        raise NotReady(reasons)
    return Serving(plan, models, next(iter(catalogues.values())))


def load_model(
    registry: Path,
    name: str,
    catalogues: dict[str, Catalogue],
    *,
    precision: Precision = "fp32",
    threads_count: int = 1,
) -> LiveModel:
    """Load and verify the current version of a model, replay its golden requests, and warm it up.

    `catalogues` keeps those that were read, by name: models share them.

    Raises:
        ContractError: it is missing, torn, altered, or scores other than verified.
        ScoringError: its graph fails.
    """
    folder = model_folder(registry, name) / current_version(registry, name)
    manifest = read_artefact(folder, quickly=True)
    if manifest.name != name:
        raise ArtefactError(f"{folder} holds an artefact of model {manifest.name!r}, not {name!r}")
    catalogue = catalogues.get(manifest.catalogue.name)
    if catalogue is None:
        catalogue = read_catalogue(catalogue_folder(registry, manifest.catalogue.name))
        catalogues[catalogue.name] = catalogue
    catalogue.check(manifest.catalogue)
    snapshot = read_snapshot_ref(registry, manifest.snapshot_line)
    if snapshot is not None:
        catalogue.check(snapshot.catalogue)
    tables = read_item_tables(folder)
    encoder = RequestEncoder(manifest, tables, ItemEncoder(folder, tables).rows_of)
    scorer, why_fp32 = _scorer(
        folder, manifest, catalogue, encoder, precision=precision, threads_count=threads_count
    )
    model = LiveModel(
        manifest=manifest,
        catalogue=catalogue,
        encoder=encoder,
        scorer=scorer,
        why_fp32=why_fp32,
        snapshot=snapshot,
        popularity=_popularity(registry, manifest.snapshot_line, snapshot)
        if encoder.reads_popularity
        else Popularity.empty(),
        tasks=tuple(task.name for task in manifest.tasks),
    )
    _check_tables(folder, model)
    _warm_up(model)
    return model


def _scorer(
    folder: Path,
    manifest: Manifest,
    catalogue: Catalogue,
    encoder: RequestEncoder,
    *,
    precision: Precision,
    threads_count: int,
) -> tuple[Scorer, str | None]:
    """Return the scorer of a precision once it has replayed the golden requests, or one in fp32 and why.

    On a processor that adds up 8-bit products in 16 bits, int8 may score otherwise than where it was verified.
    """
    why = None
    if precision != "fp32":
        try:
            if manifest.variant(precision) is None:
                raise ArtefactError(f"{folder} carries no {precision} variant that passed its gate")
            scorer = Scorer(folder, manifest, precision=precision, threads_count=threads_count)
            return _replayed(scorer, folder, manifest, catalogue, encoder), None
        except (ArtefactError, ScoringError) as error:
            why = str(error)
    scorer = Scorer(folder, manifest, threads_count=threads_count)
    return _replayed(scorer, folder, manifest, catalogue, encoder), why


def _replayed(
    scorer: Scorer, folder: Path, manifest: Manifest, catalogue: Catalogue, encoder: RequestEncoder
) -> Scorer:
    replay_golden(
        folder,
        manifest=manifest,
        catalogue=catalogue,
        encoder=encoder,
        run=scorer.run,
        precision=scorer.precision,
    )
    return scorer


def _popularity(registry: Path, line: str, snapshot: SnapshotRef | None) -> Popularity:
    """Return the table published with a snapshot; an empty one where nothing was published, as with histories."""
    return Popularity.empty() if snapshot is None else read_popularity(registry, line, snapshot)


def _check_tables(folder: Path, model: LiveModel) -> None:
    tables = model.encoder.tables
    rows_count, domains_count = len(tables.shared), len(tables.by_domain)
    if rows_count != model.manifest.items_count or domains_count != len(model.manifest.domains):
        raise ArtefactError(
            f"{folder}: its item tables have {rows_count} rows for {domains_count} domains, the manifest "
            f"says {model.manifest.items_count} for {len(model.manifest.domains)}; export the artefact again"
        )


def _warm_up(model: LiveModel) -> None:
    """Score unknown users once for each domain, so that no request is the first of its shape."""
    history = build_history(None, Behaviors.empty(), at_ms=0, limits=model.manifest.history)
    for domain in model.domains:
        for count in WARM_UP_CANDIDATES_COUNTS:
            feeds = model.encoder.encode(
                domain,
                user_id="",
                user_features={},
                context={},
                candidates=np.zeros(count, np.uint32),
                rows=np.zeros(count, np.int32),
                candidate_contexts=[{}] * count,
                history=history,
                popularity=model.popularity,
                at_ms=0,
            )
            model.scorer.run(domain, feeds)


def _misfits(plan: Plan, models: Mapping[str, LiveModel], catalogues: Mapping[str, Catalogue]) -> list[str]:
    """Return why models that are each whole cannot serve together."""
    reasons = []
    if len(catalogues) > 1:
        reasons.append(
            f"the models read different catalogues ({', '.join(sorted(catalogues))}): a user's recent "
            "behaviors are kept once, with the ids of one catalogue"
        )
    for layer in plan.layers:
        for arm in layer.arms:
            if lacking := set(layer.domains) - set(models[arm.model].domains):
                reasons.append(
                    f"layer {layer.name!r} routes {', '.join(sorted(lacking))} to arm {arm.name!r}, whose "
                    f"model {arm.model!r} knows no such domain"
                )
    return reasons
