"""The reference model: a representative model with random weights, published as a real artefact, and users of its own.

    python -m benchmarks.reference_model FOLDER [--items N]

8 user, 2 context and 10 item features, each 16 wide; STAR of 512-256-128 over 3 domains and 2 tasks; TWIN-V2 attention
of 4 heads of 16 over all clusters; nothing counted; a made-up catalogue. FOLDER gets `registry/` (an artefact sealed
by the contract, whose golden requests expect what torch computes), `store/` (USERS_COUNT users of each number of
clusters), `training_graph.onnx` and `experiments.yaml`, so that the service serves it as it is:

    python -m service --registry FOLDER/registry --store-url embedded://FOLDER/store \
        --experiments-file FOLDER/experiments.yaml

The same arguments write the same model. It says nothing of AUC: what a graph costs does not depend on what was learned.
Knows nothing of clocks and servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from benchmarks.made_up_request import Request, batch_of
from benchmarks.workload import Ask, User, Workload, body_of
from service.contract import artefact
from service.contract.catalogue import Catalogue, catalogue_bytes, write_catalogue
from service.contract.features import (
    DAY_OF_WEEK,
    CategoricalEncoder,
    FeatureSpec,
    RawValue,
    Side,
    time_encoder,
)
from service.contract.golden import (
    GoldenCandidate,
    GoldenRequest,
    log_odds_differences,
    write_golden,
)
from service.contract.history import (
    STRENGTH_SCALE,
    Behaviors,
    HistoryLimits,
    Snapshot,
    build_history,
    decode_snapshot,
    encode_snapshot,
)
from service.contract.manifest import Manifest, Parity, TaskSpec, Variant
from service.contract.match import match_key_ends
from service.contract.served_inputs import rows_by_catalogue_id
from service.contract.store_keys import encode_user_features
from service.stores import open_store
from training.config import ModelConfig
from training.errors import StageError
from training.export.int8_file import write_int8
from training.export.item_encoder import ItemEncoder, new_item_features
from training.export.onnx_file import write_item_encoder, write_onnx
from training.export.parity import LOGIT_DIFFERENCE_LIMIT
from training.export.served_graph import ServedGraph
from training.export.served_scorer import ServedScorer
from training.export.training_graph import write_training_graph
from training.fit import probabilities
from training.model import CtrModel

MODEL: Final = "reference"
LINE: Final = "reference"
DOMAINS: Final = ("mailer", "display", "both")
TASKS: Final = (TaskSpec(name="click"), TaskSpec(name="buy", given="click"))
CLUSTERS_COUNTS: Final = (0, 200, 1000, 10_000)
USERS_COUNT: Final = 48
"""Users of each number of clusters."""

ITEMS_COUNT: Final = 100_000
TAIL_COUNT: Final = 50
SNAPSHOT_AT_MS: Final = 1_700_000_000_000
ASKED_AT_MS: Final = SNAPSHOT_AT_MS + 3_600_000
SEED: Final = 1
LIMITS: Final = HistoryLimits(clusters_max=None)
"""A request has as many clusters as it says, also where a pipeline's model would read a sample of them."""
FORMAT: Final = 5
"""Raised with every change to what is written, so that a folder of an older one is written anew."""

CONFIG: Final = ModelConfig.model_validate(
    {
        "backbone": {"name": "star", "hidden": (512, 256, 128)},
        "interests": [{"name": "twin_v2", "heads": 4, "head_width": 16, "out_width": 64, "keep": None}],
        "embedding_width": 16,
    }
)
_USER_VALUES: Final = {"age": 8, "income": 12, "home": 4, "marital": 4, "size": 6, "children": 5, "city": 500}
_ITEM_VALUES: Final = {
    "product_type": 1_500,
    "category": 280,
    "department": 24,
    "brand": 3_000,
    "manufacturer": 1_300,
    "price": 32,
    "pack_size": 40,
    "color": 24,
    "season": 4,
}
_STORES_COUNT: Final = 450


