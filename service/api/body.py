"""The bytes of a request's body, at most so many, compressed or not."""

from __future__ import annotations

import zlib

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.api.media import Headers
from service.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType

_GZIP_WBITS = 16 + zlib.MAX_WBITS


async def read_body(headers: Headers, receive: Receive, *, max_bytes: int) -> bytes:
    """Return a body, refusing a large one before it is read, or where it lies about its length, on the way.

    A body of `Content-Encoding: gzip` may have `max_bytes` before and after it is decompressed.

    Raises:
        UnsupportedMediaType: it is compressed otherwise.
        BodyTooLarge: it has more than `max_bytes`.
        MalformedBody: it is said to be gzip and is not, or not whole.
    """
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding not in (b"identity", b"gzip", b"x-gzip"):
        raise UnsupportedMediaType("a body compressed otherwise than by gzip is not taken")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > 18 or int(length) > max_bytes):
        raise _too_large(max_bytes)
    body = await _read(receive, max_bytes=max_bytes)
    return body if coding == b"identity" else _decompressed(body, max_bytes=max_bytes)


async def _read(receive: Receive, *, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    total_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        total_bytes += len(chunk)
        if total_bytes > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _decompressed(body: bytes, *, max_bytes: int) -> bytes:
    """Return what a gzip body holds, giving up after `max_bytes`: a few bytes can hold gigabytes."""
    stream = zlib.decompressobj(_GZIP_WBITS)
    try:
        content = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedBody("the body is no gzip") from error
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    if not stream.eof or stream.unused_data:
        raise MalformedBody("the body is not one whole gzip member")
    return content


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {max_bytes} bytes")
