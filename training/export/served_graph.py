"""An exported graph in ONNX Runtime, fed as the service feeds it: raw requests through the contract.

Knows nothing of torch and of how a graph was made.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from service.contract import served_inputs as names
from service.contract.artefact import ITEM_ENCODER_FILE, SEARCH_FILE, scorer_file
from service.contract.catalogue import Catalogue
from service.contract.golden import GoldenRequest, golden_feeds
from service.contract.history import F32, I64
from service.contract.manifest import Manifest, Precision
from service.contract.search import with_kept
from service.contract.served_inputs import Feeds, RequestEncoder, read_item_tables


class ServedGraph:
    """One session a domain, and one that ranks where modules search; one thread, over the files of a folder that need
    not be an artefact yet."""

    def __init__(
        self, folder: Path, catalogue: Catalogue, manifest: Manifest, precision: Precision = "fp32"
    ) -> None:
        """Load the graph and map the item tables.

        Raises:
            ArtefactError: a table is missing or the tables do not fit each other.
        """
        self.manifest, self.precision, self._catalogue = manifest, precision, catalogue
        self.encoder = RequestEncoder(manifest, read_item_tables(folder), self.encode_items)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1

        def session(name: str) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])

        self._sessions = {domain: session(scorer_file(domain, precision)) for domain in manifest.domains}
        self._item_encoder = session(ITEM_ENCODER_FILE)
        self._search = None if manifest.searches is None else session(SEARCH_FILE)

    def logits(self, request: GoldenRequest) -> F32:
        """Return the logits (N, T) of a request; what it expects is not read."""
        return self.logits_of(request.domain, self.feeds(request))

    def feeds(self, request: GoldenRequest) -> Feeds:
        """Return the tensors of a request."""
        return golden_feeds(request, manifest=self.manifest, catalogue=self._catalogue, encoder=self.encoder)

    def logits_of(self, domain: str, feeds: Feeds) -> F32:
        """Return the logits (N, T) of the tensors of a request in a domain."""
        return self._run(names.LOGIT, domain, feeds)

    def probabilities(self, domain: str, feeds: Feeds) -> F32:
        """Return the probabilities (N, T) of the tensors of a request in a domain."""
        return self._run(names.PROBABILITY, domain, feeds)

    def encode_items(self, item_feature_ids: I64) -> tuple[F32, F32]:
        """Return what tables would hold of items, shared (K, Ws) and by domain (M, K, Wd), from features (K, FI)."""
        outputs = [node.name for node in self._item_encoder.get_outputs()]
        made = self._item_encoder.run(outputs, {names.ITEM_FEATURE_IDS: item_feature_ids})
        found = dict(zip(outputs, made, strict=True))
        domains, items = len(self.manifest.domains), len(item_feature_ids)
        return (
            found.get(names.ITEM_SHARED, np.zeros((items, 0), np.float32)),
            found.get(names.ITEM_BY_DOMAIN, np.zeros((domains, items, 0), np.float32)),
        )

    def _run(self, output: str, domain: str, feeds: Feeds) -> F32:
        if self._search is not None and self.manifest.searches is not None:
            feeds = with_kept(feeds, self.manifest.searches, self._search.run)
        read = {name: feeds[name] for name in self.manifest.graph_inputs}
        out: F32 = self._sessions[domain].run([output], read)[0]
        return out
