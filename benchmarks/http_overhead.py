"""What HTTP costs around the scoring of a request, in processor time of the server, beside servers that do nothing.

    python -m benchmarks.http_overhead [--registry artefacts] [--rounds N] [--json] [--out FILE.json] [--page FILE.md]

Bare uvicorn, Starlette and FastAPI answer an empty request as our GET /livez does; ours also scores candidates
of the catalogue for an unknown user, as ids alone and with the features a candidate may have, in JSON and in
MessagePack. All servers run at once on one core, each with one process, and are asked in turn, round by round,
over one connection. What of our time went into which stage is in its /metrics, measured by the processor's clock
too. Writes its table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.figures import table
from benchmarks.load import LoadError, http_request, run_closed
from benchmarks.report import placed
from benchmarks.results import write_results
from benchmarks.servers import Server, ServerError, on_cores, running, split_cores
from service.contract.artefact import catalogue_folder, current_version, model_folder, read_artefact
from service.contract.catalogue import read_catalogue
from service.contract.errors import ContractError
from service.contract.features import CategoricalEncoder, Side
from service.contract.manifest import Manifest

BARE: Final = ("uvicorn", "starlette", "fastapi")
OURS: Final = "twinstar"
ROUNDS: Final = 7
ROUND_S: Final = 0.7
REQUESTS_MAX: Final = 10_000
COUNTS: Final = (200, 500)
PACKAGES: Final = ("fastapi", "httptools", "msgspec", "starlette", "uvicorn", "uvloop")
JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
BEGIN: Final = "<!-- http: written by `python -m benchmarks.http_overhead` -->"
END: Final = "<!-- end of http -->"

_PLAN: Final = "version: 1\ndefault_model: {model}\n"
_STAGE: Final = re.compile(
    r'^twinstar_stage_duration_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$', re.MULTILINE
)


@dataclass(frozen=True)
class Cell:
    """What is asked of one server: `form` is of the body and of the answer, None where there is no body."""

    system: str
    asked: str
    n: int
    form: str | None
    request: bytes


@dataclass(frozen=True)
class Sample:
    """One round of a cell: microseconds of the processor that a request took, and each of its stages."""

    cell: Cell
    cpu_us: float
    stages_us: Mapping[str, float]


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--registry", type=Path, default=Path("artefacts"))
    parser.add_argument("--model", default="star")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/http_overhead.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    load_before = os.getloadavg()[0]
    try:
        samples = run(arguments.registry, arguments.model, rounds=arguments.rounds)
    except (ContractError, ServerError, LoadError) as error:
        sys.exit(f"http_overhead: {error}")
    rows = [{**row, "load_average_before": round(load_before, 1)} for row in rows_of(samples)]
    write_results(arguments.out, rows, packages=PACKAGES)
    text = rendered(json.loads(arguments.out.read_text()))
    arguments.page.write_text(placed(arguments.page.read_text(), text, marks=(BEGIN, END)))
    print(json.dumps(rows, indent=2) if arguments.json else text)


def run(registry: Path, model: str, *, rounds: int) -> list[Sample]:
    """Return the samples of all rounds; the first, which warms up, is left out."""
    manifest = read_artefact(model_folder(registry, model) / current_version(registry, model))
    catalogue = read_catalogue(catalogue_folder(registry, manifest.catalogue.name))
    todo = cells(manifest, catalogue.item_ids)
    core, others = split_cores()
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="twinstar-http-") as name, ExitStack() as stack:
        servers = {
            system: stack.enter_context(server)
            for system, server in started(Path(name), registry.resolve(), model, core)
        }
        stack.enter_context(on_cores(others))
        for number in range(-1, rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for cell in todo:
                sample = measure(cell, servers[cell.system])
                if number >= 0:
                    samples.append(sample)
    return samples


def started(folder: Path, registry: Path, model: str, core: set[int] | None) -> Iterator[tuple[str, Any]]:
    """Yield the systems and what runs their servers. Ours has an empty store of its own, and one model."""
    plan = folder / "experiments.yaml"
    plan.write_text(_PLAN.format(model=model))
    environment = {
        "TWINSTAR_REGISTRY": str(registry),
        "TWINSTAR_STORE_URL": "memory://",
        "TWINSTAR_EXPERIMENTS_FILE": str(plan),
    }
    for kind in (*BARE, OURS):
        command = ("-m", "benchmarks.http_servers", "--kind", kind)
        yield kind, running(kind, command, environment, cores=core, log=folder / f"{kind}.log")


def cells(manifest: Manifest, item_ids: Sequence[str]) -> list[Cell]:
    """Return what is asked in a round, in order."""
    empty = http_request("GET", "/livez")
    found = [Cell(system, "nothing", 0, None, empty) for system in (*BARE, OURS)]
    domain = manifest.domains[0]
    plain = {n: body_of(manifest, item_ids, n, bare=True) for n in (1, *COUNTS)}
    found.append(Cell(OURS, "one id", 1, "JSON", post(plain[1], domain, JSON)))
    for n in COUNTS:
        found.append(Cell("uvicorn", "ids, nothing scored", n, "JSON", post(plain[n], domain, JSON)))
        for asked, body in (
            ("ids", plain[n]),
            ("ids with features", body_of(manifest, item_ids, n, bare=False)),
        ):
            found.append(Cell(OURS, asked, n, "JSON", post(body, domain, JSON)))
            found.append(Cell(OURS, asked, n, "MessagePack", post(body, domain, MSGPACK)))
    return found


def body_of(manifest: Manifest, item_ids: Sequence[str], n: int, *, bare: bool) -> dict[str, Any]:
    """Return a body of n candidates, drawn from the catalogue; not `bare`, each has a known value of every
    feature that a candidate may have."""
    rng = np.random.default_rng(3)
    chosen = [item_ids[i] for i in rng.integers(len(item_ids), size=n)]
    if bare:
        return {"user_id": "nobody", "candidates": chosen}
    values = {
        spec.name: spec.encoder.values if isinstance(spec.encoder, CategoricalEncoder) else ("1",)
        for spec in manifest.features_of(Side.CANDIDATE)
    }
    contexts = [{name: of[rng.integers(len(of))] for name, of in values.items()} for _ in chosen]
    return {
        "user_id": "nobody",
        "candidates": [{"item_id": i, "context": c} for i, c in zip(chosen, contexts, strict=True)],
    }


def post(body: Mapping[str, Any], domain: str, media_type: str) -> bytes:
    """Return a whole request to /score, in a form and for an answer in it."""
    content: bytes = (msgspec.msgpack if media_type == MSGPACK else msgspec.json).encode(body)
    headers = [
        ("X-Domain", domain),
        ("Accept", media_type),
        ("Accept-Encoding", "gzip, deflate"),
    ]
    return http_request("POST", "/score", headers=headers, body=content, media_type=media_type)


def measure(cell: Cell, server: Server) -> Sample:
    """Return a round of a cell.

    Raises:
        LoadError: an answer is no 200.
        ServerError: the server's processor time cannot be read.
    """
    stages_before = stages_of(cell, server)
    cpu_before_s = server.cpu_s()
    load = run_closed(server.port, [cell.request], connections=1, seconds=ROUND_S, requests_max=REQUESTS_MAX)
    cpu_after_s = server.cpu_s()  # before /metrics are asked for, which take as long as several requests
    stages_after = stages_of(cell, server)
    if cpu_before_s is None or cpu_after_s is None:
        raise ServerError(f"/proc does not tell the processor time of {server.name}")
    count = len(load.latencies_ms)
    stages_us = {
        stage: (seconds - stages_before.get(stage, 0.0)) / count * 1e6
        for stage, seconds in stages_after.items()
    }
    return Sample(cell, (cpu_after_s - cpu_before_s) / count * 1e6, stages_us)


def stages_of(cell: Cell, server: Server) -> dict[str, float]:
    """Return the seconds that our server has spent in each stage so far; nothing where nothing is scored."""
    return {} if cell.system != OURS or cell.n == 0 else stage_seconds(server)


def stage_seconds(server: Server) -> dict[str, float]:
    """Return the seconds that a server has spent in each stage so far, as its metrics tell."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        return parsed_stages(answer.read().decode())


