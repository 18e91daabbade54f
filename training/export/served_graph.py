"""An exported graph in ONNX Runtime, fed as the service feeds it: raw requests through the contract.

Knows nothing of torch and of how a graph was made.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from service.contract import served_inputs as names
from service.contract.artefact import SEARCH_FILE, scorer_file
from service.contract.catalogue import Catalogue
from service.contract.golden import GoldenRequest, golden_feeds
from service.contract.history import F32
from service.contract.manifest import Manifest
from service.contract.search import with_kept
from service.contract.served_inputs import Feeds, RequestEncoder, read_item_tables


class ServedGraph:
    """One session a domain, and one that ranks where modules search; one thread, over the files of a folder that need
    not be an artefact yet."""

    def __init__(self, folder: Path, catalogue: Catalogue, manifest: Manifest) -> None:
        """Load the graph and map the item tables.

        Raises:
            ArtefactError: a table is missing or the tables do not fit each other.
        """
        self._manifest, self._catalogue = manifest, catalogue
        self.encoder = RequestEncoder(manifest, read_item_tables(folder))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._sessions = {
            domain: onnxruntime.InferenceSession(
                folder / scorer_file(domain), options, providers=["CPUExecutionProvider"]
            )
            for domain in manifest.domains
        }
        self._search = None
        if manifest.searches is not None:
            self._search = onnxruntime.InferenceSession(
                folder / SEARCH_FILE, options, providers=["CPUExecutionProvider"]
            )

    def logits(self, request: GoldenRequest) -> F32:
        """Return the logits (N, T) of a request; what it expects is not read."""
        feeds = golden_feeds(
            request, manifest=self._manifest, catalogue=self._catalogue, encoder=self.encoder
        )
        return self._run(names.LOGIT, request.domain, feeds)

    def probabilities(self, domain: str, feeds: Feeds) -> F32:
        """Return the probabilities (N, T) of the tensors of a request in a domain."""
        return self._run(names.PROBABILITY, domain, feeds)

    def _run(self, output: str, domain: str, feeds: Feeds) -> F32:
        if self._search is not None and self._manifest.searches is not None:
            feeds = with_kept(feeds, self._manifest.searches, self._search.run)
        read = {name: feeds[name] for name in self._manifest.graph_inputs}
        out: F32 = self._sessions[domain].run([output], read)[0]
        return out
