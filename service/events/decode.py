"""Bytes to events, checked in the same pass. Knows nothing of catalogues and stores."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from service.contract.history import STRENGTH_MAX
from service.errors import InvalidRequest, Violation
from service.pipeline.decode import AtMs, Id, decode_body

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class _Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    pass


class BehaviorEvent(_Body, frozen=True, tag="behavior"):
    """A user did something with an item. `strength` is how much: 1 is a whole one. Sent again under the same
    `event_id` it changes nothing."""

    event_id: Id
    user_id: Id
    item_id: Id
    at_ms: AtMs | None = None
    strength: Annotated[float, Meta(ge=0, le=STRENGTH_MAX)] = 1.0


class ImpressionEvent(_Body, frozen=True, tag="impression"):
    """A scored candidate was shown. Reserved: checked and counted, not used yet."""

    request_id: Annotated[str, Meta(min_length=1, max_length=64)]
    item_id: Id
    position: Annotated[int, Meta(ge=0, le=1_000_000)]
    event_id: Id | None = None
    at_ms: AtMs | None = None


class LabelEvent(_Body, frozen=True, tag="label"):
    """What was observed of a scored candidate. Reserved: checked and counted, not used yet."""

    request_id: Annotated[str, Meta(min_length=1, max_length=64)]
    item_id: Id
    task: Name
    value: Annotated[float, Meta(ge=0, le=1)]
    event_id: Id | None = None
    at_ms: AtMs | None = None


Event = BehaviorEvent | ImpressionEvent | LabelEvent


class EventsBody(_Body, frozen=True):
    """The body of POST /events."""

    events: Annotated[list[Event], Meta(min_length=1)]


_decoder: Final = msgspec.json.Decoder(EventsBody)


def decode_events(body: bytes, *, events_max_count: int) -> list[Event]:
    """Return the events in a body.

    Raises:
        MalformedBody: it is no JSON.
        InvalidRequest: it is JSON of another form, or has too many events.
    """
    events = decode_body(_decoder, body).events
    if len(events) > events_max_count:
        raise InvalidRequest([Violation("body.events", f"expected an array of length <= {events_max_count}")])
    return events
