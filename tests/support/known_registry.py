"""A registry of two known models with different vocabularies, and the one store that both read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract import artefact
from service.contract.artefact import SnapshotRef
from service.contract.catalogue import Catalogue
from service.contract.history import Behaviors, Snapshot, encode_snapshot
from service.contract.store_keys import encode_user_features
from service.experiments.assignment import arm_of
from service.experiments.plan import Plan
from service.stores.base import Store
from tests.support.known_artefact import (
    AT_MS,
    LINE,
    Item,
    KnownModel,
    Past,
    make_catalogue,
    publish_catalogue,
    publish_popularity,
)
from tests.support.slow_statistics import counts_of

DOMAINS = ("mailer", "display", "both")
DAY_MS = 24 * 3600 * 1000
SNAPSHOT_AT_MS = AT_MS - DAY_MS
SNAPSHOT_ID = "s-1"
CATALOGUE_ITEMS = ("apple", "bread", "corn", "dill", "egg")

PLAN = """
version: 1
default_model: star
layers:
  - name: ranker
    salt: test
    domains: [mailer, display]
    arms:
      - {name: control, model: star, share: 0.5}
      - {name: treatment, model: pepnet, share: 0.5}
"""

USERS = tuple(f"u{i}" for i in range(20))


def _item(seed: float, aisle: str = "") -> Item:
    return Item(
        shared=seed,
        by_domain={domain: seed / 10 + i / 5 for i, domain in enumerate(DOMAINS)},
        x=seed * 2,
        y=1 - seed,
        aisle=aisle,
    )


STAR = KnownModel(
    name="star",
    domain_effects={"mailer": -1.0, "display": -0.5, "both": 0.25},
    items={"apple": _item(0.3, "fresh"), "bread": _item(-0.7, "bakery"), "corn": _item(1.1, "fresh")},
    cold=_item(-0.2),
    user_effects={user: 0.01 * i for i, user in enumerate(USERS)},
    loyalty_effects={"gold": 0.4, "tin": -0.3},
    store_effects={"7": 0.15, "8": -0.15},
    location_effects={"A": 0.2, "B": -0.2},
    aisle_effects={"bakery": 0.21, "fresh": -0.13, "toys": 0.5},  # no item is of the last
)
# Fewer users, other items, all in another order: a row of one model is a wrong answer in the other.
PEPNET = KnownModel(
    name="pepnet",
    domain_effects={"display": 0.7, "mailer": 0.6, "both": -0.9},
    items={"dill": _item(0.9, "herbs"), "corn": _item(-0.4, "fresh"), "apple": _item(0.65, "fresh")},
    cold=_item(0.05),
    user_effects={user: -0.02 * i for i, user in enumerate(reversed(USERS))},
    loyalty_effects={"tin": 0.35, "gold": 0.1},
    store_effects={"8": 0.3},
    location_effects={"B": 0.4, "A": 0.1},
    aisle_effects={"fresh": 0.12, "toys": -0.6, "herbs": 0.33},
    price_effect=-0.2,
    hour_effect=-0.02,
    match_effect=-0.23,
    match_aisle_effect=0.19,
    popularity_effect=0.15,
    store_popularity_effect=0.04,
)
MODELS = {model.name: model for model in (STAR, PEPNET)}


@dataclass(frozen=True)
class KnownRegistry:
    """A registry on disk. `versions` are those in force, by model."""

    folder: Path
    plan_file: Path
    catalogue: Catalogue
    versions: dict[str, str]


def build_registry(folder: Path, *, plan: str = PLAN) -> KnownRegistry:
    """Publish both models, the catalogue and the snapshot's reference into a new registry."""
    registry = folder / "artefacts"
    catalogue = make_catalogue(CATALOGUE_ITEMS)
    publish_catalogue(registry, catalogue)
    versions = {
        name: model.publish(registry, catalogue, folder / f"work-{name}").version
        for name, model in MODELS.items()
    }
    ref = SnapshotRef(
        snapshot_id=SNAPSHOT_ID,
        at_ms=SNAPSHOT_AT_MS,
        users_count=len(USERS),
        catalogue=catalogue.ref(),
        popularity_sha256=publish_popularity(registry, catalogue, SNAPSHOT_ID, SNAPSHOT_AT_MS),
    )
    artefact.write_snapshot_ref(registry, LINE, ref)
    plan_file = folder / "experiments.yaml"
    plan_file.write_text(plan)
    return KnownRegistry(registry, plan_file, catalogue, versions)


def model_of(user_id: str, domain: str, plan: Plan) -> KnownModel:
    """Return the model that scores a user in a domain."""
    layer = plan.layer_of(domain)
    return MODELS[arm_of(layer, user_id).model if layer else plan.default_model]


def snapshot_of(catalogue: Catalogue, clusters: Sequence[Past], *, at_ms: int = SNAPSHOT_AT_MS) -> bytes:
    """Return a snapshot blob of clusters without a tail. Its clusters are as old as the snapshot, strength 0:
    a day later their age bucket is `AGE_BUCKET_OF_A_DAY`. Its counts are those of the clusters' items."""
    count, ids = len(clusters), catalogue.ids_of(past.item_id for past in clusters)
    return encode_snapshot(
        Snapshot(
            at_ms=at_ms,
            item=np.array(ids, np.uint32),
            size=np.array([past.size for past in clusters], np.uint32),
            mean_age_s=np.zeros(count, np.uint32),
            strength=np.zeros(count, np.uint16),
            tail=Behaviors.empty(),
            counts=counts_of([(i, [0] * past.size) for i, past in zip(ids, clusters, strict=True)]),
        )
    )


async def fill_store(store: Store, catalogue: Catalogue) -> dict[str, list[Past]]:
    """Write a snapshot of all users, and return each one's clusters with the age they have at AT_MS."""
    histories = {
        user: [Past(CATALOGUE_ITEMS[(i + j) % 4], size=1 + j) for j in range(i % 4)]
        for i, user in enumerate(USERS)
    }
    await store.write_snapshot(
        SNAPSHOT_ID,
        (
            (user, snapshot_of(catalogue, clusters), encode_user_features({"loyalty": loyalty_of(user)}))
            for user, clusters in histories.items()
        ),
    )
    return {
        user: [Past(past.item_id, past.size, AGE_BUCKET_OF_A_DAY) for past in clusters]
        for user, clusters in histories.items()
    }


def loyalty_of(user: str) -> str:
    """Return the loyalty that the store holds of a user."""
    return "gold" if USERS.index(user) % 2 else "tin"


AGE_BUCKET_OF_A_DAY = 20
"""The edges are 60 s * 2^(k/2) for k = 1..39: 2^10.5 minutes are 86,891 s, over a day; 2^10 are 61,440 s."""
