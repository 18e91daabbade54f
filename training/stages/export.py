"""export: a trained model as the served graph, its item tables and the item encoder. Not yet an artefact: `verify`
seals it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import orjson

from service.contract import artefact
from service.contract.catalogue import catalogue_bytes
from service.contract.match import match_key_ends
from service.contract.served_inputs import rows_by_catalogue_id
from training.export.int8_file import write_int8
from training.export.item_encoder import ItemEncoder
from training.export.onnx_file import write_item_encoder, write_onnx, write_search
from training.export.served_scorer import ServedScorer
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import Workbench

GRAPH_FILE = "graph.json"


def run(bench: Workbench, out: Path, progress: Progress, *, model: str) -> dict[str, object]:
    """Write the graphs, and the item tables keyed by catalogue ids."""
    trained = load_model(bench, model, progress)
    config = bench.config.models[model]
    features = bench.features_of(config)
    scorer = ServedScorer(trained, bench.tasks_of(config), len(bench.domains_of(config)))
    scorer.eval()
    tables = scorer.item_tables(trained, features)
    (out / "items").mkdir()
    (out / artefact.ITEM_IDS_FILE).write_bytes(catalogue_bytes(bench.catalogue))
    np.save(out / artefact.ITEM_ROWS_FILE, rows_by_catalogue_id(bench.catalogue_ids))
    for name, table in tables.files().items():
        np.save(out / name, table)
    inputs = write_onnx(
        out,
        scorer,
        tables,
        domains=bench.domains_of(config),
    )
    if "int8" in bench.config.export.variants and not write_int8(out, bench.domains_of(config)):
        progress.say("int8: left out, the graph has no product that is large enough to gain by it")
    searches = write_search(out, scorer, tables)
    write_item_encoder(out, ItemEncoder(trained, scorer).eval())
    graph = {
        "inputs": inputs,
        "searches": None if searches is None else searches.model_dump(),
        "match_key_ends": match_key_ends(tables.match_keys),
        "catalogue": bench.catalogue.ref().model_dump(),
    }
    (out / GRAPH_FILE).write_bytes(orjson.dumps(graph))
    report = out / artefact.REPORT_FOLDER
    report.mkdir()
    for path in bench.done("evaluate", model).iterdir():
        if path.name != "stage.json":
            shutil.copy(path, report / path.name)
    graph_bytes = sum(path.stat().st_size for path in (out / artefact.SCORER_WEIGHTS_FILE).parent.iterdir())
    return {
        "items": len(tables.shared),
        "graph_mib": round(graph_bytes / 2**20, 2),
        "item_tables_mib": round(sum(table.nbytes for table in tables.files().values()) / 2**20, 1),
    }
