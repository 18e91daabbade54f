"""What a request gains from threads that share its arithmetic, and what that costs.

    python -m benchmarks.threads [--threads 1,2] [--rounds N] [--json] [--out FILE.json] [--page FILE.md]

The graph is `large_artefact.py`'s, with a history of 1000 clusters and 200 or 1000 candidates, run by the service's own
scorer. First one process asks alone, the numbers of threads in turn; then as many processes as there are cores ask at
once, as busy workers do. Times are of the clock, and processor time is of all threads of the process. Where the machine
does other work, compare p10, when it happened to be free, and processor time. Writes a table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.figures import percentile, table
from benchmarks.large_artefact import MODEL, item_id_of, write_registry
from benchmarks.made_up_request import DOMAINS
from benchmarks.report import placed
from benchmarks.results import write_results
from service.contract.artefact import catalogue_folder, current_version, model_folder, read_artefact
from service.contract.catalogue import read_catalogue
from service.contract.golden import GoldenCandidate, golden_feeds, read_golden
from service.contract.served_inputs import Feeds, RequestEncoder, read_item_tables
from service.models.scorer import Scorer

ITEMS_COUNT: Final = 20_000
CANDIDATES_COUNTS: Final = (200, 1000)
THREADS_COUNTS: Final = (1, 2)
ROUNDS: Final = 300
TIMES: Final = ("p10_ms", "p50_ms", "p99_ms", "processor_ms")
BEGIN: Final = "<!-- threads: written by `python -m benchmarks.threads` -->"
END: Final = "<!-- end of threads -->"


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=_counts, default=THREADS_COUNTS, help="numbers of threads")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/threads.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="twinstar-threads-") as temporary:
        registry, _ = write_registry(Path(temporary) / "made", items_count=ITEMS_COUNT)
        alone = measured(registry, arguments.threads, rounds=arguments.rounds)
        rows = [{"processes": 1, **row} for row in alone]
        rows += [
            {"processes": os.cpu_count(), **row}
            for threads in arguments.threads
            for row in together(registry, threads, rounds=arguments.rounds)
        ]
    for row in rows:
        row["load_average_before"] = round(load_before, 1)
    write_results(arguments.out, rows, packages=("numpy", "onnxruntime"))
    text = rendered(json.loads(arguments.out.read_text()))
    arguments.page.write_text(placed(arguments.page.read_text(), text, marks=(BEGIN, END)))
    print(json.dumps(rows, indent=2) if arguments.json else text, file=sys.stdout)


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("expected numbers from 1 on, with commas between")
    return counts


def measured(registry: Path, threads_counts: Sequence[int], *, rounds: int) -> list[dict[str, Any]]:
    """Ask the scorer with each number of threads in turn; returns a row for each, and each number of candidates."""
    folder = model_folder(registry, MODEL) / current_version(registry, MODEL)
    manifest = read_artefact(folder, quickly=True)
    catalogue = read_catalogue(catalogue_folder(registry, MODEL))
    encoder = RequestEncoder(manifest, read_item_tables(folder))
    golden = read_golden(folder)[0]
    scorers = {
        threads: Scorer(folder, manifest, threads_count=threads) for threads in dict.fromkeys(threads_counts)
    }
    rows = []
    for count in CANDIDATES_COUNTS:
        candidates = tuple(GoldenCandidate(item_id=item_id_of(i), context={}) for i in range(count))
        asked = golden.model_copy(update={"candidates": candidates})
        feeds = golden_feeds(asked, manifest=manifest, catalogue=catalogue, encoder=encoder)
        samples: dict[int, list[tuple[float, float]]] = {threads: [] for threads in scorers}
        for _ in range(rounds):
            for threads, scorer in scorers.items():
                samples[threads].append(_timed(scorer, feeds))
        for threads, timed in samples.items():
            wall_ms, cpu_ms = ([one[part] for one in timed] for part in (0, 1))
            rows.append(
                {
                    "threads": threads,
                    "n": count,
                    "c": 1000,
                    "p10_ms": round(percentile(wall_ms, 0.1), 3),
                    "p50_ms": round(percentile(wall_ms, 0.5), 3),
                    "p99_ms": round(percentile(wall_ms, 0.99), 3),
                    "processor_ms": round(median(cpu_ms), 3),
                }
            )
    return rows


def together(registry: Path, threads: int, *, rounds: int) -> list[dict[str, Any]]:
    """Ask in as many processes at once as there are cores: times as each has them."""
    processes = os.cpu_count() or 1
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        asking = [pool.submit(measured, registry, (threads,), rounds=rounds) for _ in range(processes)]
        found = [one.result() for one in asking]
    rows = []
    for same in zip(*found, strict=True):
        rows.append({**same[0], **{key: round(median(one[key] for one in same), 3) for key in TIMES}})
    return rows


def _timed(scorer: Scorer, feeds: Feeds) -> tuple[float, float]:
    """Return the milliseconds of one run, by the clock and of the processor."""
    began, began_cpu = time.perf_counter_ns(), time.process_time_ns()
    scorer.run(DOMAINS[0], feeds)
    return (time.perf_counter_ns() - began) / 1e6, (time.process_time_ns() - began_cpu) / 1e6


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, and a table."""
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    header = ["processes at once", "candidates", "threads", "p10, ms", "p50, ms", "p99, ms", "processor, ms"]
    keys = ("n", "threads", *TIMES)
    order = sorted(rows, key=lambda row: (row["processes"], row["n"], row["threads"]))
    return "\n\n".join(
        [
            f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}; load average "
            f"{rows[0]['load_average_before']} when it began.",
            table(header, [[str(row["processes"]), *(row[key] for key in keys)] for row in order]),
        ]
    )


if __name__ == "__main__":
    main()
