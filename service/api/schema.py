"""What OpenAPI says of requests and answers. The bytes themselves are checked in one pass by msgspec
(`pipeline/decode.py`, `events/decode.py`); a test holds both to the same examples.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.history import STRENGTH_MAX
from service.contract.manifest import Precision
from service.pipeline.decode import AT_MS_MAX, ID_CHARACTERS_MAX, INTEGER_MAX

Id = (
    Annotated[str, Field(min_length=1, max_length=ID_CHARACTERS_MAX)]
    | Annotated[int, Field(ge=0, le=INTEGER_MAX, strict=True)]
)
Value = str | int | float | bool | None
AtMs = Annotated[int, Field(ge=0, le=AT_MS_MAX, description="milliseconds since 1970, UTC")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CandidateBody(_Body):
    """A candidate of which something is told in this request."""

    item_id: Id
    context: dict[str, Value] = Field(default={}, description="features of the candidate in this request")
    features: dict[str, Value] = Field(
        default={},
        description="features of the item itself, read where the model has no row of it: it is scored from them",
    )


class ScoreBody(_Body):
    """A user and candidates to score for that user. Integers as ids are taken as their decimal text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user_id": "1873",
                    "context": {"store_id": "367"},
                    "candidates": [
                        "1082185",
                        {"item_id": "995242", "context": {"mailer_location": "A"}},
                        {"item_id": "new-1", "features": {"brand": "National", "department": "PRODUCE"}},
                    ],
                    "tasks": ["click"],
                }
            ]
        }
    )

    user_id: Id
    candidates: list[Id | CandidateBody] = Field(
        min_length=1, description="ids, or objects that tell more; may repeat"
    )
    context: dict[str, Value] = Field(default={}, description="features of the request, for all candidates")
    tasks: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="tasks to answer for, all of the model's by default"
    )
    at_ms: AtMs | None = Field(default=None, description="when the request is, now by default; for replays")


class BatchBody(_Body):
    """Requests to score, of one domain, each a body of POST /score."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "requests": [
                        {"user_id": "1873", "candidates": ["1082185", "995242"]},
                        {"user_id": "1002", "candidates": ["995242"], "tasks": ["click"]},
                    ]
                }
            ]
        }
    )

    requests: list[ScoreBody] = Field(min_length=1, description="one a user; a user may repeat")


class ModelAnswer(BaseModel):
    """The model version that scored."""

    name: str
    version: str
    backbone: str


class Result(BaseModel):
    """A candidate, and a probability under the name of each task."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
    )

    item_id: str


class Columns(BaseModel):
    """The results in MessagePack: item ids, and under the name of each task a bin of 4 bytes a candidate, single
    precision (IEEE 754), little-endian."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"additionalProperties": {"type": "string", "format": "binary"}},
    )

    item_id: list[str]


class _Answer(BaseModel):
    request_id: str
    domain: str
    model: ModelAnswer
    arms: dict[str, str] = Field(description="the arm of each experiment layer")
    degraded: list[str] = Field(description="what the answer had to do without")
    unknown_items: list[str] = Field(description="items of which nothing is known, each once")


class ScoreAnswer(_Answer):
    """Probabilities in the request's order, and how they came about."""

    results: list[Result]


class ScoreAnswerColumns(_Answer):
    """The same in MessagePack: results by column."""

    results: Columns


class ProblemError(BaseModel):
    """One thing wrong: where, and what is expected."""

    where: str
    reason: str


class Problem(BaseModel):
    """Problem details, RFC 9457."""

    type: str
    title: str
    status: int
    request_id: str
    detail: str | None = None
    errors: list[ProblemError] | None = None


class BatchAnswer(BaseModel):
    """For each request, in their order, its answer, or the problem why there is none."""

    request_id: str
    answers: list[ScoreAnswer | Problem]


class BatchAnswerColumns(BaseModel):
    """The same in MessagePack."""

    request_id: str
    answers: list[ScoreAnswerColumns | Problem]


class BehaviorEvent(_Body):
    """A user did something with an item. `strength` is how much; 1 is a whole one."""

    type: Literal["behavior"]
    event_id: Id
    user_id: Id
    item_id: Id
    at_ms: AtMs | None = None
    strength: float = Field(default=1.0, ge=0, le=STRENGTH_MAX)


class ImpressionEvent(_Body):
    """A scored candidate was shown. Checked and counted, not used yet."""

    type: Literal["impression"]
    request_id: str = Field(min_length=1, max_length=64)
    item_id: Id
    position: int = Field(ge=0, le=1_000_000)
    event_id: Id | None = None
    at_ms: AtMs | None = None


class LabelEvent(_Body):
    """What was observed of a scored candidate. Checked and counted, not used yet."""

    type: Literal["label"]
    request_id: str = Field(min_length=1, max_length=64)
    item_id: Id
    task: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    value: float = Field(ge=0, le=1)
    event_id: Id | None = None
    at_ms: AtMs | None = None


class EventsBody(_Body):
    """Events in the order they happened, or any other."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "type": "behavior",
                            "event_id": "order-77-line-1",
                            "user_id": "1873",
                            "item_id": "1082185",
                            "at_ms": 1_512_000_000_000,
                            "strength": 0.4,
                        },
                        {"type": "impression", "request_id": "9f1c", "item_id": "995242", "position": 0},
                        {
                            "type": "label",
                            "request_id": "9f1c",
                            "item_id": "995242",
                            "task": "click",
                            "value": 1,
                        },
                    ]
                }
            ]
        }
    )

    events: list[Annotated[BehaviorEvent | ImpressionEvent | LabelEvent, Field(discriminator="type")]] = (
        Field(min_length=1)
    )


class BehaviorCounts(BaseModel):
    """Behaviors appended, known already, fallen off the recent list, and of items the catalogue lacks."""

    appended: int
    duplicates: int
    dropped: int
    unknown_items: int


class NotUsedYet(BaseModel):
    """Events that were checked and counted, and are not used yet."""

    impressions: int
    labels: int


class Rejection(BaseModel):
    """An event that was refused: its index in the batch, and why."""

    index: int
    reason: str


class EventsAnswer(BaseModel):
    """What became of the events. `rejections` are at most the first 20."""

    request_id: str
    behaviors: BehaviorCounts
    not_used_yet: NotUsedYet
    rejected: int
    rejections: list[Rejection]


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class ReadyModel(BaseModel):
    """A model version that scores, and the moment up to which its snapshot knows the users.

    `why_fp32` says why it is in fp32 although another precision was asked for.
    """

    name: str
    version: str
    precision: Precision
    why_fp32: str | None
    snapshot_at_ms: int | None


class Readiness(BaseModel):
    """Ready; `degraded` names what answers have to do without."""

    status: Literal["ready"]
    degraded: list[str]
    models: list[ReadyModel]


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The body is not what its headers say: no JSON, or cut off",
        413: "The body is too large",
        415: "The body is of a type or a coding that is not taken",
        422: "The request cannot be answered: see errors",
        503: "Not ready, or the store or the model does not answer: try again after Retry-After",
    }.items()
}
