from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import orjson
import pytest
from onnx import helper

from service.contract.artefact import ITEM_ENCODER_FILE, SEARCH_FILE, read_artefact, scorer_file
from service.contract.features import Side
from service.contract.golden import read_golden, replay_golden
from service.contract.manifest import Manifest
from service.contract.search import with_kept
from service.contract.served_inputs import (
    ITEM_BY_DOMAIN,
    ITEM_FEATURE_IDS,
    ITEM_SHARED,
    LOGIT,
    Feeds,
    ItemTables,
    RequestEncoder,
    read_item_tables,
)
from tests.support.pipelines import changed, copied, run
from tests.support.synthetic_dataset import DOMAINS, USERS_COUNT
from training import backbones
from training.config import PipelineConfig
from training.errors import StageError
from training.pipeline import STAGE_FILE, Step
from training.workbench import Workbench

VERIFY = Step("verify", "star")
UNKNOWN_ROW = 0
Graphs = Mapping[str, onnxruntime.InferenceSession]


@pytest.fixture
def config(finished_pipeline: PipelineConfig, tmp_path: Path) -> PipelineConfig:
    return copied(finished_pipeline, tmp_path)


def exported(config: PipelineConfig, name: str = "") -> Path:
    return config.workspace / "export" / "star" / name


