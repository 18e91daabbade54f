"""Artefacts and catalogues made for tests of the contract."""

from __future__ import annotations

from pathlib import Path

from service.contract.artefact import seal_artefact
from service.contract.catalogue import Catalogue
from service.contract.features import BucketEncoder, CategoricalEncoder, FeatureSpec, Side, time_encoder
from service.contract.history import HistoryLimits
from service.contract.manifest import Manifest, Parity, TaskSpec

GOLDEN_FOLDER = Path(__file__).parents[3] / "golden"


def golden_bytes(name: str) -> bytes:
    """Return the bytes that a file of tests/golden spells in hexadecimal."""
    return bytes.fromhex((GOLDEN_FOLDER / f"{name}.hex").read_text())


def manifest(name: str = "star") -> Manifest:
    """Return a small manifest without files."""
    return Manifest(
        name=name,
        created_at="2025-01-01T00:00:00Z",
        backbone="star",
        interests=("twin_v2",),
        dataset_fingerprint="0" * 12,
        catalogue=Catalogue("items", ["a", "b"]).ref(),
        snapshot_line="items",
        domains=("mailer", "display"),
        tasks=(TaskSpec(name="click"), TaskSpec(name="multi", given="click")),
        features=(
            FeatureSpec(name="user_id", side=Side.USER, encoder=CategoricalEncoder(values=("u1", "u2"))),
            FeatureSpec(name="spend", side=Side.USER, encoder=BucketEncoder(boundaries=(1.0, 10.0))),
            FeatureSpec(name="hour_of_day", side=Side.CONTEXT, encoder=time_encoder("hour_of_day")),
            FeatureSpec(name="place", side=Side.CANDIDATE, encoder=CategoricalEncoder(values=("A", "B"))),
        ),
        item_features=(
            FeatureSpec(name="item_id", side=Side.ITEM, encoder=CategoricalEncoder(values=())),
            FeatureSpec(name="brand", side=Side.ITEM, encoder=CategoricalEncoder(values=("x", "y"))),
        ),
        match_key_ends=(1, 4, 5),
        history=HistoryLimits(),
        items_count=3,
        graph_inputs=("user_ids",),
        parity=Parity(rows_count=10, logit_difference_max=0.0, logit_difference_limit=1e-4),
        metrics=(),
        files={},
    )


def make_artefact(folder: Path, weights: bytes, name: str = "star") -> Manifest:
    """Write a sealed artefact whose weights are these bytes, and return its manifest."""
    for file, body in (("scorer/weights.bin", weights), ("items/shared.npy", b"rows of " + weights)):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_bytes(body)
    return seal_artefact(folder, manifest(name))
