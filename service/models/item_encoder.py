"""The item encoder in ONNX Runtime: what the item tables would hold of items that they lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from service.contract.artefact import ITEM_ENCODER_FILE
from service.contract.errors import ArtefactError
from service.contract.history import F32, I64
from service.contract.served_inputs import ITEM_BY_DOMAIN, ITEM_FEATURE_IDS, ITEM_SHARED, ItemTables
from service.errors import ScoringError
from service.models.scorer import open_session


class ItemEncoder:
    """One session, run for requests that have new items with features and for no others."""

    def __init__(self, folder: Path, tables: ItemTables) -> None:
        """Load the encoder of an artefact with these tables.

        Raises:
            ArtefactError: it does not load, or gives rows of other widths than the tables'.
        """
        path = folder / ITEM_ENCODER_FILE
        self._session = open_session(path)
        self._domains_count = len(tables.by_domain)
        self._widths = {ITEM_SHARED: tables.shared.shape[1], ITEM_BY_DOMAIN: tables.by_domain.shape[2]}
        self._outputs = [name for name, width in self._widths.items() if width]
        inputs = [node.name for node in self._session.get_inputs()]
        outputs = {node.name: node.shape[-1] for node in self._session.get_outputs()}
        if inputs != [ITEM_FEATURE_IDS] or outputs != {name: self._widths[name] for name in self._outputs}:
            raise ArtefactError(
                f"{path}: its rows are not those of the item tables; export the artefact again"
            )

    def rows_of(self, item_feature_ids: I64) -> tuple[F32, F32]:
        """Return what tables hold of items, shared (K, Ws) and by domain (M, K, Wd), from their features (K, FI).

        Raises:
            ScoringError: the graph failed.
        """
        try:
            made: list[Any] = self._session.run(self._outputs, {ITEM_FEATURE_IDS: item_feature_ids})
        except Exception as error:  # the runtime's errors have no common type but this
            raise ScoringError("the model's item encoder failed on this request") from error
        found: dict[str, F32] = dict(zip(self._outputs, made, strict=True))
        count = len(item_feature_ids)
        return (
            found.get(ITEM_SHARED, np.zeros((count, 0), np.float32)),
            found.get(ITEM_BY_DOMAIN, np.zeros((self._domains_count, count, 0), np.float32)),
        )
