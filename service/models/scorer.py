"""Served graphs in ONNX Runtime. Knows nothing of what the tensors mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.contract.artefact import SEARCH_FILE, scorer_file
from service.contract.errors import ArtefactError
from service.contract.history import F32
from service.contract.manifest import Manifest, Precision
from service.contract.search import ranks_output, with_kept
from service.contract.served_inputs import ITEM_SHARED, PROBABILITY, Feeds
from service.errors import ScoringError


def open_session(path: Path, *, threads_count: int = 1) -> Any:
    """Return a session of a graph.

    Raises:
        ArtefactError: ONNX Runtime does not load it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads_count, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common type but this
        raise ArtefactError(f"{path}: ONNX Runtime {ort.__version__} does not load it") from error


class Scorer:
    """One session a domain. Made after the fork: a session's threads do not survive one.

    It runs on the caller's thread, also inside the event loop. A request takes about a millisecond of it; handing it to
    another thread costs a tenth of that and gains nothing while there is a worker per core. Where `threads_count` is
    more than one, others share the arithmetic of each request. They sleep between requests: spinning takes the cores
    from other workers.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, *, precision: Precision = "fp32", threads_count: int = 1
    ) -> None:
        self.precision, self._threads_count = precision, threads_count
        self._inputs = manifest.graph_inputs
        self._tasks_count = len(manifest.tasks)
        self._sessions = {
            domain: self._load(folder / scorer_file(domain, precision), self._inputs, [PROBABILITY])
            for domain in manifest.domains
        }
        self._searches = manifest.searches
        if self._searches is not None:
            ranks = [ranks_output(search.interest) for search in self._searches.each]
            self._search = self._load(folder / SEARCH_FILE, self._searches.graph_inputs, ranks)

    def _load(self, path: Path, expected: Sequence[str], answers: Sequence[str]) -> Any:
        session = open_session(path, threads_count=self._threads_count)
        inputs = {node.name for node in session.get_inputs()}
        outputs = {node.name for node in session.get_outputs()}
        if inputs != set(expected) or not outputs.issuperset(answers):
            raise ArtefactError(f"{path}: its inputs and outputs are not those that the manifest names")
        return session

    def run(self, domain: str, feeds: Feeds) -> F32:
        """Return the probability of each candidate and task, (N, T). Feeds that the graph lacks are left out.

        Raises:
            ScoringError: the graph failed, or gave something that is no probability.
        """
        try:
            if self._searches is not None:
                feeds = with_kept(feeds, self._searches, self._search.run)
            outputs: list[Any] = self._sessions[domain].run(
                [PROBABILITY], {name: feeds[name] for name in self._inputs}
            )
        except Exception as error:  # the runtime's errors have no common type but this
            raise ScoringError("the model's graph failed on this request") from error
        probability: F32 = outputs[0]
        if probability.shape != (len(feeds[ITEM_SHARED]), self._tasks_count):
            raise ScoringError("the model's graph gave something of another shape than (candidates, tasks)")
        if not np.isfinite(probability).all():
            raise ScoringError("the model gave a probability that is no number")
        return probability
