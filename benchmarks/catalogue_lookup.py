"""What a catalogue of millions of items costs: to make, to open, to hold in each worker, and to look ids up in.

    python -m benchmarks.catalogue_lookup [--items N ...] [--rounds N] [--json] [--out FILE.json] [--page FILE.md]

Beside it, in the same run, a Python dict of the same list. Ids are numbers of eight digits in random order. A look-up
asks for 200 or 500 ids, one in twenty of them not listed, drawn anew each time, so that neither table nor dict has them
in a processor's cache; both then have to give the same array of catalogue ids. First the table is asked alone; then
dict and table take turns, and their processor time is compared round by round: there, each look-up finds the caches as
the other one left them. Files are made and opened in processes of their own, to see what each takes. Writes the tables
into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.figures import table
from benchmarks.report import placed
from benchmarks.results import write_results
from service.contract.catalogue import (
    CATALOGUE_FILE_SUFFIX,
    ID_TABLE_FILE_SUFFIX,
    Catalogue,
    read_catalogue,
    write_catalogue,
)
from service.contract.history import I64, U32, UNKNOWN_ITEM

ITEMS_COUNTS: Final = (1_000_000, 10_000_000)
IDS_COUNTS: Final = (200, 500)
UNKNOWN_SHARE: Final = 0.05
ROUNDS: Final = 500
OPENINGS: Final = 5
FIRST_NUMBER: Final = 10_000_000
BEGIN: Final = "<!-- catalogue: written by `python -m benchmarks.catalogue_lookup` -->"
END: Final = "<!-- end of catalogue -->"
MIB: Final = 2**20


class DisagreementError(Exception):
    """The table and the dict give different ids."""


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=list(ITEMS_COUNTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/catalogue_lookup.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    if arguments.rounds < 1 or min(arguments.items) < 1:
        parser.error("--rounds and --items must be at least 1")
    rows = []
    for items_count in arguments.items:
        print(f"{items_count:,} items", file=sys.stderr, flush=True)
        rows.append(measured(items_count, rounds=arguments.rounds))
    write_results(arguments.out, rows, packages=("numpy",))
    results = json.loads(arguments.out.read_text())
    text = rendered(results)
    arguments.page.write_text(placed(arguments.page.read_text(), text, marks=(BEGIN, END)))
    print(json.dumps(results) if arguments.json else text)


def measured(items_count: int, *, rounds: int) -> dict[str, Any]:
    """Return the figures of a catalogue of some size.

    Raises:
        DisagreementError: the table is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="twinstar-catalogue-") as temporary:
        folder = Path(temporary) / "items"
        row: dict[str, Any] = {"items": items_count, "load_average_before": round(os.getloadavg()[0], 1)}
        row |= _apart(make, folder, items_count)
        catalogue = read_catalogue(
            folder
        )  # held open: what is shared with another process is not that one's own
        for suffix, name in ((CATALOGUE_FILE_SUFFIX, "list"), (ID_TABLE_FILE_SUFFIX, "table")):
            row[f"{name}_bytes"] = (folder / f"{catalogue.version}{suffix}").stat().st_size
        row |= _apart(open_table, folder)
        row |= _apart(open_dict, folder)
        known = dict_of(folder)
        row["lookups"] = [
            compared(catalogue, known, ids_count=ids_count, rounds=rounds) for ids_count in IDS_COUNTS
        ]
    return row


def _apart(call: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """Return what a call gives in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def numbers_of(items_count: int) -> I64:
    """Return the listed ids as numbers, in the catalogue's order."""
    return np.random.default_rng(7).permutation(items_count) + FIRST_NUMBER


def make(folder: Path, items_count: int) -> dict[str, float]:
    """Make and write a catalogue: processor seconds, and the most memory taken beside the list of ids."""
    item_ids = [str(number) for number in numbers_of(items_count).tolist()]
    before = _memory_bytes("Rss")
    began = time.process_time()
    write_catalogue(folder, Catalogue(folder.name, item_ids))
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"make_s": round(seconds, 2), "make_peak_bytes": peak - before}


def open_table(folder: Path) -> dict[str, float]:
    """Open a catalogue and look an id up: median wall seconds, and memory that this process shares with no other."""
    before = _memory_bytes("Private_Clean", "Private_Dirty")
    seconds = []
    for _ in range(OPENINGS):
        began = time.perf_counter()
        catalogue = read_catalogue(folder)
        assert catalogue.id_of("unknown") == UNKNOWN_ITEM
        seconds.append(time.perf_counter() - began)
    private = _memory_bytes("Private_Clean", "Private_Dirty") - before
    return {
        "table_open_s": round(float(np.median(seconds)), 4),
        "table_private_bytes": max(0, private),  # the interpreter may give some back meanwhile
    }


