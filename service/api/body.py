"""The bytes of a request's body, at most so many, and only if they can be JSON."""

from __future__ import annotations

from starlette.requests import Request

from service.errors import BodyTooLarge, UnsupportedMediaType


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Return a body, refusing a large one before it is read, or where it lies about its length, on the way.

    Raises:
        UnsupportedMediaType: it is compressed, or of a type that is not JSON.
        BodyTooLarge: it has more than `max_bytes`.
    """
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("a compressed body is not taken: send it as it is")
    media_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType("the body's type is not application/json")
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    total_bytes = 0
    async for chunk in request.stream():
        total_bytes += len(chunk)
        if total_bytes > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {max_bytes} bytes")
