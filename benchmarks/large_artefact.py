"""A registry of a made-up model of representative widths and a catalogue of any size, for the service to serve.

The graph is that of STAR 512-256-128 beside TWIN-V2 of 4 heads, with features as Complete Journey has
(`made_up_request.py`) and USERS_COUNT known users; random weights. Items' rows repeat those of the first ITEMS_COUNT
items: what a table costs does not depend on what is in it. Its golden requests expect what ONNX Runtime gave when it
was written. Knows nothing of clocks and servers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.format import open_memmap

from benchmarks.made_up_request import DOMAINS, ITEMS_COUNT, TASKS, features, made_up_model
from service.contract import artefact
from service.contract.catalogue import Catalogue, write_catalogue
from service.contract.features import CategoricalEncoder, FeatureSpec, Side
from service.contract.golden import GoldenCandidate, GoldenRequest, golden_feeds, write_golden
from service.contract.history import Behaviors, HistoryLimits, Snapshot, encode_snapshot
from service.contract.manifest import Manifest, Parity
from service.contract.match import match_key_ends, match_keys
from service.contract.served_inputs import RequestEncoder, read_item_tables, rows_by_catalogue_id
from service.contract.statistics import StatisticsEncoder
from service.models.scorer import Scorer
from training.config import ModelConfig
from training.export.item_encoder import ItemEncoder, new_item_features
from training.export.onnx_file import write_item_encoder, write_onnx
from training.export.served_scorer import ServedScorer

MODEL: Final = "made_up"
USERS_COUNT: Final = 100_000
FIRST_ITEM: Final = 10_000_000
CLUSTERS_COUNT: Final = 1000
CANDIDATES_COUNT: Final = 20
AT_MS: Final = 1_700_000_000_000
CONFIG: Final = ModelConfig.model_validate(
    {
        "backbone": {"name": "star", "hidden": (512, 256, 128)},
        "interests": [{"name": "twin_v2", "heads": 4, "head_width": 16, "out_width": 64, "keep": None}],
        "embedding_width": 16,
    }
)


def item_id_of(number: int) -> str:
    """Return the id of the catalogue's `number`-th item, from 0."""
    return str(FIRST_ITEM + number)


def write_registry(folder: Path, *, items_count: int) -> tuple[Path, Path]:
    """Write a registry and an experiments file into a new folder; returns both."""
    registry, plan, work = folder / "registry", folder / "experiments.yaml", folder / "work"
    folder.mkdir(parents=True)
    plan.write_text(json.dumps({"version": 1, "default_model": MODEL}))
    catalogue = Catalogue(MODEL, (item_id_of(i) for i in range(items_count)))
    write_catalogue(artefact.catalogue_folder(registry, MODEL), catalogue)
    manifest = _write_artefact(work, catalogue)
    home = artefact.model_folder(registry, MODEL)
    home.mkdir(parents=True)
    shutil.move(work, home / manifest.version)  # large: not copied, as installing does
    artefact.activate_artefact(registry, MODEL, manifest.version)
    return registry, plan


def _features() -> tuple[FeatureSpec, ...]:
    users = CategoricalEncoder(values=tuple(f"user-{i}" for i in range(USERS_COUNT)))
    return tuple(
        FeatureSpec(name=spec.name, side=spec.side, encoder=users) if spec.name == "user_id" else spec
        for spec in features()
    )


def _write_artefact(folder: Path, catalogue: Catalogue) -> Manifest:
    specs = _features()
    model = made_up_model(CONFIG, specs)
    scorer = ServedScorer(model, TASKS, len(DOMAINS)).eval()
    content = scorer.item_tables(model, specs)
    inputs = write_onnx(folder, scorer, content, domains=DOMAINS)
    write_item_encoder(folder, ItemEncoder(model, scorer).eval())
    rows_count = len(catalogue) + 1
    (folder / "items").mkdir()
    np.save(folder / artefact.ITEM_ROWS_FILE, rows_by_catalogue_id(np.arange(rows_count, dtype=np.uint32)))
    files = content.files()
    keys = match_keys(
        StatisticsEncoder([spec for spec in specs if spec.side is Side.MATCH]).levels,
        model.item_ids.numpy().take(np.arange(rows_count) % ITEMS_COUNT, axis=0),
        [spec.name for spec in specs if spec.side is Side.ITEM],
    )
    files[artefact.ITEM_MATCH_KEYS_FILE] = keys
    for name, values in files.items():
        _write_repeated(folder / name, values, rows_count)
    draft = Manifest(
        name=MODEL,
        created_at="2023-11-14T22:13:20Z",
        backbone="star",
        interests=("twin_v2",),
        dataset_fingerprint="made up",
        catalogue=catalogue.ref(),
        snapshot_line=MODEL,
        domains=DOMAINS,
        tasks=TASKS,
        features=specs,
        item_features=new_item_features(specs),
        match_key_ends=match_key_ends(keys),
        history=HistoryLimits(),
        items_count=rows_count,
        graph_inputs=inputs,
        parity=Parity(rows_count=0, logit_difference_max=0.0, logit_difference_limit=1e-4),
        metrics=(),
        files={},
    )
    _write_golden(folder, draft, catalogue)
    return artefact.seal_artefact(folder, draft)


def _write_repeated(path: Path, values: np.ndarray[Any, Any], rows_count: int) -> None:
    """Write a table whose rows, of the last axis but one, are those of `values` again and again."""
    shape = (*values.shape[:-2], rows_count, values.shape[-1])
    written = open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)
    for first in range(0, rows_count, values.shape[-2]):
        chunk = written[..., first : first + values.shape[-2], :]
        chunk[:] = values[..., : chunk.shape[-2], :]
    written.flush()


def _write_golden(folder: Path, manifest: Manifest, catalogue: Catalogue) -> None:
    rng = np.random.default_rng(2)
    encoder, scorer = RequestEncoder(manifest, read_item_tables(folder)), Scorer(folder, manifest)
    snapshot = Snapshot(
        at_ms=AT_MS,
        item=rng.integers(1, len(catalogue), CLUSTERS_COUNT).astype(np.uint32),
        size=rng.integers(1, 21, CLUSTERS_COUNT).astype(np.uint32),
        mean_age_s=rng.integers(0, 10**7, CLUSTERS_COUNT).astype(np.uint32),
        strength=np.zeros(CLUSTERS_COUNT, np.uint16),
        tail=Behaviors.empty(),
    )
    requests = []
    for domain in DOMAINS:
        asked = GoldenRequest(
            domain=domain,
            user_id="user-1",
            at_ms=AT_MS + 1,
            user_features={},
            context={"store_id": 7},
            candidates=tuple(
                GoldenCandidate(item_id=item_id_of(i), context={})
                for i in rng.integers(0, len(catalogue), CANDIDATES_COUNT)
            ),
            snapshot=encode_snapshot(snapshot),
            recent=b"",
            probability=(),
        )
        feeds = golden_feeds(asked, manifest=manifest, catalogue=catalogue, encoder=encoder)
        probability = tuple(map(tuple, scorer.run(domain, feeds).tolist()))
        requests.append(asked.model_copy(update={"probability": probability}))
    write_golden(folder, requests)
