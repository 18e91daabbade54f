"""Writing the served graph, a file for each domain, and the item encoder as ONNX. Knows nothing of manifests and item
tables' files.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from torch import Tensor, nn

from service.contract import served_inputs as names
from service.contract.artefact import ITEM_ENCODER_FILE, SCORER_WEIGHTS_FILE, scorer_file
from training.export.item_encoder import ItemEncoder
from training.export.served_scorer import DOMAIN, INPUT_NAMES, ItemTableContent, ServedScorer

OPSET = 20
SHARED_MODE = 0o644
EXTERNAL_BYTES_MIN = 1024
"""Weights of fewer bytes stand in each graph."""


def write_onnx(
    folder: Path,
    scorer: ServedScorer,
    tables: ItemTableContent,
    *,
    domains: Sequence[str],
    user_features: int,
    candidate_features: int,
) -> tuple[str, ...]:
    """Write the graphs of all domains into an artefact's folder, with free numbers of candidates, clusters and
    behaviors; returns the names of what they read."""
    candidates = 5  # any sizes above 1: the exporter takes 0 and 1 for constants
    lengths = {"clusters": 7, "recents": 3, "behaviors": 11}
    example: dict[str, Tensor] = {
        DOMAIN: torch.zeros(1, dtype=torch.int64),
        names.USER_IDS: torch.zeros(1, user_features, dtype=torch.int64),
        names.CANDIDATE_IDS: torch.zeros(candidates, candidate_features, dtype=torch.int64),
        names.ITEM_SHARED: torch.zeros(candidates, tables.shared.shape[1]),
        names.ITEM_BY_DOMAIN: torch.zeros(candidates, tables.by_domain.shape[2]),
    }
    by_candidate = torch.export.Dim("candidates")
    shapes: dict[str, dict[int, object]] = {
        name: {} if name in (DOMAIN, names.USER_IDS) else {0: by_candidate} for name in example
    }
    for part, (item, size, age, strength) in names.PARTS.items():
        count, by_behavior = lengths[part], torch.export.Dim(part)
        width = tables.history[part].shape[1] if part in tables.history else 0
        example[item] = torch.zeros(count, width)
        example[size] = torch.ones(count)
        example[age] = torch.zeros(count, dtype=torch.int64)
        example[strength] = torch.zeros(count, dtype=torch.int64)  # one tensor would become one input
        shapes |= {name: {0: by_behavior} for name in (item, size, age, strength)}
    graph = _traced(scorer, example, shapes, inputs=INPUT_NAMES, outputs=(names.LOGIT, names.PROBABILITY))
    _drop_unread_inputs(graph.graph)
    onnx.checker.check_model(graph, full_check=True)
    return write_by_domain(folder, graph, domains)


def write_item_encoder(folder: Path, encoder: ItemEncoder) -> None:
    """Write the graph from item feature ids to table rows into an artefact's folder, for any number of items."""
    example = {names.ITEM_FEATURE_IDS: torch.zeros(5, encoder.item.columns_count, dtype=torch.int64)}
    shapes: dict[str, dict[int, object]] = {names.ITEM_FEATURE_IDS: {0: torch.export.Dim("items")}}
    with torch.inference_mode():
        widths = [row.shape[-1] for row in encoder.rows_of(*example.values())]
    outputs = [n for n, width in zip((names.ITEM_SHARED, names.ITEM_BY_DOMAIN), widths, strict=True) if width]
    graph = _traced(encoder, example, shapes, inputs=(names.ITEM_FEATURE_IDS,), outputs=outputs)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(folder / ITEM_ENCODER_FILE))


def _traced(
    module: nn.Module,
    example: dict[str, Tensor],
    shapes: dict[str, dict[int, object]],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs=example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def write_by_domain(folder: Path, graph: onnx.ModelProto, domains: Sequence[str]) -> tuple[str, ...]:
    """Write one graph a domain, the domain a constant in it, and their weights once; returns what they read.

    With the domain known, a session folds what is picked by it, and lays the weights out for its products once, when
    it is made, and not at every request.
    """
    weights = folder / SCORER_WEIGHTS_FILE
    weights.parent.mkdir(parents=True)
    weights.touch()  # there also where all weights are small
    convert_model_to_external_data(graph, location=weights.name, size_threshold=EXTERNAL_BYTES_MIN)
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
