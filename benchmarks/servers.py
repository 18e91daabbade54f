"""Servers under measurement: started on a core of their own, asked, and stopped. Linux counts their CPU time.

A server is a process with all that it has started: workers, proxies and supervisors cost what they cost.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        """Return the CPU time of its processes so far, user and system; None where the OS does not tell.

        What a process of it had used that has ended since is not in it.
        """
        processes = self._processes()
        return sum(map(cpu_s_of, processes)) if processes else None

    def is_running(self) -> bool:
        """Return whether its first process has not ended."""
        return self._process.poll() is None

    def get(self, path: str) -> int:
        """Return the status of a GET."""
        return self._ask("GET", path, b"", {})[0]

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Return the body of the answer to a POST.

        Raises:
            ServerError: it is no 200.
        """
        try:
            status, answer = self._ask("POST", path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{self.name}: POST {path}: {error}\n{self.last_words()}") from error
        if status != 200:
            raise ServerError(
                f"{self.name}: POST {path} answered {status}: {answer[:400]!r}\n{self.last_words()}"
            )
        return answer

    def wait_until_ready(self, is_ready: Callable[[Server], bool]) -> None:
        """Return once it says so.

        Raises:
            ServerError: it ended, or was not ready in READY_TIMEOUT_S.
        """
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while True:
            ended = self._process.poll() is not None
            with contextlib.suppress(OSError, http.client.HTTPException, ServerError):
                if not ended and is_ready(self):
                    return
            if ended or time.monotonic() > deadline_s:
                raise ServerError(f"{self.name} did not become ready:\n{self.last_words()}")
            time.sleep(0.1)

    def last_words(self) -> str:
        """Return the end of what it has printed."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End its processes."""
        started = self._processes()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while left_behind := set(started) & set(parents()):
            for pid in left_behind:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline_s:
                return
            time.sleep(0.02)

    def _processes(self) -> list[int]:
        return descendants(self._process.pid, parents())

    def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request(method, path, body or None, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    cores: set[int] | None,
    log: Path,
    python: Path | str = sys.executable,
    is_ready: Callable[[Server], bool] = lambda server: server.get("/readyz") == 200,
) -> Iterator[Server]:
    """Run `python <command> --port <a free one>` on some cores until the context ends.

    Raises:
        ServerError: it did not become ready.
    """
    port = free_port()
    with log.open("wb") as output, on_cores(cores):
        process = subprocess.Popen(
            [str(python), *command, "--port", str(port)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(name, process, port, log)
    try:
        server.wait_until_ready(is_ready)
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


def parents() -> dict[int, int]:
    """Return the parent of every process that runs; nothing where /proc does not tell."""
    found: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = parent_of(path.read_text(errors="replace"))
            if parent is not None:
                found[int(path.parent.name)] = parent
    return found


def parent_of(stat: str) -> int | None:
    """Return the parent from the text of /proc/<pid>/stat, None of a process that has ended and waits to be noticed.

    The name in the text may hold anything.
    """
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def descendants(pid: int, parent: Mapping[int, int]) -> list[int]:
    """Return a process and all that it and its children have started; nothing where it is not among them."""
    found = [pid] if pid in parent else []
    for one in found:
        found += [child for child, of in parent.items() if of == one]
    return found


def cpu_s_of(pid: int) -> float:
    """Return the CPU time of a process so far, all its threads', to the nanosecond; 0 once it has ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock that Linux has for each process
    except OSError:
        return 0.0


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
