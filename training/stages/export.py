"""export: a trained model as the served graph and its item tables. Not yet an artefact: `verify` seals it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import orjson

from service.contract import artefact
from service.contract.catalogue import catalogue_bytes
from service.contract.features import Side
from training.data.encoded import COUNTED_SIDES
from training.export.onnx_file import write_onnx
from training.export.served_scorer import ServedScorer
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import Workbench

GRAPH_FILE = "graph.json"


def run(bench: Workbench, out: Path, progress: Progress, *, model: str) -> dict[str, object]:
    """Write scorer.onnx and the item tables, keyed by catalogue ids."""
    trained = load_model(bench, model, progress)
    config = bench.config.models[model]
    features = bench.features_of(config)
    scorer = ServedScorer(trained, bench.tasks_of(config), len(bench.domains_of(config)))
    scorer.eval()
    tables = scorer.item_tables(trained, features)
    (out / "items").mkdir()
    (out / artefact.ITEM_IDS_FILE).write_bytes(catalogue_bytes(bench.catalogue))
    np.save(out / artefact.ITEM_CATALOGUE_IDS_FILE, bench.catalogue_ids)
    np.save(out / artefact.ITEM_SHARED_FILE, tables.shared)
    np.save(out / artefact.ITEM_BY_DOMAIN_FILE, tables.by_domain)
    np.save(out / artefact.ITEM_EMBEDDING_FILE, tables.embedding)
    np.save(out / artefact.ITEM_MATCH_KEYS_FILE, tables.match_keys)
    inputs = write_onnx(
        out / artefact.SCORER_FILE,
        scorer,
        tables,
        user_features=sum(f.side in (Side.USER, Side.CONTEXT) for f in features),
        candidate_features=sum(f.side in (Side.CANDIDATE, *COUNTED_SIDES) for f in features),
    )
    (out / GRAPH_FILE).write_bytes(
        orjson.dumps({"inputs": inputs, "catalogue": bench.catalogue.ref().model_dump()})
    )
    report = out / artefact.REPORT_FOLDER
    report.mkdir()
    for path in bench.done("evaluate", model).iterdir():
        if path.name != "stage.json":
            shutil.copy(path, report / path.name)
    table_bytes = tables.shared.nbytes + tables.by_domain.nbytes + tables.embedding.nbytes
    return {
        "items": len(tables.embedding),
        "graph_mib": round((out / artefact.SCORER_FILE).stat().st_size / 2**20, 2),
        "item_tables_mib": round(table_bytes / 2**20, 1),
    }
