"""Artefacts whose right answers are known by construction: small ONNX graphs that add up chosen effects.

    logit(click) = item's shared + item's in this domain + domain's
                 + effects of user_id, loyalty (user), store_id, hour_of_day (context), location (candidate)
                 + how often the life cycle has the item, and its aisle
                 + the sum over clusters of  size * (.05 * item's x + .001 * age + .002 * strength)
                 + the sum over recents of          .03 * item's y + .0005 * age + .0003 * strength
                 + effects of how often the life cycle has the candidate, everyone had it, and had it in this store:
                   none, once or twice, more often
    logit(multi) = .5 * logit(click) - 1, given click

`KnownModel.probability` is the same in plain Python, from raw values, without the contract's encoders.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper, save_model

from service.contract import artefact, served_inputs
from service.contract.catalogue import Catalogue, CatalogueRef, write_catalogue
from service.contract.features import (
    HOUR_OF_DAY,
    BucketEncoder,
    CategoricalEncoder,
    FeatureSpec,
    RawValue,
    Side,
    time_encoder,
)
from service.contract.golden import GoldenCandidate, GoldenRequest, write_golden
from service.contract.history import Behaviors, Snapshot, encode_snapshot
from service.contract.manifest import Manifest, Parity, TaskSpec, Variant
from service.contract.match import match_key_ends, match_keys
from service.contract.served_inputs import rows_by_catalogue_id
from tests.support.slow_statistics import popularity_of
from training.export.onnx_file import write_by_domain
from training.export.served_scorer import DOMAIN, ItemTableContent

AT_MS = 1_700_000_000_000
"""A Tuesday, 22:13:20 UTC: the requests of these tests are at this moment unless told."""

HOUR_AT_MS = 22
OFTEN = (1.0, 3.0)
"""Where `once or twice` and `more often` begin."""

DEAR = (2.0, 10.0)
"""Where prices are higher, and high."""

POPULAR: Mapping[str, Mapping[str, int]] = {
    "apple": {"7": 2, "8": 1},
    "corn": {"8": 2},
    "egg": {"7": 9},
}
"""How often everyone had each item, by store."""

LINE = "main"
CATALOGUE = "shop"


@dataclass(frozen=True)
class Item:
    """What an item adds to the logits. `x` is what histories read of it as a cluster's medoid, `y` as a recent;
    `aisle` is what it is matched by besides itself."""

    shared: float
    by_domain: Mapping[str, float]
    x: float
    y: float
    aisle: str = ""


@dataclass(frozen=True)
class Past:
    """Behaviors of a user as a test states them: an item, how many, and their buckets of age and strength."""

    item_id: str
    size: int = 1
    age_bucket: int = 0
    strength_bucket: int = 0


@dataclass(frozen=True)
class KnownModel:
    """A model made of effects. Items' order is that of its table rows, after the cold-start row.

    An item without a row adds what the cold-start item does, the effect of its aisle, and in the i-th domain that of
    its price i times.
    """

    name: str
    domain_effects: Mapping[str, float]
    items: Mapping[str, Item]
    cold: Item
    user_effects: Mapping[str, float]
    loyalty_effects: Mapping[str, float]
    store_effects: Mapping[str, float]
    location_effects: Mapping[str, float]
    aisle_effects: Mapping[str, float]
    price_effect: float = 0.3  # times 0, 1 or 2, by how high
    hour_effect: float = 0.01  # times the hour
    match_effect: float = 0.17  # these four: times 0, 1 or 2, by how often
    match_aisle_effect: float = -0.11
    popularity_effect: float = 0.08
    store_popularity_effect: float = -0.06
    int8_hour_effect: float | None = None
    """Of the int8 variant, by which its scores are known; without one the artefact carries none."""
    int8_log_odds_stated: float = 1.0
    tasks: tuple[TaskSpec, ...] = (TaskSpec(name="click"), TaskSpec(name="multi", given="click"))
    features: tuple[FeatureSpec, ...] = field(init=False)
    item_features: tuple[FeatureSpec, ...] = field(init=False)

    def __post_init__(self) -> None:
        def categorical(name: str, side: Side, values: Mapping[str, float]) -> FeatureSpec:
            return FeatureSpec(name=name, side=side, encoder=CategoricalEncoder(values=tuple(values)))

        hour = FeatureSpec(name=HOUR_OF_DAY, side=Side.CONTEXT, encoder=time_encoder(HOUR_OF_DAY))

        def counted(name: str, side: Side) -> FeatureSpec:
            return FeatureSpec(name=name, side=side, encoder=BucketEncoder(boundaries=OFTEN))

        features = (
            categorical("user_id", Side.USER, self.user_effects),
            categorical("loyalty", Side.USER, self.loyalty_effects),
            categorical("store_id", Side.CONTEXT, self.store_effects),
            hour,
            categorical("location", Side.CANDIDATE, self.location_effects),
            counted("match_item_id_count", Side.MATCH),
            counted("match_aisle_count", Side.MATCH),
            counted("popularity_item_id_count", Side.POPULARITY),
            counted("popularity_store_id_count", Side.POPULARITY),
        )
        item_features = (
            categorical("item_id", Side.ITEM, {}),
            categorical("aisle", Side.ITEM, self.aisle_effects),
            FeatureSpec(name="price", side=Side.ITEM, encoder=BucketEncoder(boundaries=DEAR)),
        )
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "item_features", item_features)

    def probability(
        self,
        item_id: str,
        *,
        domain: str,
        user_id: str = "",
        features: Mapping[str, RawValue] | None = None,
        context: Mapping[str, RawValue] | None = None,
        location: str | None = None,
        item_features: Mapping[str, RawValue] | None = None,
        hour: int = HOUR_AT_MS,
        clusters: Sequence[Past] = (),
        recents: Sequence[Past] = (),
        popular: Mapping[str, Mapping[str, int]] = POPULAR,
    ) -> tuple[float, float]:
        """Return the right probabilities of click and multi for one candidate.

        What the life cycle has of it are its clusters: those of the snapshots here are of one item each.
        """
        features, context = features or {}, context or {}
        item = self.items.get(item_id) or self.new_item(item_features or {})
        logit = item.shared + item.by_domain[domain] + self.domain_effects[domain]
        logit += self.user_effects.get(user_id, 0.0)
        logit += self.loyalty_effects.get(str(features.get("loyalty")), 0.0)
        logit += self.store_effects.get(str(context.get("store_id")), 0.0)
        logit += self.location_effects.get(str(location), 0.0)
        logit += self.hour_effect * hour
        for past in clusters:
            x = self.items.get(past.item_id, self.cold).x
            logit += past.size * (0.05 * x + 0.001 * past.age_bucket + 0.002 * past.strength_bucket)
        for past in recents:
            y = self.items.get(past.item_id, self.cold).y
            logit += 0.03 * y + 0.0005 * past.age_bucket + 0.0003 * past.strength_bucket
        if item_id in self.items:
            had = sum(past.size for past in clusters if past.item_id == item_id)
            logit += self.match_effect * _how_often(had)
        if item.aisle:
            had = sum(
                past.size for past in clusters if self.items.get(past.item_id, self.cold).aisle == item.aisle
            )
            logit += self.match_aisle_effect * _how_often(had)
        everyones = popular.get(item_id, {})
        logit += self.popularity_effect * _how_often(sum(everyones.values()))
        logit += self.store_popularity_effect * _how_often(everyones.get(str(context.get("store_id")), 0))
        click = _sigmoid(logit)
        return click, click * _sigmoid(0.5 * logit - 1)

    def new_item(self, features: Mapping[str, RawValue]) -> Item:
        """Return what an item without a row adds to the logits, by its features."""
        aisle, price = str(features.get("aisle")), features.get("price")
        aisle = aisle if aisle in self.aisle_effects else ""
        high = sum(price >= least for least in DEAR) if isinstance(price, int | float) else 0
        by_domain = {
            domain: self.cold.by_domain[domain] + i * self.price_effect * high
            for i, domain in enumerate(self.domain_effects)
        }
        shared = self.cold.shared + self.aisle_effects.get(aisle, 0.0)
        return replace(self.cold, shared=shared, by_domain=by_domain, aisle=aisle)

    def write(self, folder: Path, catalogue: Catalogue) -> Manifest:
        """Write the artefact into a folder, golden requests included, and seal it."""
        (folder / "items").mkdir(parents=True)
        (folder / artefact.REPORT_FOLDER).mkdir()
        (folder / artefact.REPORT_FOLDER / "report.md").write_text("made of known effects\n")
        rows = [self.cold, *self.items.values()]
        aisles = list(self.aisle_effects)
        ids = np.array([0, *catalogue.ids_of(self.items)], np.uint32)
        assert ids[1:].all(), "a model's items are in its catalogue"
        tables = ItemTableContent(
            shared=np.array([[row.shared] for row in rows], np.float32),
            by_domain=np.array(
                [[[row.by_domain[domain]] for row in rows] for domain in self.domain_effects], np.float32
            ),
            history={
                "clusters": np.array([[row.x] for row in rows], np.float32),
                "recents": np.array([[row.y] for row in rows], np.float32),
            },
            match_keys=match_keys(
                ("item_id", "aisle"),
                np.array([[1 + aisles.index(row.aisle) if row.aisle else 0] for row in rows]),
                ("aisle",),
            ),
        )
        np.save(folder / artefact.ITEM_ROWS_FILE, rows_by_catalogue_id(ids))
        for name, table in tables.files().items():
            np.save(folder / name, table)
        write_by_domain(folder, _graph(self), tuple(self.domain_effects))
        if self.int8_hour_effect is not None:
            other = folder / "other"
            write_by_domain(
                other, _graph(replace(self, hour_effect=self.int8_hour_effect)), tuple(self.domain_effects)
            )
            for domain in self.domain_effects:
                (other / artefact.scorer_file(domain)).rename(folder / artefact.scorer_file(domain, "int8"))
            shutil.rmtree(other)
        save_model(_item_encoder(self), folder / artefact.ITEM_ENCODER_FILE)
        write_golden(folder, self._golden())
        return artefact.seal_artefact(
            folder, self._manifest(catalogue.ref(), len(rows), match_key_ends(tables.match_keys))
        )

    def publish(self, registry: Path, catalogue: Catalogue, work: Path) -> Manifest:
        """Write the artefact, install it in a registry and put it in force."""
        manifest = self.write(work, catalogue)
        artefact.install_artefact(registry, work)
        artefact.activate_artefact(registry, self.name, manifest.version)
        return manifest

    def _golden(self) -> list[GoldenRequest]:
        item_id = next(iter(self.items))
        new: dict[str, RawValue] = {"aisle": next(iter(self.aisle_effects)), "price": 5}
        snapshot = Snapshot(
            at_ms=AT_MS,
            item=np.zeros(0, np.uint32),
            size=np.zeros(0, np.uint32),
            mean_age_s=np.zeros(0, np.uint32),
            strength=np.zeros(0, np.uint16),
            tail=Behaviors.empty(),
        )
        requests = []
        for domain in self.domain_effects:
            right = [
                self.probability(item_id, domain=domain, location="A", popular={}),
                self.probability("not in any catalogue", domain=domain, popular={}),
                self.probability("new", domain=domain, item_features=new, popular={}),
            ]
            requests.append(
                GoldenRequest(
                    domain=domain,
                    user_id="",
                    at_ms=AT_MS + 1,
                    user_features={},
                    context={},
                    candidates=(
                        GoldenCandidate(item_id=item_id, context={"location": "A"}),
                        GoldenCandidate(item_id="not in any catalogue", context={}),
                        GoldenCandidate(item_id="new", context={}, features=new),
                    ),
                    snapshot=encode_snapshot(snapshot),
                    recent=b"",
                    probability=tuple(right),
                )
            )
        return requests

    def _manifest(
        self, catalogue: CatalogueRef, items_count: int, match_key_ends: tuple[int, ...]
    ) -> Manifest:
        return Manifest(
            name=self.name,
            created_at="2023-11-14T22:13:20Z",
            backbone="known",
            interests=(),
            dataset_fingerprint="known",
            catalogue=catalogue,
            snapshot_line=LINE,
            domains=tuple(self.domain_effects),
            tasks=self.tasks,
            features=self.features,
            item_features=self.item_features,
            match_key_ends=match_key_ends,
            history={"singletons_max": 512, "recents_max": 50},  # type: ignore[arg-type]
            items_count=items_count,
            graph_inputs=tuple(name for name in _INPUTS if name != DOMAIN),
            parity=Parity(rows_count=1, logit_difference_max=0.0, logit_difference_limit=1e-4),
            variants=() if self.int8_hour_effect is None else (self._int8(),),
            metrics=(),
            files={},
        )

    def _int8(self) -> Variant:
        return Variant(
            precision="int8",
            rows_count=1,
            auc_drop_max=0.0,
            pcoc_change_max=0.0,
            probability_difference_max=1.0,
            log_odds_difference_max=self.int8_log_odds_stated,
        )


def make_catalogue(item_ids: Sequence[str]) -> Catalogue:
    """Return the catalogue that known models read."""
    return Catalogue(CATALOGUE, item_ids)


def publish_catalogue(registry: Path, catalogue: Catalogue) -> None:
    """Write the catalogue into a registry."""
    write_catalogue(artefact.catalogue_folder(registry, catalogue.name), catalogue)


def publish_popularity(registry: Path, catalogue: Catalogue, snapshot_id: str, at_ms: int) -> str:
    """Write the table of POPULAR, whose behaviors are all of an hour before a moment; returns its SHA-256."""
    ages_s = {
        catalogue.id_of(item): {store: [3600] * count for store, count in stores.items()}
        for item, stores in POPULAR.items()
    }
    table = popularity_of(ages_s, at_ms=at_ms, context="store_id")
    return artefact.write_popularity(registry, LINE, snapshot_id, table)


def _how_often(count: int) -> int:
    return sum(count >= least for least in OFTEN)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


_F, _I = TensorProto.FLOAT, TensorProto.INT64
_INPUTS: dict[str, tuple[int, list[str | int]]] = {
    DOMAIN: (_I, [1]),
    served_inputs.USER_IDS: (_I, [1, 4]),
    served_inputs.CANDIDATE_IDS: (_I, ["N", 5]),
    served_inputs.ITEM_SHARED: (_F, ["N", 1]),
    served_inputs.ITEM_BY_DOMAIN: (_F, ["N", 1]),
    served_inputs.CLUSTER_ITEM: (_F, ["C", 1]),
    served_inputs.CLUSTER_SIZE: (_F, ["C"]),
    served_inputs.CLUSTER_AGE: (_I, ["C"]),
    served_inputs.CLUSTER_STRENGTH: (_I, ["C"]),
    served_inputs.RECENT_ITEM: (_F, ["S", 1]),
    served_inputs.RECENT_SIZE: (_F, ["S"]),
    served_inputs.RECENT_AGE: (_I, ["S"]),
    served_inputs.RECENT_STRENGTH: (_I, ["S"]),
}


class _Graph:
    """Nodes and constants as they are added."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.constants: list[object] = []

    def __call__(self, operator: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, values: object, dtype: type[np.generic] = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name


def _effects(values: Mapping[str, float]) -> list[float]:
    return [0.0, *values.values()]


def _column(g: _Graph, ids: str, index: int, effects: Sequence[float]) -> str:
    """Add the effect of one feature, (rows,)."""
    picked = g("Gather", ids, g.constant(index, np.int64), axis=1)
    return g("Gather", g.constant(effects), picked)


def _item_encoder(model: KnownModel) -> ModelProto:
    """Return the graph from the ids of item_id, aisle and price to an item's rows."""
    g, ids, cold = _Graph(), served_inputs.ITEM_FEATURE_IDS, model.cold
    last = g.constant([1], np.int64)
    aisle = g("Unsqueeze", _column(g, ids, 1, _effects(model.aisle_effects)), last)  # (K, 1)
    steps = [0.0, *(model.price_effect * high for high in range(len(DEAR) + 1))]
    price = g("Unsqueeze", _column(g, ids, 2, steps), last)
    domains_count = len(model.domain_effects)
    times = g.constant(np.arange(domains_count).reshape(-1, 1, 1))
    of_domain = g.constant(np.array([cold.by_domain[d] for d in model.domain_effects]).reshape(-1, 1, 1))
    g("Add", aisle, g.constant(cold.shared), output=served_inputs.ITEM_SHARED)
    g("Add", g("Mul", price, times), of_domain, output=served_inputs.ITEM_BY_DOMAIN)  # (M, K, 1)
    graph = helper.make_graph(
        g.nodes,
        "known_items",
        [helper.make_tensor_value_info(ids, _I, ["K", len(model.item_features)])],
        [
            helper.make_tensor_value_info(served_inputs.ITEM_SHARED, _F, ["K", 1]),
            helper.make_tensor_value_info(served_inputs.ITEM_BY_DOMAIN, _F, [domains_count, "K", 1]),
        ],
        g.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _graph(model: KnownModel) -> ModelProto:
    """Return the graph of all domains."""
    g = _Graph()

    def column(ids: str, index: int, effects: Sequence[float]) -> str:  # (1 or N,)
        return _column(g, ids, index, effects)

    def history(part: str, weights: tuple[float, float, float]) -> str:
        item, size, age, strength = served_inputs.PARTS[part]
        each = g("Mul", g("Squeeze", item, g.constant([1], np.int64)), g.constant(weights[0]))
        for ids, weight in ((age, weights[1]), (strength, weights[2])):
            each = g("Add", each, g("Mul", g("Cast", ids, to=_F), g.constant(weight)))
        return g("ReduceSum", g("Mul", each, size), keepdims=0)

    hours = [0.0, *(model.hour_effect * hour for hour in range(24))]
    request = g("Gather", g.constant(list(model.domain_effects.values())), DOMAIN)  # (1,)
    tables = (
        _effects(model.user_effects),
        _effects(model.loyalty_effects),
        _effects(model.store_effects),
        hours,
    )
    for index, effects in enumerate(tables):
        request = g("Add", request, column(served_inputs.USER_IDS, index, effects))
    request = g("Add", request, history("clusters", (0.05, 0.001, 0.002)))
    request = g("Add", request, history("recents", (0.03, 0.0005, 0.0003)))
    own = column(served_inputs.CANDIDATE_IDS, 0, _effects(model.location_effects))  # (N,)
    counted = (
        model.match_effect,
        model.match_aisle_effect,
        model.popularity_effect,
        model.store_popularity_effect,
    )
    for index, effect in enumerate(counted, start=1):  # ids: unknown, none, once or twice, more often
        own = g("Add", own, column(served_inputs.CANDIDATE_IDS, index, [0.0, 0.0, effect, 2 * effect]))
    item = g("Add", served_inputs.ITEM_SHARED, served_inputs.ITEM_BY_DOMAIN)  # (N, 1)
    candidate = g("Add", item, g("Unsqueeze", own, g.constant([1], np.int64)))
    click = g("Add", candidate, request)  # (N, 1)
    multi = g("Sub", g("Mul", click, g.constant(0.5)), g.constant(1.0))

    def probability(
        logit: str,
    ) -> str:  # ONNX Runtime's Sigmoid is right to 2^-24 only: 0 below a logit of -17
        return g("Div", g.constant(1.0), g("Add", g.constant(1.0), g("Exp", g("Neg", logit))))

    click_probability = probability(click)
    multi_probability = g("Mul", click_probability, probability(multi))
    g("Concat", click, multi, output=served_inputs.LOGIT, axis=1)
    g("Concat", click_probability, multi_probability, output=served_inputs.PROBABILITY, axis=1)
    graph = helper.make_graph(
        g.nodes,
        "known",
        [helper.make_tensor_value_info(name, *declared) for name, declared in _INPUTS.items()],
        [
            helper.make_tensor_value_info(name, _F, ["N", 2])
            for name in (served_inputs.LOGIT, served_inputs.PROBABILITY)
        ],
        g.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
