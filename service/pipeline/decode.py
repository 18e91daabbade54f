"""Decode: bytes to a score request, checked in the same pass. Knows nothing of models and domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from service.contract.features import RawValue
from service.errors import InvalidRequest, MalformedBody, Violation

T = TypeVar("T")

ID_CHARACTERS_MAX: Final = 256
INTEGER_MAX: Final = 2**63 - 1
AT_MS_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

Id = (
    Annotated[str, Meta(min_length=1, max_length=ID_CHARACTERS_MAX)]
    | Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
)
"""An id is text; an integer is taken as its decimal text."""

Value = str | Annotated[int, Meta(ge=-INTEGER_MAX - 1, le=INTEGER_MAX)] | float | bool | None
AtMs = Annotated[int, Meta(ge=0, le=AT_MS_MAX)]


class _Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    pass


class CandidateBody(_Body, frozen=True):
    """A candidate that has features of its own in this request."""

    item_id: Id
    context: dict[str, Value] = {}


class ScoreBody(_Body, frozen=True):
    """The body of POST /score as it is sent."""

    user_id: Id
    candidates: Annotated[list[Id | CandidateBody], Meta(min_length=1)]
    context: dict[str, Value] = {}
    tasks: Annotated[list[str], Meta(min_length=1)] | None = None
    at_ms: AtMs | None = None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A request to score. Candidates are parallel lists, (N,); `tasks` and `at_ms` None where not told."""

    user_id: str
    context: Mapping[str, RawValue]
    item_ids: list[str]
    candidate_contexts: list[Mapping[str, RawValue]]
    tasks: list[str] | None
    at_ms: int | None


_decoder: Final = msgspec.json.Decoder(ScoreBody)
_NO_CONTEXT: Final[Mapping[str, RawValue]] = {}


def decode_score(body: bytes, *, candidates_max_count: int) -> ScoreRequest:
    """Return the request in a body.

    Raises:
        MalformedBody: it is no JSON.
        InvalidRequest: it is JSON of another form, or has too many candidates.
    """
    decoded = decode_json(_decoder, body)
    if len(decoded.candidates) > candidates_max_count:
        raise InvalidRequest(
            [Violation("body.candidates", f"expected an array of length <= {candidates_max_count}")]
        )
    if set(map(type, decoded.candidates)) == {str}:  # nearly all requests: nothing to take apart
        plain: list[str] = decoded.candidates  # type: ignore[assignment]
        no_contexts = [_NO_CONTEXT] * len(plain)
        return ScoreRequest(
            str(decoded.user_id), decoded.context, plain, no_contexts, decoded.tasks, decoded.at_ms
        )
    item_ids: list[str] = []
    contexts: list[Mapping[str, RawValue]] = []
    for candidate in decoded.candidates:
        if isinstance(candidate, CandidateBody):
            item_ids.append(str(candidate.item_id))
            contexts.append(candidate.context)
        else:
            item_ids.append(str(candidate))
            contexts.append(_NO_CONTEXT)
    return ScoreRequest(
        str(decoded.user_id), decoded.context, item_ids, contexts, decoded.tasks, decoded.at_ms
    )


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return what a decoder makes of a body, with errors that repeat nothing of it.

    Raises:
        MalformedBody: it is no JSON.
        InvalidRequest: it is JSON of another form.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest([_violation(str(error))]) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedBody(f"the body is no JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise MalformedBody("the body is no JSON: it is not UTF-8") from error


def _violation(message: str) -> Violation:
    reason, _, path = message.partition(" - at `$")
    where = "body" + path.rstrip("`")
    if "unknown field" in reason:  # the message names the field, in the caller's words
        reason = "object has a field that is not known here"
    return Violation(where, reason[:1].lower() + reason[1:].replace("`", ""))
