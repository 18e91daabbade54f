"""Decode: bytes to a score request, checked in the same pass. Knows nothing of models and domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.contract.features import RawValue
from service.errors import InvalidRequest, MalformedBody, Violation
from service.pipeline.form import Form

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


class CandidateBody(_Body, frozen=True, gc=False):
    """A candidate of which something is told in this request. Unknown to the garbage collector, which
    hundreds of them would start in each request: they are part of no cycle."""

    item_id: Id
    context: dict[str, Value] = {}
    features: dict[str, Value] | UnsetType = UNSET


class ScoreBody(_Body, frozen=True):
    """The body of POST /score as it is sent."""

    user_id: Id
    candidates: Annotated[list[Id | CandidateBody], Meta(min_length=1)]
    context: dict[str, Value] = {}
    tasks: Annotated[list[str], Meta(min_length=1)] | None = None
    at_ms: AtMs | None = None


class BatchBody(_Body, frozen=True):
    """The body of POST /score/batch as it is sent; its requests are decoded one by one."""

    requests: Annotated[list[msgspec.Raw], Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A request to score. Candidates are parallel lists, (N,); `tasks` and `at_ms` None where not told.

    `item_features` are those of the candidates that have any, by their places.
    """

    user_id: str
    context: Mapping[str, RawValue]
    item_ids: list[str]
    candidate_contexts: list[Mapping[str, RawValue]]
    item_features: Mapping[int, Mapping[str, RawValue]]
    tasks: list[str] | None
    at_ms: int | None


Decoder = msgspec.json.Decoder[T] | msgspec.msgpack.Decoder[T]

_score_decoders: Final[Mapping[Form, Decoder[ScoreBody]]] = {
    Form.JSON: msgspec.json.Decoder(ScoreBody),
    Form.MSGPACK: msgspec.msgpack.Decoder(ScoreBody),
}
_batch_decoders: Final[Mapping[Form, Decoder[BatchBody]]] = {
    Form.JSON: msgspec.json.Decoder(BatchBody),
    Form.MSGPACK: msgspec.msgpack.Decoder(BatchBody),
}
_NO_CONTEXT: Final[Mapping[str, RawValue]] = {}


def decode_score(
    body: bytes | msgspec.Raw, form: Form = Form.JSON, *, candidates_max_count: int, new_items_max_count: int
) -> ScoreRequest:
    """Return the request in a body. `new_items_max_count` bounds the candidates with features.

    Raises:
        MalformedBody: it is not in that form.
        InvalidRequest: it is, and is something else than a request, or has too many candidates.
    """
    decoded = decode_body(_score_decoders[form], body, form)
    candidates = decoded.candidates
    if len(candidates) > candidates_max_count:
        raise InvalidRequest(
            [Violation("body.candidates", f"expected an array of length <= {candidates_max_count}")]
        )
    item_ids: list[str]
    features: dict[int, Mapping[str, RawValue]] = {}
    if set(map(type, candidates)) == {str}:  # nearly all requests: nothing to take apart
        item_ids = candidates  # type: ignore[assignment]
        contexts = [_NO_CONTEXT] * len(item_ids)
    else:
        item_ids, contexts = [], []
        for candidate in candidates:
            if type(candidate) is CandidateBody:
                if candidate.features is not UNSET:
                    features[len(item_ids)] = candidate.features
                item_ids.append(str(candidate.item_id))
                contexts.append(candidate.context)
            else:
                item_ids.append(str(candidate))
                contexts.append(_NO_CONTEXT)
    if len(features) > new_items_max_count:
        reason = f"expected <= {new_items_max_count} candidates with features"
        raise InvalidRequest([Violation("body.candidates", reason)])
    return ScoreRequest(
        str(decoded.user_id), decoded.context, item_ids, contexts, features, decoded.tasks, decoded.at_ms
    )


def decode_batch(body: bytes, form: Form, *, requests_max_count: int) -> list[msgspec.Raw]:
    """Return the requests of a batch as they were sent, for `decode_score`.

    Raises:
        MalformedBody: the body is not in that form.
        InvalidRequest: it is, and is something else than a batch, or has too many requests.
    """
    requests = decode_body(_batch_decoders[form], body, form).requests
    if len(requests) > requests_max_count:
        raise InvalidRequest(
            [Violation("body.requests", f"expected an array of length <= {requests_max_count}")]
        )
    return requests


def decode_body(decoder: Decoder[T], body: bytes | msgspec.Raw, form: Form = Form.JSON) -> T:
    """Return what a decoder makes of a body, with errors that repeat nothing of it.

    Raises:
        MalformedBody: it is not in that form.
        InvalidRequest: it is, and has another structure.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest([_violation(str(error))]) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedBody(f"the body is no {form.value}: {error}") from error
    except UnicodeDecodeError as error:
        raise MalformedBody(f"the body is no {form.value}: it is not UTF-8") from error


def _violation(message: str) -> Violation:
    reason, _, place = message.partition(" - at `")  # `$.candidates[0]`, or `key` in `$.context`
    where = "body" + place.partition("$")[2].rstrip("`")
    if "unknown field" in reason:  # the message names the field, in the caller's words
        reason = "object has a field that is not known here"
    elif place.startswith("key`"):
        reason += " as a key"
    reason = reason.replace("`", "").replace("got None", "got null")
    return Violation(where, reason[:1].lower() + reason[1:])