def main() -> None:
    """Write the reference model into a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=ITEMS_COUNT, help="items of the catalogue")
    arguments = parser.parse_args()
    reference = Reference(arguments.folder, items_count=arguments.items)
    reference.write()
    print(f"{MODEL}-{reference.version} in {arguments.folder}")


@dataclass(frozen=True)
class Reference:
    """The reference model in a folder, whether it is written yet or not."""

    folder: Path
    items_count: int = ITEMS_COUNT

    @property
    def registry(self) -> Path:
        """The artefact registry."""
        return self.folder / "registry"

    @property
    def store(self) -> Path:
        """The folder of the embedded store with all users."""
        return self.folder / "store"

    @property
    def training_graph(self) -> Path:
        """The training forward as one graph."""
        return self.folder / "training_graph.onnx"

    @property
    def plan(self) -> Path:
        """The experiments file that routes everyone to this model."""
        return self.folder / "experiments.yaml"

    @property
    def version(self) -> str:
        """The version in force."""
        return artefact.current_version(self.registry, MODEL)

    @property
    def artefact(self) -> Path:
        """The folder of the version in force."""
        return artefact.model_folder(self.registry, MODEL) / self.version

    @property
    def is_written(self) -> bool:
        """Whether the folder holds this very model, whole."""
        return self._receipt.is_file() and self._receipt.read_text() == self._stamp

    @property
    def _receipt(self) -> Path:
        """Written last, so that a folder whose writing broke off is written anew."""
        return self.folder / "written.txt"

    @property
    def _stamp(self) -> str:
        return f"format {FORMAT}, {self.items_count} items\n"

    @cached_property
    def item_ids(self) -> tuple[str, ...]:
        """The catalogue's items in its order: catalogue id i + 1 is item i."""
        return tuple(str(1_000_000 + i) for i in range(self.items_count))

    def ensure(self) -> None:
        """Write the model unless the folder holds it."""
        if not self.is_written:
            self.write()

    def write(self) -> None:
        """Write artefact, users, training graph and plan; what the folder held of them is gone.

        Raises:
            StageError: the served graph does not score as torch does; nothing is in force then.
        """
        for name in ("registry", "store", "work"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self._receipt.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.plan.write_text(json.dumps({"version": 1, "default_model": MODEL}))
        rng = np.random.default_rng(SEED)
        users = list(self.users())
        item_rows = _item_rows(self.items_count, rng)
        model = random_model(item_rows)
        catalogue = Catalogue(MODEL, self.item_ids)
        manifest = self._write_artefact(self.folder / "work", model, catalogue, users, rng)
        write_training_graph(self.training_graph, model, TASKS)
        write_catalogue(artefact.catalogue_folder(self.registry, catalogue.name), catalogue)
        artefact.install_artefact(self.registry, self.folder / "work")
        shutil.rmtree(self.folder / "work")
        reference = artefact.SnapshotRef(
            snapshot_id=f"{SNAPSHOT_AT_MS}-{MODEL}",
            at_ms=SNAPSHOT_AT_MS,
            users_count=len(users),
            catalogue=catalogue.ref(),
        )
        asyncio.run(_write_users(f"embedded://{self.store.absolute()}", reference.snapshot_id, users))
        artefact.write_snapshot_ref(self.registry, LINE, reference)
        artefact.activate_artefact(self.registry, MODEL, manifest.version)
        self._receipt.write_text(self._stamp)

    def _write_artefact(
        self,
        folder: Path,
        model: CtrModel,
        catalogue: Catalogue,
        users: Sequence[User],
        rng: np.random.Generator,
    ) -> Manifest:
        """Write and seal the artefact, after its graph was held to torch on its golden requests."""
        scorer = ServedScorer(model, TASKS, len(DOMAINS)).eval()
        tables = scorer.item_tables(model, features())
        (folder / "items").mkdir(parents=True)
        (folder / artefact.REPORT_FOLDER).mkdir()
        (folder / artefact.REPORT_FOLDER / "report.md").write_text("Random weights: for benchmarks only.\n")
        (folder / artefact.ITEM_IDS_FILE).write_bytes(catalogue_bytes(catalogue))
        rows = rows_by_catalogue_id(np.arange(self.items_count + 1, dtype=np.uint32))
        for name, table in {artefact.ITEM_ROWS_FILE: rows, **tables.files()}.items():
            np.save(folder / name, table)
        inputs = write_onnx(
            folder,
            scorer,
            tables,
            domains=DOMAINS,
        )
        write_item_encoder(folder, ItemEncoder(model, scorer).eval())
        write_int8(folder, DOMAINS)
        draft = _manifest(catalogue, inputs, match_key_ends(tables.match_keys))
        served, int8 = (ServedGraph(folder, catalogue, draft, precision) for precision in ("fp32", "int8"))
        golden: list[GoldenRequest] = []
        off = int8_p_off = int8_log_odds_off = 0.0
        for request in self._golden(users, rng):
            logits = _torch_logits(model, request, catalogue)
            off = max(off, float(np.abs(served.logits(request) - logits).max()))
            expected = probabilities(logits, TASKS)
            got = int8.probabilities(request.domain, int8.feeds(request))
            int8_p_off = max(int8_p_off, float(np.abs(got - expected).max()))
            int8_log_odds_off = max(int8_log_odds_off, float(log_odds_differences(got, expected).max()))
            golden.append(request.model_copy(update={"probability": tuple(map(tuple, expected.tolist()))}))
        if not off <= LOGIT_DIFFERENCE_LIMIT:
            raise StageError(f"torch and ONNX Runtime differ by {off:.2e} in logits: not sealed")
        write_golden(folder, golden)
        parity = Parity(
            rows_count=sum(len(request.candidates) for request in golden),
            logit_difference_max=off,
            logit_difference_limit=LOGIT_DIFFERENCE_LIMIT,
        )
        variant = Variant(
            precision="int8",
            rows_count=parity.rows_count,
            auc_drop_max=0.0,  # of random weights there is nothing to rank by, and no labels
            pcoc_change_max=0.0,
            probability_difference_max=int8_p_off,
            log_odds_difference_max=int8_log_odds_off,
        )
        return artefact.seal_artefact(
            folder, draft.model_copy(update={"parity": parity, "variants": (variant,)})
        )

    def _golden(self, users: Sequence[User], rng: np.random.Generator) -> Iterator[GoldenRequest]:
        """Yield requests in each domain, of users with few, many and no clusters; probabilities are yet to come."""
        for domain in DOMAINS:
            for count in CLUSTERS_COUNTS[:3]:
                user = users[CLUSTERS_COUNTS.index(count) * USERS_COUNT]
                chosen = [self.item_ids[i] for i in rng.integers(self.items_count, size=20)]
                yield GoldenRequest(
                    domain=domain,
                    user_id=user.user_id,
                    at_ms=ASKED_AT_MS,
                    user_features=_user_features(user.user_id),
                    context={"store_id": str(rng.integers(_STORES_COUNT))},
                    candidates=tuple(
                        GoldenCandidate(item_id=item_id, context={}) for item_id in [*chosen, "unknown"]
                    ),
                    snapshot=user.snapshot,
                    recent=b"",
                    probability=(),
                )

    def users(self) -> Iterator[User]:
        """Yield the users, USERS_COUNT for each of CLUSTERS_COUNTS, in that order."""
        for count in CLUSTERS_COUNTS:
            rng = np.random.default_rng((SEED, count))
            for number in range(USERS_COUNT):
                user_id = user_id_of(count, number)
                snapshot = made_up_snapshot(count, self.items_count, rng)
                yield User(user_id, encode_snapshot(snapshot), encode_user_features(_user_features(user_id)))

    def workload(self, *, n: int, c: int, asks_count: int) -> Workload:
        """Return requests of N candidates by the users with C clusters, no two alike, users and domains in turn.

        The domain stands in the context too, where the model does not read it: some servers see no headers.
        """
        rng = np.random.default_rng((SEED, n, c))
        asks = []
        for number in range(asks_count):
            chosen = rng.choice(self.items_count, n, replace=False)
            domain = DOMAINS[number % len(DOMAINS)]
            context: dict[str, RawValue] = {"store_id": str(rng.integers(_STORES_COUNT)), "domain": domain}
            candidates: list[dict[str, RawValue]] = [{"item_id": self.item_ids[i]} for i in chosen]
            user_id = user_id_of(c, number % USERS_COUNT)
            asks.append(Ask(domain, body_of(user_id, ASKED_AT_MS, context, candidates, bare=True)))
        return Workload(f"{n} candidates, {c} clusters", "made up", float(c), tuple(asks))


def features() -> tuple[FeatureSpec, ...]:
    """Return the features: 8 of the user, 2 of the context, 10 of the item."""

    def categorical(name: str, side: Side, values: Sequence[str]) -> FeatureSpec:
        return FeatureSpec(name=name, side=side, encoder=CategoricalEncoder(values=tuple(values)))

    users = [user_id_of(count, number) for count in CLUSTERS_COUNTS for number in range(USERS_COUNT)]
    return (
        categorical("user_id", Side.USER, users),
        *(categorical(name, Side.USER, _values(count)) for name, count in _USER_VALUES.items()),
        categorical("store_id", Side.CONTEXT, _values(_STORES_COUNT)),
        FeatureSpec(name=DAY_OF_WEEK, side=Side.CONTEXT, encoder=time_encoder(DAY_OF_WEEK)),
        categorical("item_id", Side.ITEM, ()),  # its table is as long as the catalogue: see `random_model`
        *(categorical(name, Side.ITEM, _values(count)) for name, count in _ITEM_VALUES.items()),
    )


def random_model(item_rows: np.ndarray[Any, np.dtype[np.int64]]) -> CtrModel:
    """Return the model with random weights, strong enough that candidates and domains differ in probability.

    Shapes:
        item_rows: (I, 10) feature ids of every item, row 0 of the unknown one.
    """
    items = _values(len(item_rows) - 1)
    specs = tuple(
        spec.model_copy(update={"encoder": CategoricalEncoder(values=items)})
        if spec.name == "item_id"
        else spec
        for spec in features()
    )
    torch.manual_seed(SEED)
    model = CtrModel(
        CONFIG,
        features=specs,
        item_ids=torch.from_numpy(item_rows),
        domains_count=len(DOMAINS),
        tasks_count=len(TASKS),
        logit_columns=1,
    ).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.3)
        for name, parameter in model.backbone.named_parameters():
            if "domain_" in name:  # the domains' own factors and shifts
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def user_id_of(clusters_count: int, number: int) -> str:
    """Return the id of a user by how many clusters the user has."""
    return f"c{clusters_count}-{number}"


