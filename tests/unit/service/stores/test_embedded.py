"""The embedded store's server: shared, kept over restarts, started again, stopped by its last user."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import redis

from service.contract.history import Behaviors, encode_behaviors
from service.stores import open_store, valkey_server
from service.stores.base import Store, StoreSettings, StoreStartError, StoreUnavailable, StoreUrlError

pytestmark = pytest.mark.anyio

PATIENT = StoreSettings(timeout_ms=20_000)
BEHAVIOR = encode_behaviors(
    Behaviors(np.array([1000]), np.array([7], np.uint32), np.array([512], np.uint16)),
    np.array([1], np.uint64),
)


def plain_client(folder: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(valkey_server.socket_path(folder)), protocol=2, socket_timeout=5)


def server_pid(folder: Path) -> int:
    with plain_client(folder) as client:
        return int(client.info("server")["process_id"])


def is_stopped(folder: Path) -> bool:
    """Return whether no server holds the folder."""
    handle = os.open(folder / "server.lock", os.O_RDWR)
    try:
        return valkey_server._lock_at_once(handle)
    finally:
        os.close(handle)


async def opened(folder: Path) -> Store:
    return await open_store(f"embedded://{folder}", PATIENT)


async def test_a_written_snapshot_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.write_snapshot("s1", [("ann", b"clusters", b"features")])
    os.kill(server_pid(tmp_path), signal.SIGKILL)
    await store.close()
    again = await opened(tmp_path)
    assert (await again.read_user("ann", "s1")).snapshot == b"clusters"
    await again.close()


async def test_appended_behaviors_survive_a_restart(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.append_behaviors("ann", BEHAVIOR, cap=5, keep_from_ms=0)
    await store.close()
    assert is_stopped(tmp_path)
    again = await opened(tmp_path)
    assert (await again.read_user("ann", None)).recent == BEHAVIOR
    await again.close()


async def test_users_share_one_server_and_the_last_stops_it(tmp_path: Path) -> None:
    first, second = await opened(tmp_path), await opened(tmp_path)
    await first.write_snapshot("s1", [("ann", b"x", None)])
    await first.close()
    assert not is_stopped(tmp_path)
    assert (await second.read_user("ann", "s1")).snapshot == b"x"
    await second.close()
    assert is_stopped(tmp_path)


async def test_users_that_start_at_once_start_one_server(tmp_path: Path) -> None:
    stores = await asyncio.gather(*(opened(tmp_path) for _ in range(5)))
    await stores[0].write_snapshot("s1", [("ann", b"x", None)])
    for store in stores:
        assert (await store.read_user("ann", "s1")).snapshot == b"x"
    await asyncio.gather(*(store.close() for store in stores))
    assert is_stopped(tmp_path)


OPEN_AND_HANG = """
import asyncio, sys
from service.stores import open_store
from service.stores.base import StoreSettings

async def main():
    store = await open_store(sys.argv[1], StoreSettings(timeout_ms=20_000))
    await store.write_snapshot("s1", [("ann", b"from another process", None)])
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()

asyncio.run(main())
"""


def other_process(folder: Path) -> subprocess.Popen[str]:
    """Open the store in a process of its own; returns when it is open there."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_HANG, f"embedded://{folder}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


async def test_processes_share_one_server_and_the_starter_may_leave_first(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        store = await opened(tmp_path)
        process.communicate("")
    assert (await store.read_user("ann", "s1")).snapshot == b"from another process"
    await store.close()
    assert is_stopped(tmp_path)


def test_a_user_that_ends_without_closing_stops_the_server_too(tmp_path: Path) -> None:
    code = OPEN_AND_HANG.replace("await store.close()", "raise SystemExit(3)")
    with subprocess.Popen(
        [sys.executable, "-c", code, f"embedded://{tmp_path}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        assert process.wait() == 3
    assert is_stopped(tmp_path)


async def test_a_server_that_a_killed_user_left_is_taken_up_and_stopped(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        pid = server_pid(tmp_path)
        process.kill()
    store = await opened(tmp_path)
    assert server_pid(tmp_path) == pid
    assert (await store.read_user("ann", "s1")).snapshot == b"from another process"
    await store.close()
    assert is_stopped(tmp_path)


async def test_a_stale_socket_and_stale_locks_do_not_stop_a_start(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    os.kill(server_pid(tmp_path), signal.SIGKILL)
    await store.close()
    assert valkey_server.socket_path(tmp_path).exists()
    again = await opened(tmp_path)
    await again.ping()
    await again.close()


async def test_a_server_that_dies_is_started_again_by_its_users(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.write_snapshot("s1", [("ann", b"x", None)])
    os.kill(server_pid(tmp_path), signal.SIGKILL)
    with pytest.raises(StoreUnavailable):
        while True:  # the kernel may take a moment to close its connections
            await store.read_user("ann", "s1")
    revival = store._revival  # type: ignore[attr-defined]
    await revival
    assert (await store.read_user("ann", "s1")).snapshot == b"x"
    await store.close()
    assert is_stopped(tmp_path)


async def test_a_path_too_long_for_a_socket_gets_a_private_short_one(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    first, second = await opened(folder), await opened(folder)
    await first.write_snapshot("s1", [("ann", b"x", None)])
    assert (await second.read_user("ann", "s1")).snapshot == b"x"
    socket_path = valkey_server.socket_path(folder)
    assert len(os.fsencode(socket_path)) <= valkey_server.SOCKET_PATH_BYTES_MAX
    assert socket_path.parent.stat().st_mode & 0o777 == 0o700
    await first.close()
    await second.close()


async def test_a_folder_with_spaces_and_relative_folders_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = await open_store("embedded://some artefacts/store", PATIENT)
    await store.ping()
    assert (tmp_path / "some artefacts" / "store" / "server.lock").exists()
    await store.close()


async def test_a_moved_folder_does_not_lead_to_the_server_of_the_old_one(tmp_path: Path) -> None:
    folder, copy = tmp_path / ("a" * 100), tmp_path / ("b" * 100)
    store = await opened(folder)
    copy.mkdir()
    (copy / "socket-path").write_bytes((folder / "socket-path").read_bytes())
    assert valkey_server.socket_path(copy) != valkey_server.socket_path(folder)
    await store.close()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(StoreStartError, match="appendonlydir"):
        await opened(tmp_path)


async def test_a_folder_that_cannot_be_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreStartError, match="Not a directory"):
        await opened(tmp_path / "file" / "store")


@pytest.mark.parametrize("url", ["embedded://", "embedded:///", "embedded://a?b=c"])
async def test_a_url_without_a_folder_is_refused(url: str) -> None:
    with pytest.raises(StoreUrlError, match="folder"):
        await open_store(url)


async def test_an_unknown_scheme_is_refused_with_those_there_are() -> None:
    with pytest.raises(StoreUrlError, match=r"embedded://, memory://, redis://"):
        await open_store("rocksdb://x")
