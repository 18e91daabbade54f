"""What each worker process of the service costs: memory of its own, memory shared, and the time until it is ready.

    python -m benchmarks.processes [--items N] [--workers 1,2,4] [--folder DIR] [--json] [--out FILE] [--page FILE]

The registry is `large_artefact.py`'s, the server `python -m service` with its own store. For each number of workers it
is started twice: with the artefact's files dropped from the page cache, and with them in it. *Ready* is from the start
of the process until the last worker has logged that it is; *processor* is what a worker took for that. Then all workers
answer requests of CANDIDATES_COUNT candidates, and /proc/PID/smaps_rollup says what each holds: *own* is anonymous
memory, which nobody shares; *resident* includes the mapped pages of files; *all* is the sum of their proportional sizes
(PSS), where each page counts once. Linux only. Writes a table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks.figures import table
from benchmarks.large_artefact import item_id_of, write_registry
from benchmarks.made_up_request import DOMAINS
from benchmarks.report import placed
from benchmarks.results import write_results
from benchmarks.servers import ServerError, cpu_s_of, free_port

ITEMS_COUNT: Final = 1_000_000
WORKERS_COUNTS: Final = (1, 2, 4)
CANDIDATES_COUNT: Final = 500
REQUESTS_COUNT: Final = 400
CONNECTIONS_COUNT: Final = 8
START_TIMEOUT_S: Final = 300.0
STOP_TIMEOUT_S: Final = 60.0
MIB: Final = 2**20
BEGIN: Final = "<!-- processes: written by `python -m benchmarks.processes` -->"
END: Final = "<!-- end of processes -->"


@dataclass(frozen=True)
class Memory:
    """What a process holds, in bytes: all, what is its own, and its share of what several map."""

    resident_bytes: int
    own_bytes: int
    proportional_bytes: int


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=ITEMS_COUNT, help="items of the catalogue")
    parser.add_argument("--workers", type=_counts, default=WORKERS_COUNTS, help="numbers of workers")
    parser.add_argument("--folder", type=Path, help="where the registry stays for another run")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/processes.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="twinstar-processes-") as temporary:
        folder = arguments.folder or Path(temporary) / "made"
        if not (folder / "registry").is_dir():
            print(f"writing a registry of {arguments.items:,} items", file=sys.stderr, flush=True)
            write_registry(folder, items_count=arguments.items)
        rows = [
            measured(folder, Path(temporary), items_count=arguments.items, workers=workers, cold=cold)
            for workers in arguments.workers
            for cold in (True, False)
        ]
    for row in rows:
        row["load_average_before"] = round(load_before, 1)
    write_results(arguments.out, rows, packages=("numpy", "onnxruntime", "uvicorn"))
    text = rendered(json.loads(arguments.out.read_text()))
    arguments.page.write_text(placed(arguments.page.read_text(), text, marks=(BEGIN, END)))
    print(json.dumps(rows, indent=2) if arguments.json else text)


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("expected numbers from 1 on, with commas between")
    return counts


def measured(folder: Path, temporary: Path, *, items_count: int, workers: int, cold: bool) -> dict[str, Any]:
    """Start the service with so many workers, ask it, and return what it took."""
    files = [path for path in (folder / "registry").rglob("*") if path.is_file()]
    for path in files:
        (_forget if cold else _read)(path)
    print(f"{workers} workers, {'cold' if cold else 'warm'}", file=sys.stderr, flush=True)
    log = temporary / "log"
    with serving(folder, temporary / "store", log, workers=workers) as (port, pids, ready_s):
        processor_s = median(cpu_s_of(pid) for pid in pids)
        ask(port, items_count=items_count)
        memories = [memory_of(pid) for pid in pids]
    own = [memory.own_bytes for memory in memories]
    return {
        "items": items_count,
        "artefact_bytes": sum(path.stat().st_size for path in files),
        "workers": workers,
        "page_cache": "cold" if cold else "warm",
        "ready_s": round(ready_s, 2),
        "processor_s": round(processor_s, 2),
        "resident_bytes": int(median(memory.resident_bytes for memory in memories)),
        "own_bytes": int(median(own)),
        "own_bytes_max": max(own),
        "all_workers_bytes": sum(memory.proportional_bytes for memory in memories),
    }


@contextmanager
def serving(
    folder: Path, store: Path, log: Path, *, workers: int
) -> Iterator[tuple[int, tuple[int, ...], float]]:
    """Run the service until the context ends; gives its port, its workers' process ids, and seconds until ready.

    Raises:
        ServerError: it ended, or was not ready in START_TIMEOUT_S.
    """
    port = free_port()
    command = [sys.executable, "-m", "service", "--port", str(port), "--workers", str(workers)]
    command += [
        "--registry",
        str(folder / "registry"),
        "--experiments-file",
        str(folder / "experiments.yaml"),
    ]
    command += ["--store-url", f"embedded://{store.absolute()}", "--store-timeout-ms", "10000"]
    with log.open("wb") as output:
        began_s = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        while log.read_text().count('"message":"ready"') < workers:
            if process.poll() is not None or time.monotonic() - began_s > START_TIMEOUT_S:
                raise ServerError(f"the service did not become ready:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)
        ready_s = time.monotonic() - began_s
        yield port, (process.pid,) if workers == 1 else _workers_of(process.pid), ready_s
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)


def _workers_of(pid: int) -> tuple[int, ...]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    spawned = [
        int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return tuple(spawned)


def ask(port: int, *, items_count: int) -> None:
    """Ask for scores of random candidates in each domain over connections that are made anew now and then, so that
    every worker gets some.

    Raises:
        ServerError: an answer is no 200.
    """
    rng = np.random.default_rng(3)
    bodies = [
        json.dumps(
            {
                "user_id": "user-1",
                "candidates": [item_id_of(i) for i in rng.integers(0, items_count, CANDIDATES_COUNT)],
            }
        )
        for _ in range(REQUESTS_COUNT)
    ]

    def one(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", "/score", bodies[number], {"X-Domain": DOMAINS[number % len(DOMAINS)]})
            if (status := connection.getresponse().status) != 200:
                raise ServerError(f"the service answered {status}")
        finally:
            connection.close()

    with ThreadPoolExecutor(CONNECTIONS_COUNT) as pool:
        list(pool.map(one, range(REQUESTS_COUNT)))


def memory_of(pid: int) -> Memory:
    """Return what a process holds now."""
    kib = dict(re.findall(r"^(\w+): +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M))
    return Memory(int(kib["Rss"]) * 1024, int(kib["Anonymous"]) * 1024, int(kib["Pss"]) * 1024)


def _forget(path: Path) -> None:
    """Drop a file's pages from the page cache, once they are written."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path) -> None:
    """Bring a file's pages into the page cache."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(MIB)
        while file.readinto(buffer):
            pass


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, and a table."""
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    header = [
        "workers",
        "page cache",
        "ready, s",
        "processor, s",
        "resident, MiB",
        "own, MiB",
        "own, most, MiB",
        "all, MiB",
    ]

    def line(row: Mapping[str, Any]) -> Sequence[object]:
        sizes = [
            row[key] / MIB for key in ("resident_bytes", "own_bytes", "own_bytes_max", "all_workers_bytes")
        ]
        return [
            str(row["workers"]),
            row["page_cache"],
            *(float(row[key]) for key in ("ready_s", "processor_s")),
            *sizes,
        ]

    return "\n\n".join(
        [
            f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}; {rows[0]['items']:,} items, "
            f"{rows[0]['artefact_bytes'] / 2**30:.1f} GiB of files; load average {rows[0]['load_average_before']} "
            "when it began.",
            table(header, [line(row) for row in rows]),
        ]
    )


if __name__ == "__main__":
    main()
