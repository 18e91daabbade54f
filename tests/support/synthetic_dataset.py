"""Small logs whose every label follows from a rule, and a pipeline over them that runs in seconds.

24 users, 30 items, 3 domains, 100 days, two tasks. `clicks` and `buys` below are the rules, so that what a
model can learn is known. Users have from 0 to 115 behaviors: histories are empty, single, short and long.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from training.config import PipelineConfig
from training.data.dataset import Dataset
from training.stages.prepare import run as prepare

DOMAINS = ("home", "search", "mail")
TASKS = ("click", "buy")
USERS_COUNT, ITEMS_COUNT, CATEGORIES_COUNT = 24, 30, 5
VISITS_PER_USER, CANDIDATES_COUNT = 16, 5
START = datetime(2026, 1, 5, tzinfo=UTC)
TRAIN_END_DAYS, VALIDATION_END_DAYS, END_DAYS = 70, 85, 100
FIRST_SNAPSHOT_DAYS, SNAPSHOT_EVERY_DAYS = 28, 14
KEEP_PROBABILITY = 0.5
DAY_MS = 24 * 3600 * 1000
START_MS = int(START.timestamp() * 1000)


def user_id(user: int) -> str:
    """Return the id of a user; ids sort as the users do."""
    return f"u{user:02d}"


def item_id(item: int) -> str:
    """Return the id of an item."""
    return f"i{item:02d}"


def category(item: int) -> int:
    """Return an item's category."""
    return item % CATEGORIES_COUNT


def clicks(user: int, item: int, domain: int) -> bool:
    """Say whether a user clicks: the item is of the user's category, which moves on by one in `mail`."""
    return category(item) == (user + (domain == 2)) % CATEGORIES_COUNT


