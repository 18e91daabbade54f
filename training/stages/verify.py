"""verify: the gates an export must pass, and the seal that makes it an artefact.

Four gates, on real requests over all domains, numbers of candidates and lengths of history: torch and ONNX
Runtime agree, in each domain on every item there is too, and on items that are told by their features as if the
catalogue lacked them; a score does not depend on the other candidates; the item encoder makes of features what torch
makes of them; and the golden requests replay. What fails is not sealed, so it can neither be published nor loaded. A
variant of less precision has a gate of its own, and one that fails is left out. So has the sample that stands for a
life cycle of more clusters than `history.limits.clusters_max`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from service.contract.artefact import REPORT_FOLDER, scorer_file, seal_artefact
from service.contract.catalogue import CatalogueRef
from service.contract.features import Side
from service.contract.golden import GoldenCandidate, GoldenRequest, replay_golden, write_golden
from service.contract.history import F32, I64
from service.contract.manifest import Manifest, Parity, SampledLifeCycles, TaskMetrics, TaskSpec, Variant
from service.contract.served_inputs import BEHAVIOR_ITEM, RECENT_ITEM
from training.data.batch import PartIds
from training.data.encoded import EncodedData, nothing_counted_ids
from training.errors import StageError
from training.export.item_encoder import new_item_features
from training.export.life_cycle_sample import are_sampled, compared_with_whole
from training.export.new_items import ROW_DIFFERENCE_LIMIT, encoded_rows_difference, with_new_items
from training.export.parity import LOGIT_DIFFERENCE_LIMIT, draw_cases, reference_logits
from training.export.raw_requests import Case, RawRequests
from training.export.served_graph import ServedGraph
from training.export.served_scorer import ServedScorer
from training.export.variants import compared, refusals, requests_of_test_weeks
from training.fit import batch_builder, probabilities
from training.model import CtrModel
from training.progress import Progress
from training.stages.evaluate import METRICS_FILE
from training.stages.export import GRAPH_FILE
from training.stages.train import load_model
from training.workbench import ARTEFACT_FOLDER, Workbench

VARIANTS_FILE = "variants.json"
GOLDEN_COUNT = 24
SEED = 11
ITEMS_AT_ONCE = 4096
UNKNOWN = "unknown to every catalogue"


def run(bench: Workbench, out: Path, progress: Progress, *, model: str) -> dict[str, object]:
    """Check an export and seal it in `artefact/`.

    Raises:
        StageError: a gate is not passed; nothing is sealed.
    """
    source = bench.done("export", model)
    graph = orjson.loads((source / GRAPH_FILE).read_bytes())
    if CatalogueRef.model_validate(graph["catalogue"]) != bench.catalogue.ref():
        raise StageError("the registry's catalogue has grown since the export: run `export` again")
    folder = out / ARTEFACT_FOLDER
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("stage.json", GRAPH_FILE))
    metrics = orjson.loads((folder / REPORT_FOLDER / METRICS_FILE).read_bytes())
    draft = _draft(bench, model, graph, metrics)
    served = ServedGraph(folder, bench.catalogue, draft)
    data = bench.encoded_for(bench.config.models[model], progress)
    trained = load_model(bench, model, progress)

    rng = np.random.default_rng(SEED)
    cases = draw_cases(data, rows_min=bench.config.verify_rows, rng=rng)
    raw = RawRequests(bench, data, clusters_max=draft.history.clusters_max)
    parity = independence = 0.0
    rows_count = 0
    golden: list[GoldenRequest] = []
    with progress.task("compare with torch", total=len(cases)) as advance:
        for number, case in enumerate(cases):
            request = raw.request_of(case)
            expected = reference_logits(trained, data, case)
            got = served.logits(request)
            parity = _larger(parity, got - expected)
            independence = _larger(independence, _dependence(served, request, got, rng))
            rows_count += len(expected)
            if number % max(1, len(cases) // GOLDEN_COUNT) == 0:
                golden.append(_with_probability(request, expected, draft.tasks))
            advance(1)
    one_of_each_domain = {int(data.domain[c.request]): c for c in sorted(cases, key=lambda c: len(c.rows))}
    for case in one_of_each_domain.values():
        request, expected = with_new_items(case, trained, data, raw)
        got = served.logits(request)
        parity = _larger(parity, got - expected)
        independence = _larger(independence, _dependence(served, request, got, rng))
        rows_count += len(expected)
        golden.append(_with_probability(request, expected, draft.tasks))
    scorer = ServedScorer(trained, draft.tasks, len(draft.domains)).eval()
    items = 1 + rng.permutation(len(data.item_ids) - 1)[:ITEMS_AT_ONCE]
    rows_off = encoded_rows_difference(served, scorer, trained, data, raw, items)
    cold, expected = _cold_start(cases[0], golden[0], trained, data)
    parity = _larger(parity, served.logits(cold) - expected)
    golden.append(_with_probability(cold, expected, draft.tasks))
    with progress.task("every item", total=len(one_of_each_domain) * len(data.item_ids)) as advance:
        for case in one_of_each_domain.values():
            for got, expected in _every_item(case, served, trained, bench, data, raw):
                parity = _larger(parity, got - expected)
                rows_count += len(expected)
                advance(len(expected))
    _gate("torch and ONNX Runtime differ by", parity)
    _gate("a score changes with the other candidates by", independence)
    _gate("the item encoder and torch differ by", rows_off, ROW_DIFFERENCE_LIMIT, "in a table's row")
    write_golden(folder, golden)
    compared_cases = requests_of_test_weeks(
        data, rows_max=bench.config.export.variant_rows, rng=np.random.default_rng(SEED)
    )
    sampled = _sampled_life_cycles(bench, served, data, compared_cases, progress)
    passed, said = _variants(bench, folder, served, data, compared_cases, golden, progress)
    draft = draft.model_copy(update={"variants": passed, "sampled_life_cycles": sampled})
    if sampled is not None:
        said["life_cycle_sample"] = (
            f"AUC drop {sampled.auc_drop_max:.1e}, Δp {sampled.probability_difference_max:.1e}, of "
            f"{sampled.sampled_rows_count} rows"
        )
    for graph_of in (served, *(ServedGraph(folder, bench.catalogue, draft, v.precision) for v in passed)):
        replay_golden(
            folder,
            manifest=draft,
            catalogue=bench.catalogue,
            encoder=graph_of.encoder,
            run=graph_of.probabilities,
            precision=graph_of.precision,
        )
    sealed = seal_artefact(
        folder,
        draft.model_copy(
            update={
                "parity": Parity(
                    rows_count=rows_count,
                    logit_difference_max=parity,
                    logit_difference_limit=LOGIT_DIFFERENCE_LIMIT,
                )
            }
        ),
    )
    return {
        "version": f"{sealed.name}-{sealed.version}",
        "rows": rows_count,
        "logit_difference_max": f"{parity:.1e}",
        "independence_max": f"{independence:.1e}",
        "encoded_rows_difference_max": f"{rows_off:.1e}",
        "golden": len(golden),
        **said,
    }


def _sampled_life_cycles(
    bench: Workbench, served: ServedGraph, data: EncodedData, cases: Sequence[Case], progress: Progress
) -> SampledLifeCycles | None:
    """Return what the sample of long life cycles costs, None where there are none.

    Raises:
        StageError: more than its gate allows.
    """
    sampled = are_sampled(bench, data, cases)
    if not any(sampled):
        return None
    with progress.task("samples against whole life cycles", total=sum(len(c.rows) for c in cases)) as advance:
        found = compared_with_whole(bench, served, data, cases, sampled, advance=advance)
    refused = refusals(found)
    if refused:
        raise StageError(
            f"a sample of history.limits.clusters_max = {served.manifest.history.clusters_max} clusters is too small: "
            f"against whole life cycles {'; '.join(refused)}. Set it higher, or to null: not sealed"
        )
    return found


def _variants(
    bench: Workbench,
    folder: Path,
    served: ServedGraph,
    data: EncodedData,
    cases: Sequence[Case],
    golden: Sequence[GoldenRequest],
    progress: Progress,
) -> tuple[tuple[Variant, ...], dict[str, str]]:
    """Return the variants that pass their gate, and what is to be said of each. The others' files are deleted."""
    passed: list[Variant] = []
    said: dict[str, str] = {}
    report: list[dict[str, object]] = []
    domains = served.manifest.domains
    for precision in bench.config.export.variants:
        files = [folder / scorer_file(domain, precision) for domain in domains]
        if not files[0].exists():
            continue
        refused = ["the test weeks have no rows to compare on"]
        if cases:
            graph = ServedGraph(folder, bench.catalogue, served.manifest, precision)
            with progress.task(f"{precision} against fp32", total=sum(len(c.rows) for c in cases)) as advance:
                found, dependence = compared(
                    served, graph, data, bench.catalogue_ids, cases, golden, advance=advance
                )
            refused = refusals(found, dependence)
            report.append({**found.model_dump(), "dependence_max": dependence, "refused": refused})
        if not refused:
            passed.append(found)
            said[precision] = f"AUC drop {found.auc_drop_max:.1e}, Δp {found.probability_difference_max:.1e}"
            continue
        said[precision] = f"left out: {'; '.join(refused)}"
        progress.say(f"{precision}: {said[precision]}")
        for file in files:
            file.unlink()
    (folder / REPORT_FOLDER / VARIANTS_FILE).write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return tuple(passed), said


