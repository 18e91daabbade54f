"""Bad rows: what a row must be, and where the ones are that are not.

Each rule is an expression that is true on bad rows. A row is reported once, for the first rule it breaks.
Knows nothing of how rows are read or written, nor of what is done with bad ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from service.contract.catalogue import check_item_id
from service.contract.errors import CatalogueError
from training.data.columns import WRONG_LABEL
from training.data.dataset import DatasetTask
from training.data.errors import BadRow

BAD_ROW_SCHEMA: Final = {"file": pl.String, "row": pl.Int64, "column": pl.String, "reason": pl.String}


@dataclass(frozen=True, slots=True)
class Rule:
    """What is wrong with a row where `bad` is true. A null is not true."""

    column: str
    reason: str
    bad: pl.Expr


def find_bad_rows(frame: pl.DataFrame, stages: Sequence[Sequence[Rule]], *, file: str) -> pl.DataFrame:
    """Return where a table's rows are bad, in their order: BAD_ROW_SCHEMA.

    The rules of a stage see only rows that passed the stages before it, so that one bad value does not
    make its neighbours look bad.
    """
    rows = frame.with_row_index("_row")
    found: list[pl.DataFrame] = []
    for rules in stages:
        broken = pl.coalesce(
            *(pl.when(rule.bad).then(pl.lit(i, pl.Int32)) for i, rule in enumerate(rules)),
            pl.lit(None, pl.Int32),
        )
        rows = rows.with_columns(broken.alias("_broken"))
        bad = rows.filter(pl.col("_broken").is_not_null())
        if len(bad):
            found.append(_described(bad, rules, file=file))
            rows = rows.filter(pl.col("_broken").is_null())
    return pl.concat(found).sort("row") if found else pl.DataFrame(schema=BAD_ROW_SCHEMA)


def _described(bad: pl.DataFrame, rules: Sequence[Rule], *, file: str) -> pl.DataFrame:
    index = range(len(rules))
    return bad.select(
        pl.lit(file).alias("file"),
        pl.col("_row").cast(pl.Int64).alias("row"),
        pl.col("_broken")
        .replace_strict(index, [r.column for r in rules], return_dtype=pl.String)
        .alias("column"),
        pl.col("_broken")
        .replace_strict(index, [r.reason for r in rules], return_dtype=pl.String)
        .alias("reason"),
    )


def bad_rows_of(found: pl.DataFrame, limit: int) -> list[BadRow]:
    """Return the first few of the rows found, for a message."""
    return [BadRow(*row) for row in found.head(limit).iter_rows()]


def exposure_rules(
    frame: pl.DataFrame,
    *,
    domains: Iterable[str],
    tasks: Sequence[DatasetTask],
    context_features: Sequence[str],
    end_ms: int,
) -> list[list[Rule]]:
    """Return what exposures must be: each row by itself, then in its request, then in its user's time."""
    names = tuple(domains)
    by_itself = [
        Rule("request_id", "no request id, or out of the range of 64 bits", pl.col("request_id").is_null()),
        *_user_rules(),
        *_item_rules(frame),
        Rule(
            "domain", f"domain is none of {', '.join(names)}", ~pl.col("domain").is_in(names).fill_null(False)
        ),
        *_time_rules("shown_at_ms", end_ms),
        Rule(
            "keep_probability",
            "keep probability is not above 0 and at most 1",
            ~((pl.col("keep_probability") > 0) & (pl.col("keep_probability") <= 1)).fill_null(False),
        ),
        *(rule for task in tasks for rule in _label_rules(task)),
    ]
    constant = ("user_id", "domain", "shown_at_ms", "keep_probability", *context_features)
    in_request = [
        *(
            Rule(
                name,
                f"{name} differs within the request",
                pl.col(name).ne_missing(pl.col(name).first().over("request_id")),
            )
            for name in constant
        ),
        Rule(
            "request_id, item_id",
            "the request has this item already",
            ~pl.struct("request_id", "item_id").is_first_distinct(),
        ),
    ]
    return [by_itself, in_request, [_order_rule("shown_at_ms")]]


def behavior_rules(frame: pl.DataFrame, *, end_ms: int) -> list[list[Rule]]:
    """Return what behaviors must be: each row by itself, then in its user's time."""
    strength = pl.col("strength")
    weak = Rule(
        "strength",
        "strength is not a finite number of at least 0",
        ~(strength.is_finite() & (strength >= 0)).fill_null(False),
    )
    by_itself = [*_user_rules(), *_item_rules(frame), *_time_rules("at_ms", end_ms), weak]
    return [by_itself, [_order_rule("at_ms")]]


def user_rules() -> list[list[Rule]]:
    """Return what users must be."""
    return [
        _user_rules(),
        [Rule("user_id", "the user was listed before", ~pl.col("user_id").is_first_distinct())],
    ]


def item_rules(frame: pl.DataFrame) -> list[list[Rule]]:
    """Return what items must be."""
    return [
        _item_rules(frame),
        [Rule("item_id", "the item was listed before", ~pl.col("item_id").is_first_distinct())],
    ]


def _user_rules() -> list[Rule]:
    return [Rule("user_id", "no user id", pl.col("user_id").is_null() | (pl.col("user_id") == ""))]


def _item_rules(frame: pl.DataFrame) -> list[Rule]:
    refused = [item_id for item_id in frame["item_id"].unique().drop_nulls() if not _is_item_id(item_id)]
    return [
        Rule("item_id", "no item id", pl.col("item_id").is_null()),
        Rule(
            "item_id",
            "the item id is empty, too long, or not printable",
            pl.col("item_id").is_in(refused) if refused else pl.lit(False),
        ),
    ]


def _is_item_id(item_id: str) -> bool:
    try:
        check_item_id(item_id)
    except CatalogueError:
        return False
    return True


def _time_rules(name: str, end_ms: int) -> list[Rule]:
    return [
        Rule(name, "no time, or out of the range of 64 bits", pl.col(name).is_null()),
        Rule(name, "the time is before 1970", pl.col(name) < 0),
        Rule(name, "the time is not before the end of the data", pl.col(name) >= end_ms),
    ]


def _order_rule(name: str) -> Rule:
    going_back = pl.col(name) < pl.col(name).cum_max().over("user_id")
    return Rule(name, "the time goes back behind an earlier row of the same user", going_back)


def _label_rules(task: DatasetTask) -> list[Rule]:
    label = pl.col(task.name)
    rules = [Rule(task.name, "the label is not 0 or 1", label == WRONG_LABEL)]
    if task.given is None and task.matures_after_days == 0:
        rules.append(Rule(task.name, "the label is missing", label.is_null()))
    if task.given is not None:
        rules.append(
            Rule(
                task.name,
                f"the label is 1 where {task.given} is not",
                (label == 1) & (pl.col(task.given).ne_missing(1)),
            )
        )
    return rules
