"""Writing the served graph as ONNX. Knows nothing of artefacts."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor

from service.contract import served_inputs as names
from training.export.served_scorer import INPUT_NAMES, ItemTableContent, ServedScorer

OPSET = 20


def write_onnx(
    path: Path, scorer: ServedScorer, tables: ItemTableContent, *, user_features: int, candidate_features: int
) -> tuple[str, ...]:
    """Write the graph with free numbers of candidates, clusters and behaviors; returns the names of what it reads."""
    candidates, clusters, recents, behaviors = (
        5,
        7,
        3,
        11,
    )  # any sizes above 1: the exporter takes 0 and 1 for constants
    example: dict[str, Tensor] = {
        names.DOMAIN: torch.zeros(1, dtype=torch.int64),
        names.USER_IDS: torch.zeros(1, user_features, dtype=torch.int64),
        names.CANDIDATE_IDS: torch.zeros(candidates, candidate_features, dtype=torch.int64),
        names.ITEM_SHARED: torch.zeros(candidates, tables.shared.shape[1]),
        names.ITEM_BY_DOMAIN: torch.zeros(candidates, tables.by_domain.shape[2]),
    }
    for prefix, count in (("cluster", clusters), ("recent", recents), ("behavior", behaviors)):
        example[f"{prefix}_item"] = torch.zeros(count, tables.embedding.shape[1])
        example[f"{prefix}_size"] = torch.ones(count)
        example[f"{prefix}_age"] = torch.zeros(count, dtype=torch.int64)
        example[f"{prefix}_strength"] = torch.zeros(count, dtype=torch.int64)
    free = {
        "candidate": torch.export.Dim("candidates"),
        "cluster": torch.export.Dim("clusters"),
        "recent": torch.export.Dim("recents"),
        "behavior": torch.export.Dim("behaviors"),
    }
    by_candidate = {names.CANDIDATE_IDS, names.ITEM_SHARED, names.ITEM_BY_DOMAIN}
    shapes: dict[str, dict[int, object]] = {}
    for name in INPUT_NAMES:
        prefix = "candidate" if name in by_candidate else name.split("_")[0]
        shapes[name] = {0: free[prefix]} if prefix in free else {}
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            scorer,
            kwargs=example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(INPUT_NAMES),
            output_names=[names.LOGIT, names.PROBABILITY],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    graph = onnx.load(str(path))
    _drop_unread_inputs(graph.graph)
    onnx.save(graph, str(path))
    onnx.checker.check_model(graph, full_check=True)
    return tuple(value.name for value in graph.graph.input)


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