def _user_features(user_id: str) -> dict[str, Any]:
    """Return what the store knows of a user besides the life cycle."""
    count, number = user_id[1:].split("-")
    rng = np.random.default_rng((SEED, int(count), int(number)))
    return {name: str(rng.integers(values)) for name, values in _USER_VALUES.items()}


def made_up_snapshot(clusters_count: int, items_count: int, rng: np.random.Generator) -> Snapshot:
    """Return a life cycle of so many clusters, with a tail of its newest behaviors where there are any."""
    tail = min(TAIL_COUNT, clusters_count)

    def items(count: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
        return rng.integers(1, items_count + 1, count).astype(np.uint32)

    def strengths(count: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
        return rng.integers(0, 2 * STRENGTH_SCALE, count).astype(np.uint16)

    return Snapshot(
        at_ms=SNAPSHOT_AT_MS,
        item=items(clusters_count),
        size=rng.integers(1, 21, clusters_count).astype(np.uint32),
        mean_age_s=rng.integers(3600, 400 * 86_400, clusters_count).astype(np.uint32),
        strength=strengths(clusters_count),
        tail=Behaviors(
            np.sort(SNAPSHOT_AT_MS - rng.integers(1, 30 * 86_400_000, tail)), items(tail), strengths(tail)
        ),
    )


def _item_rows(items_count: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the feature ids of every item, (I + 1, 10); row 0 is the unknown item's, all 0."""
    columns = [np.arange(1, items_count + 1)]
    columns += [rng.integers(1, count + 1, items_count) for count in _ITEM_VALUES.values()]
    rows = np.zeros((items_count + 1, len(columns)), np.int64)
    rows[1:] = np.stack(columns, 1)
    return rows


def _torch_logits(
    model: CtrModel, request: GoldenRequest, catalogue: Catalogue
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the trained model's logits (N, T) for a request, without the contract's encoders."""
    values = {**request.user_features, **request.context, "user_id": request.user_id}
    values[DAY_OF_WEEK] = str((request.at_ms // 86_400_000 + 3) % 7)  # the epoch was a Thursday
    ids = []
    for spec in _of(Side.USER, Side.CONTEXT):
        assert isinstance(spec.encoder, CategoricalEncoder)
        ids.append(spec.encoder.values.index(str(values[spec.name])) + 1)
    assert request.snapshot is not None
    history = build_history(
        decode_snapshot(request.snapshot), Behaviors.empty(), at_ms=request.at_ms, limits=LIMITS
    )
    items = catalogue.ids_of(c.item_id for c in request.candidates)
    asked = Request(items, np.zeros((len(items), 0), np.int64), np.array(ids), history)
    with torch.inference_mode():
        batch = batch_of(asked, domain=DOMAINS.index(request.domain))
        logits: np.ndarray[Any, np.dtype[np.float32]] = model.natural_logits(batch).numpy()
    return logits


def _manifest(catalogue: Catalogue, inputs: tuple[str, ...], match_key_ends: tuple[int, ...]) -> Manifest:
    return Manifest(
        name=MODEL,
        created_at="2023-11-14T22:13:20Z",
        backbone=CONFIG.backbone.name,
        interests=tuple(interest.name for interest in CONFIG.interests),
        dataset_fingerprint="made up",
        catalogue=catalogue.ref(),
        snapshot_line=LINE,
        domains=DOMAINS,
        tasks=TASKS,
        features=_of(Side.USER, Side.CONTEXT),
        item_features=new_item_features(features()),
        match_key_ends=match_key_ends,
        history=LIMITS,
        items_count=len(catalogue) + 1,
        graph_inputs=inputs,
        parity=Parity(rows_count=0, logit_difference_max=0.0, logit_difference_limit=LOGIT_DIFFERENCE_LIMIT),
        metrics=(),
        files={},
    )


async def _write_users(store_url: str, snapshot_id: str, users: Sequence[User]) -> None:
    store = await open_store(store_url)
    try:
        await store.write_snapshot(snapshot_id, (user.record() for user in users))
    finally:
        await store.close()


def _of(*sides: Side) -> tuple[FeatureSpec, ...]:
    return tuple(feature for feature in features() if feature.side in sides)


def _values(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


if __name__ == "__main__":
    main()
