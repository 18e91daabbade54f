"""Servers under measurement: started on a core of their own, asked, and stopped. Linux counts their CPU time."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

READY_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 20.0
REQUEST_TIMEOUT_S: Final = 60.0


class ServerError(Exception):
    """A server did not start, ended, or answered otherwise than it must."""


class Server:
    """A running server."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.name, self.port = name, port
        self._process, self._log = process, log

    def cpu_s(self) -> float | None:
        """Return the CPU time of the process so far, user and system; None where /proc does not tell."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return None
        return cpu_s_of(stat, ticks_per_s=os.sysconf("SC_CLK_TCK"))

    def get(self, path: str) -> int:
        """Return the status of a GET."""
        return self._ask("GET", path, b"", {})[0]

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Return the body of the answer to a POST.

        Raises:
            ServerError: it is no 200.
        """
        status, answer = self._ask("POST", path, body, {"Content-Type": "application/json", **headers})
        if status != 200:
            raise ServerError(f"{self.name}: POST {path} answered {status}: {answer[:400]!r}")
        return answer

    def wait_until_ready(self) -> None:
        """Return once /readyz answers 200.

        Raises:
            ServerError: it ended, or was not ready in READY_TIMEOUT_S.
        """
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while True:
            ended = self._process.poll() is not None
            try:
                if not ended and self.get("/readyz") == 200:
                    return
            except OSError:
                pass
            if ended or time.monotonic() > deadline_s:
                raise ServerError(f"{self.name} did not become ready:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request(method, path, body or None, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def running(
    name: str, command: Sequence[str], environment: Mapping[str, str], *, cores: set[int] | None, log: Path
) -> Iterator[Server]:
    """Run `python <command> --port <a free one>` on some cores until the context ends.

    Raises:
        ServerError: it did not become ready.
    """
    port = free_port()
    with log.open("wb") as output, on_cores(cores):
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(name, process, port, log)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """Run on some cores, and start processes there; nothing where the OS has no such thing."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def split_cores() -> tuple[set[int] | None, set[int] | None]:
    """Return the cores for the server under measurement (one) and for all else; None where there is no choice."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return ({cores[-1]}, set(cores[:-1])) if len(cores) > 1 else (None, None)


def cpu_s_of(stat: str, *, ticks_per_s: int) -> float:
    """Return user and system time from the text of /proc/<pid>/stat; the name in it may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_s


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
