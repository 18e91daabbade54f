"""Reliability diagrams: predicted against observed, per domain and task, on log scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.encoded import EncodedData
from training.metrics.natural import natural_weights, reliability
from training.workbench import Workbench


def plot_reliability(
    out: Path,
    bench: Workbench,
    data: EncodedData,
    visits: np.ndarray[tuple[int], np.dtype[np.int64]],
    p: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    """Write `reliability.png`: a panel per task, a line per domain, 20 bins of equal natural mass each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = data.rows_of(visits)
    labels, domain = data.labels[rows], data.domain[data.row_request[rows]]
    weights = natural_weights(labels[:, 0], data.keep_probability[rows])
    figure, panels = pyplot.subplots(1, len(bench.tasks), figsize=(4 * len(bench.tasks), 4), squeeze=False)
    for t, (task, panel) in enumerate(zip(bench.tasks, panels[0], strict=True)):
        for d, name in enumerate(bench.dataset.spec.domains):
            chosen = (domain == d) & ~np.isnan(labels[:, t])
            table = reliability(labels[chosen, t], p[chosen, t], weights[chosen])
            shown = (table.observed_rate > 0) & (table.mean_probability > 0)
            panel.plot(
                table.mean_probability[shown], table.observed_rate[shown], "o-", label=name, markersize=3
            )
        panel.axline((1e-3, 1e-3), (1e-2, 1e-2), color="grey", linewidth=0.8)
        panel.set(title=task.name, xlabel="predicted", ylabel="observed", xscale="log", yscale="log")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(out / "reliability.png", dpi=110)
    pyplot.close(figure)
