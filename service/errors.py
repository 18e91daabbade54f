"""Errors of the service. `api/problem.py` maps them to HTTP; nothing else knows status codes.

    ServiceError
    ├── StartupError              a setting, or a file a setting names, that the service cannot run with
    ├── NotReady                  there is no artefact to score with, and why
    ├── ScoringError              the model gave no probabilities
    ├── InputFileError            a file of candidates that cannot be scored
    └── RequestError              what the caller sent
        ├── MalformedBody         not what its headers say: no JSON, no MessagePack, no gzip
        ├── InvalidRequest        JSON that is not a request, or that the model routed to cannot answer
        ├── BodyTooLarge          more bytes than the service takes
        └── UnsupportedMediaType  of another type by its headers, or compressed otherwise than by gzip

    StoreError                    the store: service/stores/base.py
    ContractError                 files and bytes from training: service/contract/errors.py

No message repeats what the caller sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

VIOLATIONS_MAX: Final = 20


class ServiceError(Exception):
    """Root of what the service raises."""


class StartupError(ServiceError):
    """A setting, or a file that a setting names, that the service cannot run with."""


class NotReady(ServiceError):
    """There is no artefact to score with. `reasons` say why, for people."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


class ScoringError(ServiceError):
    """The model gave no probabilities."""


class InputFileError(ServiceError):
    """A file of candidates that cannot be read, scored or written: file, row and column, and what to do."""


class RequestError(ServiceError):
    """What the caller sent cannot be answered."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A thing wrong with a request: where (`body.candidates[3]`, `header.X-Domain`), and what is expected."""

    where: str
    reason: str


class MalformedBody(RequestError):
    """The body is not what its headers say: no JSON, no MessagePack, no gzip."""


class InvalidRequest(RequestError):
    """The request is JSON and not a request, or not one that the model routed to can answer."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.where}: {v.reason}" for v in violations[:VIOLATIONS_MAX]))
        self.violations = tuple(violations[:VIOLATIONS_MAX])


class BodyTooLarge(RequestError):
    """The body has more bytes than the service takes."""


class UnsupportedMediaType(RequestError):
    """The body is of another type by its headers, or it is compressed otherwise than by gzip."""
