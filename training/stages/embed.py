"""embed: item vectors from a short-term-only model fitted on what lies before the first snapshot.

No row fitted here has a clustered history, so no vector has seen the label of a row whose history it groups.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from training.fit import count_parameters, fit
from training.model import CtrModel
from training.progress import Progress
from training.stages.train import build_model, check_visits
from training.task_losses import TaskLosses
from training.workbench import ITEM_VECTORS_FILE, Workbench


def run(bench: Workbench, out: Path, progress: Progress) -> dict[str, object]:
    """Fit the model of `embed:` and write its item embeddings, (I, D) float32, row 0 the cold-start item."""
    config = bench.config.embed
    first_snapshot_ms = int(bench.snapshot_moments_ms[0])
    data = bench.encode(bench.features_of(config), lambda user, at_ms: None, progress)
    visits = data.visits_of("train", before_ms=first_snapshot_ms)
    check_visits(visits, "no exposures lie before the first snapshot: raise history.first_snapshot_days")
    losses = TaskLosses(config, bench.tasks_of(config))
    model = build_model(bench, config, data, losses)
    report = fit(
        model,
        losses,
        data,
        config=config.fit,
        train_visits=visits,
        validation_visits=visits[:0],
        boundaries_ms=bench.snapshot_moments_ms,
        progress=progress,
    )
    np.save(out / ITEM_VECTORS_FILE, item_vectors(model))
    return {
        "rows": len(data.rows_of(visits)),
        "parameters": count_parameters(model),
        "rows_per_second": round(report.epochs[-1].rows_per_second),
    }


def item_vectors(model: CtrModel) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return each item's embedding at unit length, (I, D), so that no item is far from all for its size."""
    with torch.inference_mode():
        embedding = model.embed_items(torch.arange(len(model.item_ids)))
        vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]] = torch.nn.functional.normalize(
            embedding, dim=-1
        ).numpy()
        return vectors
