"""Data whose answer is known: user u clicks item i where u + i is even, whatever the domain or the time."""

from __future__ import annotations

import numpy as np

from service.contract.features import CategoricalEncoder, FeatureSpec, Side
from service.contract.manifest import TaskSpec
from training.config import ModelConfig
from training.data.encoded import EncodedData, RaggedPart

USERS_COUNT, ITEMS_COUNT, CANDIDATES_COUNT = 10, 12, 6
CLICK, BUY = TaskSpec(name="click"), TaskSpec(name="buy", given="click")


def spec(name: str, side: Side, count: int) -> FeatureSpec:
    return FeatureSpec(
        name=name, side=side, encoder=CategoricalEncoder(values=tuple(str(i) for i in range(count)))
    )


def no_history(visits_count: int) -> RaggedPart:
    return RaggedPart(
        np.zeros(visits_count + 1, np.int64),
        np.zeros(0, np.uint32),
        np.zeros(0, np.float32),
        np.zeros(0, np.uint8),
        np.zeros(0, np.uint8),
    )


def checkerboard(*, visits_per_user: int = 8, keep_probability: float = 1.0, seed: int = 0) -> EncodedData:
    """Return a dataset of one request a visit; the last two visits of a user are validation.

    A click is a buy where the item is one of the first half.
    """
    rng = np.random.default_rng(seed)
    visits = USERS_COUNT * visits_per_user
    user = np.repeat(np.arange(USERS_COUNT), visits_per_user)
    item = np.concatenate([rng.permutation(ITEMS_COUNT)[:CANDIDATES_COUNT] for _ in range(visits)]) + 1
    row_request = np.repeat(np.arange(visits), CANDIDATES_COUNT)
    click = (user[row_request] + item) % 2 == 0
    return EncodedData(
        features=(spec("user_id", Side.USER, USERS_COUNT), spec("item_id", Side.ITEM, ITEMS_COUNT)),
        domains=("left", "right"),
        item_ids=np.arange(ITEMS_COUNT + 1)[:, None],
        users=tuple(str(u) for u in range(USERS_COUNT)),
        exposure=np.arange(len(item)),
        item=item,
        candidate_ids=np.zeros((len(item), 0), np.int64),
        labels=np.stack([click, click & (item <= ITEMS_COUNT // 2)], axis=1).astype(np.float32),
        keep_probability=np.full(len(item), keep_probability),
        row_request=row_request,
        user_ids=user[:, None] + 1,
        domain=np.arange(visits) % 2,
        request_visit=np.arange(visits),
        visit_user=user,
        visit_at_ms=np.tile(np.arange(visits_per_user, dtype=np.int64), USERS_COUNT) * 1000,
        visit_split=np.tile(np.arange(visits_per_user) >= visits_per_user - 2, USERS_COUNT).astype(np.int64),
        row_starts=np.arange(visits + 1) * CANDIDATES_COUNT,
        request_starts=np.arange(visits + 1),
        parts={part: no_history(visits) for part in ("clusters", "recents", "behaviors")},
        counted_ids_of=lambda request, rows: np.zeros((len(rows), 0), np.int64),
    )


def small_model(**changes: object) -> ModelConfig:
    """Return a config that learns the checkerboard in a second."""
    fit = {
        "epochs": 12,
        "batch_rows": 48,
        "dense_learning_rate": 0.02,
        "embedding_learning_rate": 0.05,
        "cold_start_ratio": 0.0,
    }
    own = changes.pop("fit", {})
    assert isinstance(own, dict)
    return ModelConfig.model_validate(
        {
            "backbone": {"name": "pepnet", "hidden": [8], "gate_hidden": 4, "tower_gate_hidden": 4},
            "embedding_width": 4,
            "fit": fit | own,
            **changes,
        }
    )
