"""Writing as ONNX: the served graph, a file for each domain, the graph that ranks for its searches, the item encoder.

Knows nothing of manifests and item tables' files.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from service.contract import served_inputs as names
from service.contract.artefact import ITEM_ENCODER_FILE, SCORER_WEIGHTS_FILE, SEARCH_FILE, scorer_file
from service.contract.manifest import Searches
from service.contract.search import kept_input, ranks_output
from training.export.item_encoder import ItemEncoder
from training.export.served_scorer import DOMAIN, INPUT_NAMES, ItemTableContent, ServedScorer, ServedSearch

OPSET = 20
SHARED_MODE = 0o644
EXTERNAL_BYTES_MIN = 1024
"""Weights of fewer bytes stand in each graph."""
CANDIDATES: Final = 5
LENGTHS: Final = {"clusters": 7, "recents": 3, "behaviors": 11}
"""Sizes of the examples: any above 1, for the exporter takes 0 and 1 for constants."""


def write_onnx(
    folder: Path, scorer: ServedScorer, tables: ItemTableContent, *, domains: Sequence[str]
) -> tuple[str, ...]:
    """Write the graphs of all domains into an artefact's folder, with free numbers of candidates, clusters and
    behaviors; returns the names of what they read."""
    example: dict[str, Any] = {
        DOMAIN: torch.zeros(1, dtype=torch.int64),
        names.USER_IDS: torch.zeros(1, scorer.user.columns_count, dtype=torch.int64),
        names.CANDIDATE_IDS: torch.zeros(CANDIDATES, scorer.candidate.columns_count, dtype=torch.int64),
        names.ITEM_SHARED: torch.zeros(CANDIDATES, tables.shared.shape[1]),
        names.ITEM_BY_DOMAIN: torch.zeros(CANDIDATES, tables.by_domain.shape[2]),
    }
    by_candidate = torch.export.Dim("candidates")
    by_part = {part: torch.export.Dim(part) for part in names.PARTS}
    shapes: dict[str, Any] = {
        name: {} if name in (DOMAIN, names.USER_IDS) else {0: by_candidate} for name in example
    }
    for part, tensors in names.PARTS.items():
        example |= zip(tensors, _history(part, tables), strict=True)
        shapes |= {name: {0: by_part[part]} for name in tensors}
    input_names = list(INPUT_NAMES)
    if scorer.searches:
        kept = {
            s.interest: torch.ones(CANDIDATES, LENGTHS[s.part], dtype=torch.bool) for s in scorer.searches
        }
        example["kept"] = kept
        shapes["kept"] = {s.interest: {0: by_candidate, 1: by_part[s.part]} for s in scorer.searches}
        input_names += [kept_input(name) for name in kept]
    graph = _exported(scorer, example, shapes, input_names, [names.LOGIT, names.PROBABILITY])
    return write_by_domain(folder, graph, domains)


def write_search(folder: Path, scorer: ServedScorer, tables: ItemTableContent) -> Searches | None:
    """Write the graph that ranks for the searches of all domains, and return what it does; None if none searches."""
    searches = scorer.searches
    if not searches:
        return None
    parts = {part: tensors for part, tensors in names.PARTS.items() if part in {s.part for s in searches}}
    example: dict[str, Any] = {
        names.ITEM_SHARED: torch.zeros(CANDIDATES, tables.shared.shape[1]),
        "parts": {part: _history(part, tables) for part in parts},
    }
    shapes: dict[str, Any] = {
        names.ITEM_SHARED: {0: torch.export.Dim("candidates")},
        "parts": {part: [{0: torch.export.Dim(part)}] * len(tensors) for part, tensors in parts.items()},
    }
    input_names = [names.ITEM_SHARED, *(name for tensors in parts.values() for name in tensors)]
    outputs = [ranks_output(search.interest) for search in searches]
    graph = _exported(ServedSearch(scorer), example, shapes, input_names, outputs)
    path = folder / SEARCH_FILE
    onnx.save(graph, str(path))
    path.chmod(SHARED_MODE)
    return Searches(each=searches, graph_inputs=tuple(value.name for value in graph.graph.input))


def write_item_encoder(folder: Path, encoder: ItemEncoder) -> None:
    """Write the graph from item feature ids to table rows into an artefact's folder, for any number of items."""
    example = {names.ITEM_FEATURE_IDS: torch.zeros(5, encoder.item.columns_count, dtype=torch.int64)}
    shapes: dict[str, dict[int, object]] = {names.ITEM_FEATURE_IDS: {0: torch.export.Dim("items")}}
    with torch.inference_mode():
        widths = [row.shape[-1] for row in encoder.rows_of(*example.values())]
    outputs = [n for n, width in zip((names.ITEM_SHARED, names.ITEM_BY_DOMAIN), widths, strict=True) if width]
    graph = _exported(encoder, example, shapes, [names.ITEM_FEATURE_IDS], outputs)
    onnx.save(graph, str(folder / ITEM_ENCODER_FILE))


def _history(part: str, tables: ItemTableContent) -> list[Tensor]:
    """Return an example of the items, sizes, ages and strengths of a part of the history."""
    count = LENGTHS[part]
    width = tables.history[part].shape[1] if part in tables.history else 0
    ages, strengths = (torch.zeros(count, dtype=torch.int64) for _ in range(2))  # one would become one input
    return [torch.zeros(count, width), torch.ones(count), ages, strengths]


def _exported(
    module: nn.Module,
    example: dict[str, Any],
    shapes: dict[str, Any],
    input_names: list[str],
    output_names: list[str],
) -> onnx.ModelProto:
    """Return a module as a graph of the inputs that it reads."""
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs=example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=input_names,
            output_names=output_names,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    _drop_unread_inputs(graph.graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def write_by_domain(folder: Path, graph: onnx.ModelProto, domains: Sequence[str]) -> tuple[str, ...]:
    """Write one graph a domain, the domain a constant in it, and their weights once; returns what they read.

    With the domain known, a session folds what is picked by it, and lays the weights out for its products once, when
    it is made, and not at every request.
    """
    weights = folder / SCORER_WEIGHTS_FILE
    weights.parent.mkdir(parents=True)
    weights.touch()  # there also where all weights are small
    for tensor in graph.graph.initializer:
        if len(tensor.raw_data) >= EXTERNAL_BYTES_MIN:
            set_external_data(tensor, weights.name)
    base = weights.with_suffix(".base")
    onnx.save(graph, str(base))
    graph = onnx.load(str(base), load_external_data=False)
    base.unlink()
    weights.chmod(SHARED_MODE)  # onnx lets nobody else read it
    inputs = [value for value in graph.graph.input if value.name != DOMAIN]
    del graph.graph.input[:]
    graph.graph.input.extend(inputs)
    constant = graph.graph.initializer.add()
    for number, domain in enumerate(domains):
        constant.CopyFrom(numpy_helper.from_array(np.array([number], np.int64), DOMAIN))
        onnx.save(graph, str(folder / scorer_file(domain)))
    return tuple(value.name for value in inputs)


def _drop_unread_inputs(graph: onnx.GraphProto) -> None:
    """Leave the inputs that some node reads: the others need not be laid out for the graph at every request."""
    read = set(_names_read(graph))
    kept = [value for value in graph.input if value.name in read]
    del graph.input[:]
    graph.input.extend(kept)


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that a graph's nodes read, and the nodes of graphs inside it."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _names_read(inner)


class _quiet:
    """Hold some loggers at errors for a while: the exporter reports each pass it makes."""

    def __init__(self, *loggers: str) -> None:
        self._loggers = [logging.getLogger(name) for name in loggers]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
