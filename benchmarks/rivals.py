"""What a user would pick instead: gradient boosting on rich counts, and popularity, on a prepared dataset.

Both are fitted on the training rows of the first task and tuned on the validation rows, the very rows that the models
see. Popularity is tuned at the natural rate; of trees, how many there are, by the log-loss of the rows as sampled.
Knows nothing of how they are measured: `study_rivals.py` hands them to the study.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import lightgbm
import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.rival_counts import past_counts
from service.contract.features import Side
from training.data.dataset import Dataset
from training.metrics.natural import log_loss, natural_weights

F64 = npt.NDArray[np.float64]

PSEUDO_CLICKS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
TREES_MAX: Final = 2000
PATIENCE_TREES: Final = 50
PARAMETERS: Final = {
    "objective": "binary",
    "num_leaves": 127,
    "learning_rate": 0.06,
    "boost_from_average": False,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
_WEEK_MS: Final = 7 * 24 * 3600 * 1000

Say = Callable[[str], None]


def popularity(dataset: Dataset, say: Say) -> F64:
    """Return the probability of each exposure by its item's and domain's natural rate on training rows, (B,).

    The rate of an item in a domain is shrunk to the item's over all domains, and that to the domain's. An
    item's clicks are set against those expected of its exposures at the domains' rates. The strength of
    shrinking, in expected clicks, is the one of PSEUDO_CLICKS with the best log-loss on validation.
    """
    label = dataset.spec.tasks[0].name
    rows = dataset.exposures.select("item_id", "domain", "split", pl.col(label).alias("click")).with_columns(
        pl.Series("weight", natural_weights(dataset.exposures[label], dataset.exposures["keep_probability"]))
    )
    valid = (rows["split"] == "validation").to_numpy()
    found: list[tuple[float, float, F64]] = []
    for pseudo in PSEUDO_CLICKS:
        probability = _shrunk_rates(rows, pseudo)
        loss = log_loss(rows["click"].to_numpy()[valid], probability[valid], rows["weight"].to_numpy()[valid])
        found.append((np.inf if loss is None else loss, pseudo, probability))
    loss, pseudo, probability = min(found, key=lambda each: each[0])
    say(f"popularity: {pseudo} pseudo-clicks, validation log-loss {loss:.6f}")
    return probability


def _shrunk_rates(rows: pl.DataFrame, pseudo: float) -> F64:
    train = rows.filter(pl.col("split") == "train")
    overall = float(np.average(train["click"].to_numpy(), weights=train["weight"].to_numpy()))
    clicks, exposures = pl.col("click").sum(), pl.col("weight").sum()
    by_domain = train.group_by("domain").agg((clicks / exposures).alias("rate"))
    expected = train.join(by_domain, on="domain").with_columns(
        (pl.col("weight") * pl.col("rate")).alias("expected")
    )
    lift = (clicks + pseudo) / (pl.col("expected").sum() + pseudo)
    by_item = expected.group_by("item_id").agg(lift.alias("lift"))
    by_both = expected.group_by("item_id", "domain").agg(clicks, pl.col("expected").sum())
    by_both = by_both.join(by_item, on="item_id").select(
        "item_id",
        "domain",
        ((pl.col("click") + pseudo * pl.col("lift")) / (pl.col("expected") + pseudo)).alias("lift_here"),
    )
    placed = (
        rows.select("item_id", "domain")
        .join(by_domain, on="domain", how="left", maintain_order="left")
        .join(by_item, on="item_id", how="left", maintain_order="left")
        .join(by_both, on=["item_id", "domain"], how="left", maintain_order="left")
    )
    rate = pl.col("rate").fill_null(overall) * pl.coalesce("lift_here", "lift", 1.0)
    probability: F64 = placed.select(rate.clip(0.0, 1.0)).to_series().to_numpy()
    return probability


def boosted_trees(
    dataset: Dataset,
    say: Say,
    *,
    threads: int,
    candidate_features: bool,
    further: pl.DataFrame | None = None,
) -> F64:
    """Return the natural-rate probability of each exposure by LightGBM, (B,).

    −ln keep_probability is in each row's `init_score`, which LightGBM adds in fitting and not in predicting.
    Fitting starts from the natural rate, which must be added again: from 0 the first trees would have to make
    up seven units of logit where the loss is almost flat, and they diverge. `further` are columns beside the usual
    ones, a row an exposure.
    """
    label = dataset.spec.tasks[0].name
    features, categorical = _features(dataset, candidate_features=candidate_features)
    if further is not None:
        features = features.hstack(further)
    names = features.columns
    table = features.to_numpy()
    say(f"lightgbm: {len(table)} rows, {len(names)} features: {', '.join(names)}")
    click = dataset.exposures[label].to_numpy().astype(np.float32)
    split = dataset.exposures["split"].to_numpy()
    weight = natural_weights(click, dataset.exposures["keep_probability"])
    rate = float(np.average(click[split == "train"], weights=weight[split == "train"]))
    start = float(np.log(rate / (1.0 - rate)))
    offset = start - np.log(dataset.exposures["keep_probability"].to_numpy())
    sets: dict[str, lightgbm.Dataset] = {}
    for name in ("train", "validation"):
        chosen = split == name
        sets[name] = lightgbm.Dataset(
            table[chosen],
            click[chosen],
            init_score=offset[chosen],
            feature_name=names,
            categorical_feature=categorical,
            reference=sets.get("train"),
        )
    model = lightgbm.train(
        {**PARAMETERS, "num_threads": threads},
        sets["train"],
        num_boost_round=TREES_MAX,
        valid_sets=[sets["validation"]],
        callbacks=[
            lightgbm.early_stopping(PATIENCE_TREES, verbose=False),
            lambda env: (
                say(f"tree {env.iteration}: {env.evaluation_result_list[0][2]:.6f}")
                if env.iteration % 50 == 0
                else None
            ),
        ],
    )
    say(f"lightgbm: {model.best_iteration} trees")
    logit = start + np.asarray(model.predict(table, raw_score=True, num_threads=threads), np.float64)
    return 1.0 / (1.0 + np.exp(-logit))


def _features(dataset: Dataset, *, candidate_features: bool) -> tuple[pl.DataFrame, list[str]]:
    """Return one row an exposure (past counts, week, domain, context, attributes), and which are codes."""
    sides = [Side.CONTEXT, Side.ITEM, *([Side.CANDIDATE] if candidate_features else [])]
    declared = [feature for feature in dataset.spec.features_of(*sides) if feature.name != "item_id"]
    exposures = dataset.exposures.join(dataset.items, on="item_id", how="left", maintain_order="left")
    codes = ["domain", *(feature.name for feature in declared if feature.kind == "categorical")]
    numbers = [feature.name for feature in declared if feature.kind == "numeric"]
    start_ms = int(dataset.exposures["shown_at_ms"].min())  # type: ignore[arg-type]
    described = exposures.select(
        ((pl.col("shown_at_ms") - start_ms) // _WEEK_MS).alias("week").cast(pl.Float32),
        *((pl.col(name).rank("dense") - 1).cast(pl.Float32) for name in codes),
        *(pl.col(name).cast(pl.Float32) for name in numbers),
    )
    table = past_counts(dataset).hstack(described)
    return table.with_columns(pl.all().cast(pl.Float32).fill_null(float("nan"))), codes
