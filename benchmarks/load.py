"""An HTTP load generator in a process of its own, with raw sockets and one selector: little of what is measured is it.

    python -m benchmarks.load --port 8000 --requests FILE --connections 8 --seconds 3 [--rate 200]

Without a rate the loop is closed: each connection asks again once it was answered. With one the loop is open: requests
are due at a constant rate, whatever the server does, on as many connections as it takes up to `--connections`, and a
latency counts from when its request was due, so that a server which stalls is charged for all that it kept waiting.

FILE is as `write_requests` writes it; requests are asked in turn. On standard output stands one JSON object: `wall_s`,
and `latencies_ms` of every answer. Anything but a 200, or an answer without the text of `--expect`, ends the run. It
reads answers with a Content-Length, and chunked ones.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

HEAD_END: Final = b"\r\n\r\n"
CHUNKED_END: Final = b"0\r\n\r\n"
ANSWER_TIMEOUT_S: Final = 30.0
_LENGTH: Final = struct.Struct("<Q")


class LoadError(Exception):
    """The server did not answer a request as it must."""


@dataclass(frozen=True)
class Load:
    """What a run saw: one latency an answer, in the order of the answers."""

    wall_s: float
    latencies_ms: list[float]


def http_request(
    method: str,
    path: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    media_type: str = "application/json",
) -> bytes:
    """Return a whole HTTP/1.1 request; its connection is kept."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines += [f"Content-Type: {media_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + HEAD_END + body


def write_requests(path: Path, requests: Iterable[bytes]) -> None:
    """Write requests to a file, each after its length in 8 bytes."""
    with path.open("wb") as file:
        for request in requests:
            file.write(_LENGTH.pack(len(request)) + request)


def read_requests(path: Path) -> list[bytes]:
    """Return the requests of a file."""
    content = memoryview(path.read_bytes())
    requests: list[bytes] = []
    start = 0
    while start < len(content):
        (length,) = _LENGTH.unpack_from(content, start)
        start += _LENGTH.size + length
        requests.append(bytes(content[start - length : start]))
    return requests


def answer_length(received: bytes | bytearray) -> int | None:
    """Return how many bytes an answer has, None while that is not known: the head is not whole, or a chunk is missing.

    Raises:
        LoadError: it is no 200, or neither states a length nor comes in chunks.
    """
    end = received.find(HEAD_END)
    if end < 0:
        return None
    status, *lines = received[:end].split(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        raise LoadError(
            f"answered {status.decode(errors='replace')!r}: {bytes(received[end + 4 : end + 400])!r}"
        )
    for line in lines:
        name, _, value = line.partition(b":")
        match name.strip().lower(), value.strip().lower():
            case b"content-length", length:
                return end + len(HEAD_END) + int(length)
            case b"transfer-encoding", b"chunked":
                return len(received) if received.endswith(CHUNKED_END) else None
    raise LoadError("answered without a Content-Length")


class Arrivals:
    """When requests are asked in an open loop: request i is due at i / rate, whoever is still waiting for an answer."""

    def __init__(self, rate_rps: float, seconds: float) -> None:
        self.rate_rps = rate_rps
        self.count = max(1, int(rate_rps * seconds))
        self._taken = 0

    def due_s(self, now_s: float) -> Iterator[float]:
        """Yield when each request was due that is due by now and was not taken yet, oldest first; each is taken."""
        while self._taken < self.count and self._taken / self.rate_rps <= now_s:
            yield self._taken / self.rate_rps
            self._taken += 1

    def next_s(self) -> float | None:
        """Return when the next request is due, None after the last."""
        return None if self._taken == self.count else self._taken / self.rate_rps


class _Connection:
    """One connection and the answer it waits for."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._length: int | None = None
        self._asked_s = 0.0

    def ask(self, request: bytes, asked_s: float) -> None:
        """Send a request whose latency counts from a moment."""
        self._received.clear()
        self._length = None
        self._asked_s = asked_s
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


def run_closed(
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
    with _Connections(port, min(connections, requests_max)) as opened:
        started_s = time.perf_counter()
        asked = 0
        for connection in opened.idle:
            connection.ask(next(source), time.perf_counter())
            asked += 1
        while len(latencies_ms) < asked:
            answered = list(opened.answers(ANSWER_TIMEOUT_S, expect))
            for connection, latency_s in answered:
                latencies_ms.append(latency_s * 1000)
                if asked < requests_max and time.perf_counter() - started_s < seconds:
                    connection.ask(next(source), time.perf_counter())
                    asked += 1
        return Load(time.perf_counter() - started_s, latencies_ms)


def run_open(
    port: int,
    requests: Sequence[bytes],
    *,
    rate_rps: float,
    connections: int,
    seconds: float,
    expect: bytes = b"",
) -> Load:
    """Ask at a constant rate for some seconds, then wait for the answers that are still out.

    Where all connections wait for an answer, requests that are due wait too, and their latency with them.

    Raises:
        LoadError: as in `run_closed`.
    """
    source: Iterator[bytes] = cycle(requests)
    arrivals = Arrivals(rate_rps, seconds)
    waiting: deque[float] = deque()
    latencies_ms: list[float] = []
    with _Connections(port, connections) as opened:
        idle = deque(opened.idle)
        started_s = time.perf_counter()
        while len(latencies_ms) < arrivals.count:
            waiting.extend(arrivals.due_s(time.perf_counter() - started_s))
            while waiting and idle:
                idle.popleft().ask(next(source), started_s + waiting.popleft())
            next_s = arrivals.next_s()
            until_s = ANSWER_TIMEOUT_S
            if next_s is not None:
                until_s = max(0.0, started_s + next_s - time.perf_counter())
            for connection, latency_s in opened.answers(until_s, expect, may_be_none=next_s is not None):
                latencies_ms.append(latency_s * 1000)
                idle.append(connection)
        return Load(time.perf_counter() - started_s, latencies_ms)


class _Connections:
    """Some connections to one port, open for as long as the context lasts."""

    def __init__(self, port: int, count: int) -> None:
        self._port, self._count = port, count
        self.idle: list[_Connection] = []

    def __enter__(self) -> _Connections:
        # select(2) waits for as long as it is told; epoll rounds up to whole milliseconds.
        self._selector = selectors.SelectSelector()
        try:
            for _ in range(self._count):
                connection = _Connection(self._port)
                self.idle.append(connection)
                self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for connection in self.idle:
            connection.socket.close()

    def answers(
        self, timeout_s: float, expect: bytes, *, may_be_none: bool = False
    ) -> Iterator[tuple[_Connection, float]]:
        """Wait for something to be read; yield each connection whose answer is whole now, and its latency."""
        ready = self._selector.select(timeout_s)
        if not ready and not may_be_none:
            raise LoadError(f"no answer in {ANSWER_TIMEOUT_S:.0f} s")
        for key, _ in ready:
            connection: _Connection = key.data
            latency_s = connection.read(expect)
            if latency_s is not None:
                yield connection, latency_s


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
    parser.add_argument("--rate", type=float, help="requests per second; none is a closed loop")
    parser.add_argument("--expect", default="", help="what every answer must hold")
    arguments = parser.parse_args()
    requests = read_requests(arguments.requests)
    port, expect = arguments.port, arguments.expect.encode()
    how = {"connections": arguments.connections, "seconds": arguments.seconds, "expect": expect}
    try:
        if arguments.rate is None:
            load = run_closed(port, requests, requests_max=arguments.requests_max, **how)
        else:
            load = run_open(port, requests, rate_rps=arguments.rate, **how)
    except (LoadError, OSError) as error:
        sys.exit(f"load: {error}")
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    main()