def _every_item(
    case: Case,
    served: ServedGraph,
    trained: CtrModel,
    bench: Workbench,
    data: EncodedData,
    raw: RawRequests,
) -> Iterator[tuple[F32, F32]]:
    """Yield the logits (N, T) of the served graph and of torch, for every item as a case's first candidate.

    Drawn cases miss most items of a long tail, and a table row that is wrong is wrong for one item only.
    """
    request = raw.request_of(Case(case.request, case.rows[:1]))
    item_ids = (UNKNOWN, *bench.dataset.items["item_id"].to_list())
    context = request.candidates[0].context
    for start in range(0, len(item_ids), ITEMS_AT_ONCE):
        rows: I64 = np.arange(start, min(start + ITEMS_AT_ONCE, len(item_ids)))
        batch = batch_builder(data).one_request(case.request, np.repeat(case.rows[:1], len(rows)), items=rows)
        with torch.inference_mode():
            logits = trained.natural_logits(batch)
        candidates = tuple(GoldenCandidate(item_id=item_ids[row], context=context) for row in rows)
        popularity = raw.popularity_of(request.at_ms, rows)
        asked = request.model_copy(update={"candidates": candidates, "popularity": popularity})
        yield served.logits(asked), logits.numpy()


def _dependence(served: ServedGraph, request: GoldenRequest, together: F32, rng: np.random.Generator) -> F32:
    """Return how far the logits of some candidates move when they are scored in another company."""
    count = len(request.candidates)
    chosen = rng.permutation(count)[: max(1, count // 3)]
    fewer = request.model_copy(update={"candidates": tuple(request.candidates[i] for i in chosen)})
    return served.logits(fewer) - together[chosen]


def _larger(largest: float, differences: F32) -> float:
    """Return the largest absolute difference so far. One that is NaN stays, where Python's max may lose it."""
    return float(np.maximum(largest, np.abs(differences).max()))


def _cold_start(
    case: Case, request: GoldenRequest, trained: CtrModel, data: EncodedData
) -> tuple[GoldenRequest, F32]:
    """Return a case as a request of an unknown user without history, for an unknown item and its own first one,
    and the logits (2, T) of torch."""
    cold = request.model_copy(
        update={
            "user_id": UNKNOWN,
            "user_features": {},
            "snapshot": None,
            "recent": b"",
            "popularity": None,
            "candidates": (GoldenCandidate(item_id=UNKNOWN, context={}), request.candidates[0]),
        }
    )
    batch = batch_builder(data).one_request(case.request, case.rows[[0, 0]])
    user_ids, item, candidate_ids = batch.user_ids.clone(), batch.item.clone(), batch.candidate_ids.clone()
    user_ids[:, : sum(feature.side is Side.USER for feature in data.features)] = 0
    own = sum(feature.side is Side.CANDIDATE for feature in data.features)
    item[0] = candidate_ids[0, :own] = 0
    candidate_ids[:, own:] = torch.tensor(nothing_counted_ids(data.features))
    one = torch.zeros(1, 1, dtype=torch.int64)
    empty = PartIds(item_rows=one[0], index=one, size=one.float(), age=one, strength=one)
    batch = replace(
        batch,
        user_ids=user_ids,
        item=item,
        candidate_ids=candidate_ids,
        parts=dict.fromkeys(batch.parts, empty),
    )
    with torch.inference_mode():
        return cold, trained.natural_logits(batch).numpy()


def _with_probability(request: GoldenRequest, logits: F32, tasks: Sequence[TaskSpec]) -> GoldenRequest:
    p = probabilities(logits, tasks)
    return request.model_copy(update={"probability": tuple(map(tuple, p.tolist()))})


def _gate(
    what: str, difference: float, limit: float = LOGIT_DIFFERENCE_LIMIT, where: str = "in logits"
) -> None:
    if not difference <= limit:  # NaN too
        raise StageError(f"{what} {difference:.2e} {where}, the limit is {limit:.0e}: not sealed")


def _draft(bench: Workbench, model: str, graph: Mapping[str, Any], metrics: list[dict[str, Any]]) -> Manifest:
    """Return the manifest but for what sealing adds. `graph` and `metrics` are those that the export carries."""
    inputs = tuple(graph["inputs"])
    spec, config = bench.dataset.spec, bench.config
    chosen, limits = config.models[model], config.history.limits
    features = bench.features_of(chosen)
    # What nothing reads nobody lays out.
    unread = {"recents_max": RECENT_ITEM, "behaviors_max": BEHAVIOR_ITEM}
    limits = limits.model_copy(update={limit: 0 for limit, tensor in unread.items() if tensor not in inputs})
    return Manifest(
        name=model,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        backbone=chosen.backbone.name,
        interests=tuple(interest.name for interest in chosen.interests),
        calibration=None if chosen.calibration is None else chosen.calibration.name,
        dataset_fingerprint=spec.fingerprint,
        catalogue=bench.catalogue.ref(),
        snapshot_line=config.publish.snapshot_line,
        domains=bench.domains_of(chosen),
        tasks=bench.tasks_of(chosen),
        features=tuple(f for f in features if f.side is not Side.ITEM),
        item_features=new_item_features(features),
        match_key_ends=tuple(graph["match_key_ends"]),
        history=limits,
        items_count=len(bench.catalogue_ids),
        graph_inputs=inputs,
        searches=graph["searches"],
        parity=Parity(rows_count=0, logit_difference_max=0.0, logit_difference_limit=LOGIT_DIFFERENCE_LIMIT),
        metrics=tuple(
            TaskMetrics.model_validate({name: row[name] for name in TaskMetrics.model_fields})
            for row in metrics
            if row["split"] == "test" and row["weighting"] == "natural"
        ),
        files={},
    )