def open_dict(folder: Path) -> dict[str, float]:
    """Read a catalogue's list into a dict: wall seconds, and memory that this process shares with no other."""
    before = _memory_bytes("Private_Clean", "Private_Dirty")
    began = time.perf_counter()
    known = dict_of(folder)
    seconds = time.perf_counter() - began
    private = _memory_bytes("Private_Clean", "Private_Dirty") - before
    assert "unknown" not in known
    return {"dict_open_s": round(seconds, 4), "dict_private_bytes": private}


def dict_of(folder: Path) -> dict[str, int]:
    """Return the catalogue id of each item id in the folder's one list."""
    (path,) = folder.glob(f"*{CATALOGUE_FILE_SUFFIX}")
    return {item_id: i for i, item_id in enumerate(path.read_text().split("\n")[:-1], 1)}


def _memory_bytes(*kinds: str) -> int:
    """Return this process's memory of some kinds, as Linux counts it."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[kind].split()[0]) * 1024 for kind in kinds)


def compared(
    catalogue: Catalogue, known: Mapping[str, int], *, ids_count: int, rounds: int
) -> dict[str, Any]:
    """Return processor time of looking ids up in the table and in the dict, and the quartiles of their ratio.

    Raises:
        DisagreementError: they give different ids.
    """
    rng = np.random.default_rng(ids_count)
    get = known.get

    def look_up_in_dict(item_ids: list[str]) -> U32:
        return np.array([get(item_id, UNKNOWN_ITEM) for item_id in item_ids], np.uint32)

    def timed_us(look_ups: Sequence[Callable[[list[str]], U32]]) -> npt.NDArray[np.float64]:
        samples_us = np.empty((rounds, len(look_ups)))
        for round_number in range(-1, rounds):  # the first warms up and is written over
            numbers = rng.integers(len(catalogue), size=ids_count) + FIRST_NUMBER
            numbers[rng.random(ids_count) < UNKNOWN_SHARE] += len(catalogue)
            found = []
            for column, look_up in enumerate(look_ups):
                item_ids = [str(number) for number in numbers.tolist()]  # new ones: a text remembers its hash
                began_ns = time.process_time_ns()
                ids = look_up(item_ids)
                samples_us[round_number, column] = (time.process_time_ns() - began_ns) / 1000
                found.append(ids)
            if not np.array_equal(found[0], found[-1]):
                raise DisagreementError(f"table and dict differ on {ids_count} ids of {len(catalogue)} items")
        return samples_us

    alone_us = float(np.median(timed_us([catalogue.ids_of])))
    in_turn_us = timed_us([catalogue.ids_of, look_up_in_dict])
    low, ratio, high = np.quantile(in_turn_us[:, 1] / in_turn_us[:, 0], [0.25, 0.5, 0.75])
    table_us, dict_us = np.median(in_turn_us, axis=0)
    return {
        "ids": ids_count,
        "table_alone_us": round(alone_us, 1),
        "table_us": round(float(table_us), 1),
        "dict_us": round(float(dict_us), 1),
        "dict_over_table": round(float(ratio), 2),
        "dict_over_table_quartiles": [round(float(low), 2), round(float(high), 2)],
        "rounds": rounds,
    }


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, what a catalogue takes, and what a look-up takes."""
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())

    def held(row: Mapping[str, Any]) -> list[object]:
        return [
            f"{row['items']:,}",
            row["make_s"],
            row["make_peak_bytes"] / MIB,
            row["list_bytes"] / row["items"],
            row["table_bytes"] / row["items"],
            row["table_open_s"],
            row["dict_open_s"],
            row["table_private_bytes"] / MIB,
            row["dict_private_bytes"] / MIB,
        ]

    def looked_up(row: Mapping[str, Any], lookup: Mapping[str, Any]) -> list[object]:
        low, high = lookup["dict_over_table_quartiles"]
        times = [lookup[key] for key in ("table_alone_us", "table_us", "dict_us", "dict_over_table")]
        return [f"{row['items']:,}", lookup["ids"], *times, f"{low:.2f} to {high:.2f}"]

    return "\n\n".join(
        [
            f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}; "
            f"median of {rows[0]['lookups'][0]['rounds']} rounds, load average "
            f"{rows[0]['load_average_before']} when it began.",
            table(HELD_HEADER, [held(row) for row in rows]),
            table(LOOKED_UP_HEADER, [looked_up(row, lookup) for row in rows for lookup in row["lookups"]]),
        ]
    )


HELD_HEADER: Final[Sequence[str]] = (
    "items",
    "made in, s",
    "memory for that, MiB",
    "list, bytes an item",
    "table, bytes an item",
    "opened in, s",
    "a dict in, s",
    "a worker's own memory, MiB",
    "with a dict, MiB",
)
LOOKED_UP_HEADER: Final[Sequence[str]] = (
    "items",
    "ids",
    "table alone, µs",
    "in turn, µs",
    "dict, µs",
    "dict over table",
    "middle half of rounds",
)


if __name__ == "__main__":
    main()
