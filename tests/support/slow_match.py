"""Match statistics by their definition: a list of the ages of all behaviors that match, and nothing clever."""

from __future__ import annotations

from collections.abc import Sequence

from service.contract.features import FeatureEncoder, FeatureSpec

DAY_S = 86_400


def statistics_of(ages_s: Sequence[int]) -> dict[str, float | None]:
    """Return each statistic of the behaviors that match, from their ages in seconds; None is unknown."""
    return {"count": float(len(ages_s)), "days": min(ages_s) / DAY_S if ages_s else None}


def level_and_statistic(feature: FeatureSpec) -> tuple[str, str]:
    """Return what a match feature is of, by its name."""
    name = feature.name.removeprefix("match_")
    statistic = next(s for s in statistics_of(()) if name.endswith(f"_{s}"))
    return name.removesuffix(f"_{statistic}"), statistic


def slow_match_id(feature: FeatureSpec, ages_s: Sequence[int]) -> int:
    """Return the id of a match feature, from the ages of the behaviors that match at its level."""
    return FeatureEncoder(feature).encode(statistics_of(ages_s)[level_and_statistic(feature)[1]])