def buys(user: int, item: int, domain: int) -> bool:
    """Say whether a user buys: a click on an item of the cheaper half of its category."""
    return clicks(user, item, domain) and (item // CATEGORIES_COUNT) % 2 == 0


def behaviors_count(user: int) -> int:
    """Return how many behaviors a user has: 0, 1, 2, then five more with each user."""
    return user if user < 3 else 5 * user


def write_logs(folder: Path, *, seed: int = 7) -> Path:
    """Write the logs as the source `parquet` reads them; returns the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    _exposures(rng).write_parquet(folder / "exposures.parquet")
    _behaviors(rng).write_parquet(folder / "behaviors.parquet")
    known = range(1, USERS_COUNT)  # u00 is in no table of users
    pl.DataFrame(
        {
            "user_id": [user_id(u) for u in known],
            "country": [("NZ", "FJ", None)[u % 3] for u in known],
            "years": [None if u == 5 else float(20 + u) for u in known],
        }
    ).write_parquet(folder / "users.parquet")
    items = range(ITEMS_COUNT - 1)  # the last item is in no table of items
    pl.DataFrame(
        {
            "item_id": [item_id(i) for i in items],
            "category": [f"c{category(i)}" for i in items],
            "price": [1.0 + i for i in items],
        }
    ).write_parquet(folder / "items.parquet")
    (folder / "dataset.yaml").write_text(yaml.safe_dump(_description(), sort_keys=False))
    return folder


def tiny_dataset(folder: Path) -> Dataset:
    """Write the logs and the canonical dataset made of them under a folder; returns the dataset."""
    logs = write_logs(folder / "logs")
    (folder / "prepare").mkdir(parents=True, exist_ok=True)
    prepare({"source": "parquet", "path": str(logs)}, folder / "prepare")
    return Dataset(folder / "prepare")


def tiny_config(workspace: Path, registry: Path, store_url: str) -> PipelineConfig:
    """Write the logs under a workspace and return the config of a whole pipeline over them.

    Two models: `star` (JRC, both interest modules with a search and with mass) and `pepnet` (BCE).
    """
    logs = write_logs(workspace / "logs")
    fit = {"epochs": 2, "batch_rows": 256, "embedding_learning_rate": 0.02, "dense_learning_rate": 0.01}
    common: dict[str, Any] = {"embedding_width": 4, "fit": fit}
    short_term = {"name": "short_term", "heads": 1, "head_width": 4, "out_width": 4}
    return PipelineConfig.model_validate(
        {
            "workspace": str(workspace),
            "dataset": {"source": "parquet", "path": str(logs)},
            "vocabulary": {"min_count": 1, "buckets_count": 4},
            "embed": {"backbone": {"name": "star", "hidden": [8]}, "interests": [short_term], **common},
            "history": {
                "first_snapshot_days": FIRST_SNAPSHOT_DAYS,
                "snapshot_every_days": SNAPSHOT_EVERY_DAYS,
            },
            "models": {
                "star": {
                    "backbone": {"name": "star", "hidden": [8, 4], "auxiliary_width": 4, "domain_width": 2},
                    "interests": [
                        {"name": "twin_v2", "heads": 2, "head_width": 4, "out_width": 4, "keep": 8},
                        {**short_term, "mass": True},
                    ],
                    "losses": {"click": {"name": "jrc"}},
                    **common,
                },
                "pepnet": {
                    "backbone": {
                        "name": "pepnet",
                        "hidden": [8],
                        "gate_hidden": 4,
                        "tower_gate_hidden": 4,
                        "domain_width": 2,
                    },
                    "interests": [{"name": "twin_v2", "heads": 2, "head_width": 4, "out_width": 4}],
                    **common,
                },
            },
            "verify_rows": 500,
            "publish": {"registry": str(registry), "store": store_url},
        }
    )


def _description() -> dict[str, Any]:
    def day(days: int) -> str:
        return (START + timedelta(days=days)).isoformat()

    return {
        "name": "synthetic",
        "files": {"users": "users.parquet", "items": "items.parquet"},
        "domains": list(DOMAINS),
        "tasks": [{"name": "click"}, {"name": "buy", "given": "click", "matures_after_days": 2}],
        "features": {
            "user": {"country": "categorical", "years": "numeric"},
            "context": {"device": "categorical"},
            "candidate": {"position": "numeric"},
            "item": {"category": "categorical", "price": "numeric"},
        },
        "splits": {
            "train_end": day(TRAIN_END_DAYS),
            "validation_end": day(VALIDATION_END_DAYS),
            "end": day(END_DAYS),
        },
        "sampling": {"description": "by rule", "negatives_per_request": CANDIDATES_COUNT - 1},
    }


def _exposures(rng: np.random.Generator) -> pl.DataFrame:
    """Every visit has a request in one domain; every third has a second request, in the next domain.

    A request has one candidate of the category clicked in it, unless it is the user's fourth, eighth, …
    Request numbers are dealt at random, so that their order is not that of time.
    """
    requests: list[tuple[int, int, int]] = []  # user, domain, at_ms
    for user in range(USERS_COUNT):
        for visit in range(VISITS_PER_USER):
            hours = 24 * 6 * visit + user + 1
            at_ms = START_MS + hours * 3600 * 1000
            requests.append((user, (user + visit) % 3, at_ms))
            if visit % 3 == 0:
                requests.append((user, (user + visit + 1) % 3, at_ms))
    numbers = rng.permutation(len(requests)) + 1000
    rows: list[dict[str, object]] = []
    for place, (number, (user, domain, at_ms)) in enumerate(zip(numbers, requests, strict=True)):
        liked = [i for i in range(ITEMS_COUNT) if clicks(user, i, domain)]
        others = [i for i in range(ITEMS_COUNT) if not clicks(user, i, domain)]
        positives = 0 if place % 4 == 3 else 1
        chosen = [
            *rng.choice(liked, positives, replace=False),
            *rng.choice(others, CANDIDATES_COUNT - positives, replace=False),
        ]
        device = (None, "phone", "tv")[int(rng.integers(3))]
        for position, item in enumerate(int(i) for i in rng.permutation(chosen)):
            rows.append(
                {
                    "request_id": int(number),
                    "user_id": user_id(user),
                    "item_id": item_id(item),
                    "domain": DOMAINS[domain],
                    "shown_at_ms": at_ms,
                    "keep_probability": KEEP_PROBABILITY,
                    "click": int(clicks(user, item, domain)),
                    "buy": int(buys(user, item, domain)),
                    "device": device,
                    "position": float(position),
                }
            )
    return pl.DataFrame(rows)


def _behaviors(rng: np.random.Generator) -> pl.DataFrame:
    """Each user's behaviors, evenly over the days, on the items that the user clicks in `home`."""
    rows: list[dict[str, object]] = []
    for user in range(USERS_COUNT):
        liked = [i for i in range(ITEMS_COUNT) if clicks(user, i, 0)]
        count = behaviors_count(user)
        for number in range(count):
            at_ms = START_MS + (number * END_DAYS * DAY_MS) // max(1, count)
            rows.append(
                {
                    "user_id": user_id(user),
                    "item_id": item_id(int(rng.choice(liked))),
                    "at_ms": at_ms,
                    "strength": float(rng.choice([0.1, 0.3, 0.5, 0.9, 1.0])),
                }
            )
    return pl.DataFrame(rows)
