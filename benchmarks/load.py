"""A closed-loop HTTP load generator in a process of its own: each connection asks again once it was answered.

    python -m benchmarks.load --port 8000 --requests FILE --connections 8 --seconds 3 --requests-max 2000

FILE has one whole HTTP/1.1 request a line, as a JSON string; connections take them in turn. On standard output
stands one JSON object: `wall_s`, and `latencies_ms` of every answer. Anything but a 200, or an answer without
the text of `--expect`, ends the run. Raw sockets and one selector, so that little of what is measured is this;
it reads answers with a Content-Length only.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

HEAD_END: Final = b"\r\n\r\n"
ANSWER_TIMEOUT_S: Final = 30.0


class LoadError(Exception):
    """The server did not answer a request as it must."""


@dataclass(frozen=True)
class Load:
    """What a run saw: one latency an answer, in the order of the answers."""

    wall_s: float
    latencies_ms: list[float]


def http_request(
    method: str, path: str, *, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> str:
    """Return a whole HTTP/1.1 request; its connection is kept."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines) + "\r\n\r\n" + body.decode()


def answer_length(received: bytes | bytearray) -> int | None:
    """Return how many bytes an answer has by its head, None while the head is not whole.

    Raises:
        LoadError: it is no 200, or states no length.
    """
    end = received.find(HEAD_END)
    if end < 0:
        return None
    status, *lines = received[:end].split(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        raise LoadError(f"answered {status.decode(errors='replace')!r}: {received[end + 4 : end + 400]!r}")
    for line in lines:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return end + len(HEAD_END) + int(value)
    raise LoadError("answered without a Content-Length")


class _Connection:
    """One connection and the answer it waits for."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._length: int | None = None
        self._asked_s = 0.0

    def ask(self, request: bytes) -> None:
        self._received.clear()
        self._length = None
        self._asked_s = time.perf_counter()
        self.socket.sendall(request)

    def read(self, expect: bytes) -> float | None:
        """Take what has come; return the latency in seconds once the answer is whole."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise LoadError("the server closed the connection")
        self._received += part
        if self._length is None:
            self._length = answer_length(self._received)
        if self._length is None or len(self._received) < self._length:
            return None
        latency_s = time.perf_counter() - self._asked_s
        if expect not in self._received:
            raise LoadError(f"answered without {expect!r}: {bytes(self._received[-400:])!r}")
        return latency_s


def run_load(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    requests_max: int,
    expect: bytes = b"",
) -> Load:
    """Ask until the time or the number of requests is up, then wait for the answers that are still out.

    Raises:
        LoadError: an answer is no 200, or lacks `expect`, or the server closed, or gave no answer in ANSWER_TIMEOUT_S.
    """
    source: Iterator[bytes] = cycle(requests)
    latencies_ms: list[float] = []
    with selectors.DefaultSelector() as selector:
        opened = [_Connection(port) for _ in range(min(connections, requests_max))]
        try:
            for connection in opened:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            started_s = time.perf_counter()
            asked = 0
            for connection in opened:
                connection.ask(next(source))
                asked += 1
            while len(latencies_ms) < asked:
                ready = selector.select(ANSWER_TIMEOUT_S)
                if not ready:
                    raise LoadError(f"no answer in {ANSWER_TIMEOUT_S:.0f} s")
                for key, _ in ready:
                    connection = key.data
                    latency_s = connection.read(expect)
                    if latency_s is None:
                        continue
                    latencies_ms.append(latency_s * 1000)
                    if asked < requests_max and time.perf_counter() - started_s < seconds:
                        connection.ask(next(source))
                        asked += 1
            return Load(time.perf_counter() - started_s, latencies_ms)
        finally:
            for connection in opened:
                connection.socket.close()


def main() -> None:
    """Run one load and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--requests-max", type=int, default=10_000)
    parser.add_argument("--expect", default="", help="what every answer must hold")
    arguments = parser.parse_args()
    requests = [json.loads(line).encode() for line in arguments.requests.read_text().splitlines()]
    try:
        load = run_load(
            arguments.port,
            requests,
            connections=arguments.connections,
            seconds=arguments.seconds,
            requests_max=arguments.requests_max,
            expect=arguments.expect.encode(),
        )
    except (LoadError, OSError) as error:
        sys.exit(f"load: {error}")
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    main()
