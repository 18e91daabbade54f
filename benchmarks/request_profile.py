"""Where a request's processor time goes: stage by stage, the graph operator by operator, and what is around them.

    python -m benchmarks.request_profile [--registry FOLDER --model NAME] [--candidates N] [--clusters C] [--json]

Takes a published artefact, the reference model unless told otherwise, and asks it for made-up users with C clusters
and N candidates of its catalogue, over HTTP, with a real store. Its stages are timed by the processor's clock, and what
its process takes in all beside them is HTTP, the event loop and telemetry. ONNX Runtime's profiler says how the graph's
share is spent.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort

from benchmarks.figures import table
from benchmarks.http_overhead import stage_seconds
from benchmarks.kernels import kernels_of, profiled_options
from benchmarks.load import LoadError, http_request, run_closed
from benchmarks.plain_handler import SERVED, BlockingHandler, PlainSettings, ScoreRequest
from benchmarks.progress import say
from benchmarks.reference_model import MODEL, Reference, made_up_snapshot
from benchmarks.servers import ServerError, running, split_cores
from benchmarks.systems import OURS, Subject, ours, own_store
from benchmarks.workload import Ask, User, body_of
from service.contract.artefact import scorer_file
from service.contract.errors import ContractError
from service.contract.features import TIME_FEATURES, CategoricalEncoder, RawValue, Side
from service.contract.history import encode_snapshot
from service.contract.served_inputs import PROBABILITY
from service.contract.store_keys import encode_user_features
from service.errors import NotReady
from service.experiments.plan import Plan
from service.models.live import LiveModel, load_serving
from service.pipeline.run import STAGES
from service.stores import valkey_server
from service.stores.base import StoreError

ASKS_COUNT: Final = 24
SECONDS: Final = 2.0
PROFILED_RUNS: Final = 100
REQUESTS_MAX: Final = 100_000
AROUND: Final = "HTTP, event loop, telemetry"
SEED: Final = 5


@dataclass(frozen=True)
class Share:
    """What a part of a request takes, in microseconds of processor time, and of the whole."""

    part: str
    cpu_us: float
    share: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--registry", type=Path, help="of a published artefact; without, the reference model")
    parser.add_argument("--model", help="of that registry")
    parser.add_argument("--reference", type=Path, default=Path("runs/reference"), help="where that lies")
    parser.add_argument("--candidates", type=int, default=200, metavar="N")
    parser.add_argument("--clusters", type=int, default=200, metavar="C")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for the stages, and again for HTTP")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if (arguments.registry is None) != (arguments.model is None):
        parser.error("--registry and --model go together")
    if arguments.candidates < 1 or arguments.clusters < 0:
        parser.error("--candidates must be at least 1, --clusters at least 0")
    registry, model = arguments.registry, arguments.model
    try:
        if registry is None:
            reference = Reference(arguments.reference)
            if not reference.is_written:
                say(f"writing the reference model into {reference.folder}")
            reference.ensure()
            registry, model = reference.registry, MODEL
        found = profile(
            registry, model, n=arguments.candidates, c=arguments.clusters, seconds=arguments.seconds
        )
    except (ContractError, NotReady, StoreError, ServerError, LoadError) as error:
        sys.exit(f"request_profile: {error}")
    if arguments.json:
        print(
            json.dumps(
                {name: [asdict(share) for share in shares] for name, shares in found.items()}, indent=2
            )
        )
        return
    for name, shares in found.items():
        print(f"\n{name}\n")
        print(table(["part", "CPU, µs", "share"], [[s.part, s.cpu_us, f"{s.share:.1%}"] for s in shares]))


def profile(registry: Path, model: str, *, n: int, c: int, seconds: float) -> dict[str, list[Share]]:
    """Return the shares of the stages and what is around them, and of the graph's operators.

    Raises:
        NotReady: the registry's artefact cannot be served.
        ServerError: the server did not start.
    """
    core, others = split_cores()
    plan = Plan(version=1, default_model=model)
    live = load_serving(registry, plan).default_model
    asks, users = made_up(live, n=n, c=c)
    with tempfile.TemporaryDirectory(prefix="twinstar-profile-") as name:
        folder = Path(name)
        subject = Subject(registry, model, folder / "none", folder / "plan.yaml", folder / "store")
        subject.plan.write_text(plan.model_dump_json())
        snapshot_id = live.snapshot.snapshot_id if live.snapshot else ""
        with own_store(subject.store, snapshot_id, users, others):
            stages = stages_us(subject, folder, asks, core, seconds=seconds)
            operators = operators_us(live, registry, subject, asks[0])
    return {
        f"{live.label}, {n} candidates, {c} clusters": shares_of(stages),
        "the graph by operator, as ONNX Runtime's profiler has it": shares_of(operators),
    }


def made_up(live: LiveModel, *, n: int, c: int) -> tuple[list[Ask], list[User]]:
    """Return requests of candidates drawn from the catalogue, and their users, with C clusters each.

    Features have values that the model knows: those of users in the store, those of contexts in the request.
    """
    rng = np.random.default_rng(SEED)
    manifest, items = live.manifest, live.catalogue.item_ids

    def values(*sides: Side) -> dict[str, RawValue]:
        drawn: dict[str, RawValue] = {}
        for spec in manifest.features_of(*sides):
            if isinstance(spec.encoder, CategoricalEncoder) and spec.name not in (*TIME_FEATURES, "user_id"):
                drawn[spec.name] = spec.encoder.values[int(rng.integers(len(spec.encoder.values)))]
        return drawn

    asks: list[Ask] = []
    users: list[User] = []
    for number in range(ASKS_COUNT):
        snapshot = made_up_snapshot(c, len(items), rng)
        user = f"profile-{number}"
        users.append(User(user, encode_snapshot(snapshot), encode_user_features(values(Side.USER))))
        domain = manifest.domains[number % len(manifest.domains)]
        chosen = [items[i] for i in rng.integers(len(items), size=n)]
        candidates = [{"item_id": item, **values(Side.CANDIDATE)} for item in chosen]
        context = {**values(Side.CONTEXT), "domain": domain}
        asks.append(Ask(domain, body_of(user, snapshot.at_ms + 3_600_000, context, candidates, bare=False)))
    return asks, users


def stages_us(
    subject: Subject, folder: Path, asks: Sequence[Ask], core: set[int] | None, *, seconds: float
) -> dict[str, float]:
    """Return the processor time of the service's process for a request: each stage's, and what is around them.

    Raises:
        ServerError: the server did not start, or its processor time cannot be read.
    """
    requests = [
        http_request("POST", "/score", headers=[("X-Domain", ask.domain)], body=ask.body) for ask in asks
    ]
    command = ("-m", "benchmarks.http_servers", "--kind", OURS)
    environment = ours(subject).environment
    with running(OURS, command, environment, cores=core, log=folder / "ours.log") as server:
        run_closed(server.port, requests, connections=1, seconds=seconds / 4, requests_max=REQUESTS_MAX)
        before = stage_seconds(server)
        before_s = server.cpu_s()
        load = run_closed(server.port, requests, connections=1, seconds=seconds, requests_max=REQUESTS_MAX)
        after_s = server.cpu_s()
        after = stage_seconds(server)
    if before_s is None or after_s is None:
        raise ServerError(f"/proc does not tell the processor time of {server.name}")
    count = len(load.latencies_ms)
    found = {stage: (after[stage] - before.get(stage, 0.0)) / count * 1e6 for stage in STAGES}
    return {**found, AROUND: (after_s - before_s) / count * 1e6 - sum(found.values())}


def operators_us(live: LiveModel, registry: Path, subject: Subject, ask: Ask) -> dict[str, float]:
    """Return what each kind of operator takes of one request, in microseconds, the largest first."""
    settings = PlainSettings(
        registry=registry,
        model=subject.model,
        training_graph=subject.training_graph,
        graph=SERVED,
        store_socket=str(valkey_server.socket_path(subject.store)),
    )
    handler = BlockingHandler(settings)
    request = ScoreRequest.model_validate_json(ask.body)
    feeds = handler.feeds(request, ask.domain, handler.stored(request.user_id), SERVED)
    options = profiled_options(subject.plan.parent)
    path = registry / "models" / subject.model / live.manifest.version / scorer_file(ask.domain)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(PROFILED_RUNS):
        session.run([PROBABILITY], feeds)
    total_us: dict[str, float] = defaultdict(float)
    for _, event in kernels_of(session):
        total_us[event["args"]["op_name"]] += event["dur"] / PROFILED_RUNS
    return dict(sorted(total_us.items(), key=lambda pair: -pair[1]))


def shares_of(parts_us: dict[str, float]) -> list[Share]:
    """Return the parts with their shares of the sum."""
    whole_us = sum(parts_us.values()) or 1.0
    return [Share(part, round(taken_us, 1), taken_us / whole_us) for part, taken_us in parts_us.items()]


if __name__ == "__main__":
    main()