def rewrite(path: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change an array on disk."""
    table = np.load(path)
    change(table)
    np.save(path, table)


def as_if_exported(config: PipelineConfig) -> None:
    """Let the export's record say the sizes that its files now have."""
    record = orjson.loads(exported(config, STAGE_FILE).read_bytes())
    record["files"] = {name: exported(config, name).stat().st_size for name in record["files"]}
    exported(config, STAGE_FILE).write_bytes(orjson.dumps(record))


def graphs_of(folder: Path, manifest: Manifest) -> Graphs:
    """Return a session of its own for each domain's graph."""
    return {
        domain: onnxruntime.InferenceSession(folder / scorer_file(domain), providers=["CPUExecutionProvider"])
        for domain in manifest.domains
    }


def searched(folder: Path, manifest: Manifest, feeds: Feeds) -> Feeds:
    """Return a request's tensors and what the artefact's searches keep, in a session of its own."""
    if manifest.searches is None:
        return feeds
    search = onnxruntime.InferenceSession(folder / SEARCH_FILE, providers=["CPUExecutionProvider"])
    return with_kept(feeds, manifest.searches, search.run)


def refuse(config: PipelineConfig, message: str, error: type[Exception] = StageError) -> None:
    """Ask for `verify` to refuse, and to leave nothing that could be published but what was there."""
    sealed = config.workspace / "verify" / "star"
    before = read_artefact(sealed / "artefact") if sealed.exists() else None
    with pytest.raises(error, match=message):
        run(config, VERIFY, force=True)
    assert (read_artefact(sealed / "artefact") if sealed.exists() else None) == before
    assert not list(sealed.parent.glob(".*"))


def test_what_passes_says_how_near_it_came(config: PipelineConfig) -> None:
    for name in config.models:
        manifest = read_artefact(config.workspace / "verify" / name / "artefact")
        assert 0 < manifest.parity.logit_difference_max <= manifest.parity.logit_difference_limit == 1e-4
        assert manifest.parity.rows_count >= config.verify_rows


def test_the_manifest_says_what_was_exported(config: PipelineConfig) -> None:
    bench = Workbench(config)
    folder = config.workspace / "verify" / "star" / "artefact"
    manifest = read_artefact(folder)
    spec = bench.dataset.spec
    assert (manifest.name, manifest.backbone) == ("star", "star")
    assert manifest.interests == ("twin_v2", "short_term")
    assert manifest.dataset_fingerprint == spec.fingerprint
    assert (manifest.domains, manifest.tasks) == (spec.domains, bench.tasks)
    assert manifest.features == tuple(f for f in bench.features if f.side is not Side.ITEM)
    by_name = {f.name: f for f in bench.features if f.side is Side.ITEM}
    item_id, *others = manifest.item_features
    assert others == [by_name["category"], by_name["price"]]
    assert (item_id.name, item_id.encoder.ids_count) == ("item_id", 1)  # its values are the catalogue
    assert manifest.history == config.history.limits
    assert manifest.catalogue == bench.catalogue.ref()
    assert manifest.items_count == 31
    for graph in graphs_of(folder, manifest).values():
        assert {node.name for node in graph.get_inputs()} == set(manifest.graph_inputs)


def test_the_manifests_metrics_are_the_natural_ones_of_the_test_weeks(config: PipelineConfig) -> None:
    folder = config.workspace / "verify" / "star" / "artefact"
    manifest = read_artefact(folder)
    body = (config.workspace / "evaluate" / "star" / "metrics.json").read_bytes()
    assert (folder / "report" / "metrics.json").read_bytes() == body
    rows = [row for row in orjson.loads(body) if (row["split"], row["weighting"]) == ("test", "natural")]
    assert rows
    assert [metrics.model_dump() for metrics in manifest.metrics] == [
        {name: row[name] for name in type(manifest.metrics[0]).model_fields} for row in rows
    ]


def test_golden_requests_replay_in_a_session_of_their_own(config: PipelineConfig) -> None:
    bench = Workbench(config)
    for name in config.models:
        folder = config.workspace / "verify" / name / "artefact"
        manifest = read_artefact(folder)
        graphs = graphs_of(folder, manifest)

        def probabilities(
            domain: str,
            feeds: Feeds,
            graphs: Graphs = graphs,
            folder: Path = folder,
            manifest: Manifest = manifest,
        ) -> np.ndarray:
            wanted = [node.name for node in graphs[domain].get_inputs()]
            feeds = searched(folder, manifest, feeds)
            return np.asarray(graphs[domain].run(["probability"], {name: feeds[name] for name in wanted})[0])

        items = onnxruntime.InferenceSession(folder / ITEM_ENCODER_FILE, providers=["CPUExecutionProvider"])
        tables = read_item_tables(folder)

        def encode_items(
            ids: np.ndarray, items: onnxruntime.InferenceSession = items, tables: ItemTables = tables
        ) -> tuple[np.ndarray, np.ndarray]:
            made = dict(
                zip(
                    [o.name for o in items.get_outputs()],
                    items.run(None, {ITEM_FEATURE_IDS: ids}),
                    strict=True,
                )
            )
            none = np.zeros((len(tables.by_domain), len(ids), 0), np.float32)
            return made[ITEM_SHARED], made.get(ITEM_BY_DOMAIN, none)

        encoder = RequestEncoder(manifest, tables, encode_items)
        count = replay_golden(
            folder, manifest=manifest, catalogue=bench.catalogue, encoder=encoder, run=probabilities
        )
        requests = read_golden(folder)
        assert count == len(requests) >= 25
        assert {request.domain for request in requests} == set(manifest.domains)
        assert {len(request.candidates) for request in requests} >= {1, 7, 100}
        new = [r for r in requests if any(candidate.features for candidate in r.candidates)]
        assert {request.domain for request in new} == set(manifest.domains)
        for request in new:
            asked = bench.catalogue.ids_of(candidate.item_id for candidate in request.candidates)
            assert [not candidate.features for candidate in request.candidates] == (asked > 0).tolist()
            assert 0 < np.count_nonzero(asked) < len(asked)
        cold = requests[-1]
        assert (cold.snapshot, cold.recent, cold.user_features) == (None, b"", {})
        assert bench.catalogue.id_of(cold.candidates[0].item_id) == UNKNOWN_ROW


@pytest.mark.parametrize("row", [UNKNOWN_ROW, 7, 30])
@pytest.mark.parametrize("table", ["shared", "by_domain"])
def test_a_weight_of_one_item_that_was_changed_is_refused(
    config: PipelineConfig, table: str, row: int
) -> None:
    def change(values: np.ndarray) -> None:
        values[..., row, :] += 0.5

    rewrite(exported(config, f"items/{table}.npy"), change)
    refuse(config, "torch and ONNX Runtime differ by")


@pytest.mark.parametrize("feature", ["category", "price"])
def test_an_item_encoder_with_one_vector_changed_is_refused(config: PipelineConfig, feature: str) -> None:
    path = exported(config, ITEM_ENCODER_FILE)
    model = onnx.load(path)
    features = read_artefact(config.workspace / "verify" / "star" / "artefact").item_features
    names = [f.name for f in features]
    before = sum(f.encoder.ids_count for f in features[: names.index(feature)])
    (table,) = (t for t in model.graph.initializer if t.name.startswith("item.tables."))
    values = onnx.numpy_helper.to_array(table).copy()
    assert len(values) == sum(f.encoder.ids_count for f in features)  # of item_id the unknown value only
    values[before + 1] += 1e-3
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    onnx.save(model, path)
    as_if_exported(config)
    refuse(config, "differ by")


def test_match_keys_of_new_items_that_are_not_those_of_the_table_are_refused(config: PipelineConfig) -> None:
    path = exported(config, "graph.json")
    graph = orjson.loads(path.read_bytes())
    any_end, item_end, category_end = graph["match_key_ends"]
    assert (any_end, item_end) == (1, 31)
    path.write_bytes(orjson.dumps({**graph, "match_key_ends": [any_end, item_end - 1, category_end - 1]}))
    as_if_exported(config)
    refuse(config, "torch and ONNX Runtime differ by")


def test_a_weight_that_is_nan_is_refused(config: PipelineConfig) -> None:
    def change(values: np.ndarray) -> None:
        values[7] = np.nan

    rewrite(exported(config, "items/shared.npy"), change)
    refuse(config, "torch and ONNX Runtime differ by nan")


@pytest.mark.parametrize("table", ["rows", "shared", "history_clusters", "history_recents", "match_keys"])
def test_rows_that_were_swapped_are_refused(config: PipelineConfig, table: str) -> None:
    def change(values: np.ndarray) -> None:
        values[[3, 4]] = values[[4, 3]]

    rewrite(exported(config, f"items/{table}.npy"), change)
    refuse(config, "torch and ONNX Runtime differ by")


@pytest.mark.parametrize("domain", DOMAINS)
def test_one_domains_graph_that_takes_the_mean_over_candidates_away_is_refused(
    config: PipelineConfig, domain: str
) -> None:
    path = exported(config, scorer_file(domain))
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["bare_logit" if name == LOGIT else name for name in node.output]
        node.input[:] = ["bare_logit" if name == LOGIT else name for name in node.input]
    axes = onnx.numpy_helper.from_array(np.array([0], np.int64), "candidate_axis")
    model.graph.initializer.append(axes)
    model.graph.node.append(helper.make_node("ReduceMean", ["bare_logit", "candidate_axis"], ["mean_logit"]))
    model.graph.node.append(helper.make_node("Sub", ["bare_logit", "mean_logit"], [LOGIT]))
    onnx.save(model, path)
    as_if_exported(config)
    refuse(config, "not sealed")


def test_an_unknown_user_is_compared_too(config: PipelineConfig) -> None:
    path = exported(config, scorer_file(DOMAINS[0]))
    model = onnx.load(path)
    user_id_table = next(t for t in model.graph.initializer if t.name == "user.tables.0.weight")
    values = onnx.numpy_helper.to_array(user_id_table).copy()
    first = Workbench(config).features[0]  # whose rows the table begins with
    assert (first.name, first.encoder.ids_count) == ("user_id", USERS_COUNT + 1)
    values[UNKNOWN_ROW] += 0.5  # every user of the dataset has an id of his own
    user_id_table.CopyFrom(onnx.numpy_helper.from_array(values, user_id_table.name))
    onnx.save(model, path)
    as_if_exported(config)
    refuse(config, "torch and ONNX Runtime differ by")


COMPANIONABLE = '''
"""A backbone whose scores depend on who else is scored, in torch and in ONNX alike."""
from pydantic import BaseModel, ConfigDict, Field
from torch import nn


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def build(options, *, widths):
    return Companionable(widths)


class Companionable(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.shape = (widths.tasks_count, widths.logit_columns)
        self.last = nn.Linear(widths.item, widths.tasks_count * widths.logit_columns)

    def forward(self, user, item, candidate, interest, domain):
        logits = self.last(item)
        return (logits - logits.mean(0, keepdim=True)).unflatten(-1, self.shape)
'''


@pytest.fixture
def companionable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "backbones"
    folder.mkdir()
    (folder / "companionable.py").write_text(COMPANIONABLE)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(folder)])


@pytest.mark.usefixtures("companionable")
def test_a_model_whose_scores_depend_on_the_other_candidates_is_refused(config: PipelineConfig) -> None:
    model = config.models["star"].model_dump(mode="json")
    model |= {"backbone": {"name": "companionable"}, "losses": {}, "interests": []}
    odd = changed(config, {"models": {"odd": model}})
    run(odd, *(Step(stage, "odd") for stage in ("train", "evaluate", "export")))
    with pytest.raises(StageError, match="a score changes with the other candidates by"):
        run(odd, Step("verify", "odd"))
    assert not (odd.workspace / "verify" / "odd").exists()


def test_what_is_sealed_is_what_was_exported_but_for_the_pipelines_own_files(config: PipelineConfig) -> None:
    artefact = config.workspace / "verify" / "star" / "artefact"
    files = {p.relative_to(artefact).as_posix() for p in artefact.rglob("*") if p.is_file()}
    source = {p.relative_to(exported(config)).as_posix() for p in exported(config).rglob("*") if p.is_file()}
    added = {"manifest.json", "golden.json", "report/variants.json"}
    assert files == source - {STAGE_FILE, "graph.json"} | added
    for name in source & files:
        assert (artefact / name).read_bytes() == exported(config, name).read_bytes()
