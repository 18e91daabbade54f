"""What a caller's headers say of bodies: their media type and coding, what is sent and what is wanted.

Header lines are looked at once a request, as the server gives them: bytes, their names in lower case.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from starlette.types import Scope

from service.errors import UnsupportedMediaType
from service.pipeline.form import Form

Headers = Mapping[bytes, bytes]

JSON: Final = "application/json"
FORMS: Final[Mapping[str, Form]] = {
    JSON: Form.JSON,
    "application/msgpack": Form.MSGPACK,
    "application/vnd.msgpack": Form.MSGPACK,
    "application/x-msgpack": Form.MSGPACK,
}
"""Media types of bodies. The first of a form is the one that documents name."""


def headers_of(scope: Scope) -> Headers:
    """Return a request's headers; of one that stands there twice, the first."""
    return dict(reversed(scope["headers"]))


@lru_cache(maxsize=256)
def sent_form(content_type: bytes | None, *, is_json_only: bool = False) -> Form:
    """Return the form of a body by its Content-Type; JSON where there is none.

    Raises:
        UnsupportedMediaType: it is of neither form.
    """
    media_type = (content_type or b"application/json").partition(b";")[0].strip().lower().decode("latin-1")
    form = Form.JSON if media_type.endswith("+json") else FORMS.get(media_type)
    if form is None or (is_json_only and form is not Form.JSON):
        expected = JSON if is_json_only else f"{JSON} or application/msgpack"
        raise UnsupportedMediaType(f"the body's type is not {expected}")
    return form


@lru_cache(maxsize=256)
def wanted_type(accept: bytes | None) -> str:
    """Return the media type to answer in: of those that Accept names, the one it weighs most, or the first of
    equals; JSON where it names none, as `*/*` does not."""
    named = {t: weight for t, weight in _weights(accept).items() if t in FORMS and weight > 0}
    return max(named, key=named.__getitem__, default=JSON)


@lru_cache(maxsize=256)
def takes_gzip(accept_encoding: bytes | None) -> bool:
    """Return whether Accept-Encoding lets an answer be compressed by gzip."""
    weights = _weights(accept_encoding)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _weights(header: bytes | None) -> dict[str, float]:
    """Return what a header lists, with its q-values; one that is no number is 0."""
    weights: dict[str, float] = {}
    for part in (header or b"").decode("latin-1").lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weights[name] = float(quality)
        except ValueError:
            weights[name] = 0.0
    return weights