def parsed_stages(metrics: str) -> dict[str, float]:
    """Return the seconds of each stage in the text of /metrics."""
    return {stage: float(value) for kind, stage, value in _STAGE.findall(metrics) if kind == "sum"}


def rows_of(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return a row a cell, in their order: medians over the rounds.

    `around_us` is the processor time without hydrating, encoding and scoring: uvicorn, HTTP, decoding, routing,
    responding, telemetry. `over_score` is the processor time over that of the graph.
    """
    rows: list[dict[str, Any]] = []
    for cell in dict.fromkeys(sample.cell for sample in samples):
        own = [sample for sample in samples if sample.cell == cell]
        cpu_us = np.array([sample.cpu_us for sample in own])
        stages_us = {
            stage: np.array([sample.stages_us[stage] for sample in own]) for stage in own[0].stages_us
        }
        inner_us = sum((stages_us.get(stage, 0.0) for stage in ("hydrate", "encode", "score")), np.zeros(1))
        score_us = stages_us.get("score")
        rows.append(
            {
                "system": cell.system,
                "asked": cell.asked,
                "n": cell.n,
                "form": cell.form,
                "bytes": len(cell.request),
                "cpu_us_per_request": _median(cpu_us),
                "around_us": _median(cpu_us - inner_us),
                **{f"{stage}_us": _median(values) for stage, values in stages_us.items()},
                "over_score": None if score_us is None else round(float(np.median(cpu_us / score_us)), 2),
                "rounds": len(own),
            }
        )
    return rows


def _median(values: Any) -> float:
    return round(float(np.median(values)), 1)


def rendered(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: where they come from, and a table."""
    meta, rows = results["meta"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    columns = {
        "cpu_us_per_request": "CPU, µs",
        "around_us": "of it around the scoring, µs",
        "decode_us": "decode, µs",
        "respond_us": "respond, µs",
        "score_us": "the graph, µs",
        "over_score": "CPU over the graph",
    }
    lines = [
        [
            f"`{row['system']}`",
            row["asked"],
            row["n"],
            row["form"],
            *(row.get(name) for name in columns),
        ]
        for row in rows
    ]
    first = rows[0]
    return "\n".join(
        [
            f"`{meta['command']}` on {meta['date']}, {meta['machine']}, {versions}; median of {first['rounds']} "
            f"rounds, load average {first['load_average_before']} when it began.",
            "",
            table(["system", "asked", "n", "form", *columns.values()], lines),
        ]
    )


if __name__ == "__main__":
    main()
