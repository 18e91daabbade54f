"""Calibration by users' activity: the plot, and what activity is in reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.dataset import Dataset
from training.metrics.activity import DECILES_COUNT, ActivityRow
from training.metrics.evaluate import ALL_DOMAINS


def behaviors_before(dataset: Dataset, users: Sequence[str], at_ms: int) -> npt.NDArray[np.int64]:
    """Return how many behaviors each user had before a moment, (U,); those of the moment itself do not count."""
    counts = dataset.behaviors.filter(pl.col("at_ms") < at_ms).group_by("user_id").len("behaviors")
    table = pl.DataFrame({"user_id": list(users)}, schema={"user_id": pl.String})
    found = table.join(counts, on="user_id", how="left", maintain_order="left")["behaviors"]
    return found.fill_null(0).to_numpy().astype(np.int64)


def plot_activity(
    path: Path, systems: Mapping[str, Sequence[ActivityRow]], *, task: str, domain_names: Sequence[str]
) -> None:
    """Write PCOC above and ECE below, by decile of users: a column for all domains and each, a line a system."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, rc_context

    names = (ALL_DOMAINS, *domain_names)
    figure, panels = pyplot.subplots(2, len(names), figsize=(3.0 * len(names), 5.2), squeeze=False)
    for label, rows in systems.items():
        for column, name in enumerate(names):
            own = [row for row in rows if (row.domain, row.task) == (name, task)]
            deciles = [row.decile for row in own]
            for panel, fact in zip(panels[:, column], ("pcoc", "ece"), strict=True):
                values = [getattr(row, fact) for row in own]
                shown = [np.nan if value is None else value for value in values]
                panel.plot(deciles, shown, ".-", label=label, linewidth=0.9)
    for column, name in enumerate(names):
        panels[0][column].axhline(1, color="grey", linewidth=0.8)
        panels[0][column].set_title(name, fontsize=9)
        panels[1][column].set(xlabel="decile of users, least active first")
        for panel in panels[:, column]:
            panel.set_xlim(0.5, DECILES_COUNT + 0.5)
    panels[0][0].set_ylabel(f"PCOC of {task}")
    panels[1][0].set_ylabel(f"ECE of {task}")
    panels[0][0].legend(fontsize=6)
    figure.tight_layout()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "activity"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=110, metadata=metadata)
    pyplot.close(figure)
