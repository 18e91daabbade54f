"""Golden requests: whole requests with their histories and the probabilities that were verified for them.

An artefact carries some; the service replays them before it lets the artefact answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from service.contract.artefact import GOLDEN_FILE
from service.contract.catalogue import Catalogue
from service.contract.errors import ArtefactError
from service.contract.features import RawValue
from service.contract.history import build_history, decode_behaviors, decode_snapshot
from service.contract.manifest import Manifest, Precision
from service.contract.popularity import Popularity, decode_popularity
from service.contract.served_inputs import Feeds, RequestEncoder

LOG_ODDS_DIFFERENCE_LIMIT: Final = 1e-3
"""On log-odds, not on probabilities: at natural rates of 1e-4, an absolute limit would see nothing."""


class GoldenCandidate(BaseModel):
    """One candidate of a golden request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str
    context: dict[str, RawValue]
    features: dict[str, RawValue] = {}


class GoldenRequest(BaseModel):
    """One request as the service would have got it, with what the store held. Bytes are the store's own;
    only in the file do they stand as Base64."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    domain: str
    user_id: str
    at_ms: int
    user_features: dict[str, RawValue]
    context: dict[str, RawValue]
    candidates: tuple[GoldenCandidate, ...]
    snapshot: bytes | None
    recent: bytes
    popularity: bytes | None = None
    probability: tuple[tuple[float, ...], ...]  # (N, T)


_GOLDEN = TypeAdapter(tuple[GoldenRequest, ...])


def write_golden(folder: Path, requests: Iterable[GoldenRequest]) -> None:
    """Write an artefact's golden requests."""
    (folder / GOLDEN_FILE).write_bytes(_GOLDEN.dump_json(tuple(requests)))


def read_golden(folder: Path) -> tuple[GoldenRequest, ...]:
    """Read an artefact's golden requests.

    Raises:
        ArtefactError: the file does not parse.
    """
    try:
        return _GOLDEN.validate_json((folder / GOLDEN_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtefactError(f"{folder / GOLDEN_FILE} does not parse; export the artefact again") from error


def golden_feeds(
    request: GoldenRequest, *, manifest: Manifest, catalogue: Catalogue, encoder: RequestEncoder
) -> Feeds:
    """Return the tensors of a golden request for its domain's graph."""
    candidates = catalogue.ids_of(c.item_id for c in request.candidates)
    rows = encoder.tables.rows_of(candidates)
    return encoder.encode(
        request.domain,
        user_id=request.user_id,
        user_features=request.user_features,
        context=request.context,
        candidates=candidates,
        rows=rows,
        candidate_contexts=[c.context for c in request.candidates],
        history=build_history(
            decode_snapshot(request.snapshot) if request.snapshot else None,
            decode_behaviors(request.recent),
            at_ms=request.at_ms,
            limits=manifest.history,
            counts=encoder.reads_counts,
        ),
        popularity=Popularity.empty()
        if request.popularity is None
        else decode_popularity(request.popularity),
        at_ms=request.at_ms,
        new_items=encoder.new_items(rows, {i: c.features for i, c in enumerate(request.candidates)}),
    )


def replay_golden(
    folder: Path,
    *,
    manifest: Manifest,
    catalogue: Catalogue,
    encoder: RequestEncoder,
    run: Callable[[str, Feeds], npt.NDArray[np.float32]],
    precision: Precision = "fp32",
) -> int:
    """Score every golden request and compare; returns how many there were. `run` gives a domain's probabilities (N, T).

    What is expected are the probabilities in fp32. A variant may be off by as much as the manifest states of it, too.

    Raises:
        ArtefactError: a probability is off by more than LOG_ODDS_DIFFERENCE_LIMIT in log-odds, or of another shape.
    """
    requests = read_golden(folder)
    variant = manifest.variant(precision)
    limit = LOG_ODDS_DIFFERENCE_LIMIT + (variant.log_odds_difference_max if variant else 0.0)
    for number, request in enumerate(requests):
        feeds = golden_feeds(request, manifest=manifest, catalogue=catalogue, encoder=encoder)
        got, expected = run(request.domain, feeds), np.array(request.probability, np.float64)
        if got.shape != expected.shape:
            raise ArtefactError(
                f"{folder}: golden request {number} gives {got.shape}, verified were {expected.shape}"
            )
        off = float(log_odds_differences(got, expected).max(initial=0.0))
        if not off <= limit:
            raise ArtefactError(
                f"{folder}: golden request {number} is {off:.2e} in log-odds from what was verified "
                f"(limit {limit:.1e}); export the artefact again on this runtime"
            )
    return len(requests)


def log_odds_differences(got: npt.ArrayLike, expected: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return how far probabilities are apart in log-odds.

    Close to 1, single precision has steps of 6e-8, so that neighbours may be far apart in log-odds: there, what is a
    step or two apart is equal.
    """
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    off = np.abs(_log_odds(got) - _log_odds(expected))
    neighbours = (expected > 0.5) & (np.abs(got - expected) <= np.finfo(np.float32).eps)
    return np.where(neighbours, 0.0, off)


def _log_odds(probability: npt.ArrayLike) -> npt.NDArray[np.float64]:
    p = np.clip(np.asarray(probability, np.float64), 1e-30, 1 - 1e-7)
    return np.log(p) - np.log1p(-p)
