"""Ways to read fewer clusters, compared where the answer is known; and the life cycles that they are compared on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from benchmarks import life_cycle_error, long_life_cycles
from benchmarks.life_cycle_error import Scored, distance, rows_of, swapped_share
from benchmarks.long_life_cycles import BEGIN, END, joined, rendered
from benchmarks.report import placed
from benchmarks.results import write_results
from benchmarks.workload import Ask
from service.contract.artefact import read_artefact
from service.contract.history import Behaviors, Snapshot
from service.contract.popularity import Popularity
from tests.support.synthetic_dataset import item_id
from training.config import PipelineConfig
from training.export.served_graph import ServedGraph
from training.export.served_scorer import ServedScorer
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import Workbench

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"
CLUSTERS_COUNT = 12


@pytest.fixture(scope="module")
def subject(finished_pipeline: PipelineConfig) -> Scored:
    bench = Workbench(finished_pipeline)
    folder = finished_pipeline.workspace / "verify" / "pepnet" / "artefact"
    manifest = read_artefact(folder)
    trained = load_model(bench, "pepnet", Progress(quiet=True))
    scorer = ServedScorer(trained, manifest.tasks, len(manifest.domains)).eval()
    return Scored(ServedGraph(folder, bench.catalogue, manifest), scorer, bench.catalogue, Popularity.empty())


@pytest.fixture(scope="module")
def ask(subject: Scored) -> Ask:
    candidates = [item_id(0), {"item_id": item_id(1), "context": {}}, item_id(2)]
    body = {"user_id": "u", "at_ms": 2_000_000_000_000, "context": {}, "candidates": candidates}
    return Ask(subject.graph.manifest.domains[0], orjson.dumps(body))


@pytest.fixture(scope="module")
def whole(subject: Scored) -> Snapshot:
    random = np.random.default_rng(0)
    return Snapshot(
        1_900_000_000_000,
        random.integers(1, len(subject.catalogue), CLUSTERS_COUNT).astype(np.uint32),
        random.integers(1, 20, CLUSTERS_COUNT).astype(np.uint32),
        random.integers(0, 10**6, CLUSTERS_COUNT).astype(np.uint32),
        random.integers(0, 1024, CLUSTERS_COUNT).astype(np.uint16),
        Behaviors.empty(),
    )


def test_the_best_of_as_many_as_there_are_is_attention_over_all(
    subject: Scored, ask: Ask, whole: Snapshot
) -> None:
    feeds = subject.feeds(ask, whole)
    right = subject.logits(ask, feeds)
    assert len(right) == 3
    np.testing.assert_allclose(subject.logits_of_best(ask, feeds, CLUSTERS_COUNT), right, rtol=0, atol=1e-5)
    assert np.abs(subject.logits_of_best(ask, feeds, 1) - right).max() > 1e-4


def test_every_way_has_a_row_and_the_whole_is_right(
    subject: Scored, ask: Ask, whole: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life_cycle_error, "SAMPLES", (3, 8))
    monkeypatch.setattr(life_cycle_error, "BEST", (2, 100))
    monkeypatch.setattr(life_cycle_error, "LARGER", 3)
    asked: list[int] = []

    def larger(count: int) -> Snapshot:
        asked.append(count)
        return whole

    rows = list(rows_of(subject, whole, [ask], larger))
    assert [(row["way"], row["clusters_read"]) for row in rows] == [
        ("whole", 12),
        ("sample", 3),
        ("sample", 8),
        ("best for each candidate", 2),
        ("larger clusters", 12),
    ]
    assert asked == [3]
    assert rows[0]["logit_difference_max"] == rows[4]["logit_difference_max"] == 0.0
    assert all(row["logit_difference_max"] > 0 for row in rows[1:4])


def test_pairs_that_change_places_are_counted() -> None:
    assert swapped_share(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(1 / 3)
    assert swapped_share(np.array([1.0, 2.0]), np.array([5.0, 9.0])) == 0.0
    assert swapped_share(np.array([1.0]), np.array([5.0])) == 0.0


def test_a_distance_is_over_all_requests() -> None:
    right = [np.zeros((2, 1), np.float32), np.zeros((1, 1), np.float32)]
    got = [np.array([[0.0], [1.0]], np.float32), np.array([[-3.0]], np.float32)]
    found = distance(got, right)
    assert found.logit_difference_max == 3.0
    assert found.logit_difference_mean == pytest.approx((0.5 + 3.0) / 2)
    assert found.probability_difference_max == pytest.approx(0.5 - 1 / (1 + np.exp(3.0)))


def published_of(behaviors: dict[str, list[int]]) -> SimpleNamespace:
    made = {
        user: Behaviors(
            np.array(at_ms, np.int64), np.array(at_ms, np.uint32), np.zeros(len(at_ms), np.uint16)
        )
        for user, at_ms in behaviors.items()
    }
    return SimpleNamespace(bench=SimpleNamespace(dataset=made))


def test_users_are_joined_until_there_are_enough_behaviors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_life_cycles, "behaviors_by_user", lambda dataset: dataset)
    published = published_of({"a": [1, 9], "b": [4, 5, 6], "c": [2, 8]})
    every = joined(published, 7)  # type: ignore[arg-type]
    assert every.at_ms.tolist() == every.item.tolist() == [1, 2, 4, 5, 6, 8, 9]
    assert len(joined(published, 4)) == 4  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="together have 7 behaviors, 8 are asked for"):
        joined(published, 8)  # type: ignore[arg-type]


def test_the_page_has_a_place_for_the_tables(tmp_path: Path) -> None:
    row = {
        "behaviors": 1_000_000,
        "clusters": 77_102,
        "clusters_read": 2048,
        "snapshot_bytes": 5,
        "n": 200,
        "p50_ms": 1.5,
        "p99_ms": 2.5,
        "over_first": [1.1, 1.25, 1.4],
    }
    error = {
        "behaviors": 1_000_000,
        "way": "sample",
        "clusters_read": 2048,
        "logit_difference_mean": 0.001,
        "logit_difference_max": 0.01,
        "probability_difference_max": 0.0001,
        "swapped_share": 0.002,
        "encode_and_score_ms": None,
    }
    write_results(tmp_path / "r.json", [row], packages=("numpy",), more={"error": [error]})
    text = rendered(json.loads((tmp_path / "r.json").read_text()))
    assert "1.25 (1.10 to 1.40)" in text and "0.20 %" in text
    assert text in placed(PAGE.read_text(), text, marks=(BEGIN, END))
