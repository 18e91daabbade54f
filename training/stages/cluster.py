"""cluster: every user's life cycle as TWIN-V2 clusters, at every snapshot moment."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from service.contract.history import Snapshot
from training.data.encoded import behaviors_by_user
from training.history.snapshots import make_snapshots
from training.history.storage import write_snapshots
from training.progress import Progress
from training.workbench import ITEM_VECTORS_FILE, SNAPSHOTS_FILE, Workbench


def run(bench: Workbench, out: Path, progress: Progress) -> dict[str, object]:
    """Cluster all users and write their snapshots."""
    vectors = np.load(bench.done("embed") / ITEM_VECTORS_FILE, allow_pickle=False)
    users = sorted(behaviors_by_user(bench.dataset).items())
    moments = [int(at_ms) for at_ms in bench.snapshot_moments_ms]
    totals = Counter[str]()

    def counted() -> Iterator[tuple[str, int, Snapshot]]:
        with progress.task("cluster users", total=len(users)) as advance:
            for user, at_ms, snapshot in make_snapshots(
                users,
                vectors,
                moments,
                options=bench.config.history.snapshots,
                n_jobs=os.cpu_count() or 1,
                progress=advance,
            ):
                if at_ms == moments[-1]:
                    totals["users"] += 1
                    totals["clusters"] += len(snapshot.item)
                    totals["behaviors"] += int(snapshot.size.sum())
                yield user, at_ms, snapshot

    count = write_snapshots(out / SNAPSHOTS_FILE, counted())
    return {
        "users": len(users),
        "moments": len(moments),
        "snapshots": count,
        "clusters_per_user": round(totals["clusters"] / max(1, totals["users"]), 1),
        "behaviors_per_cluster": round(totals["behaviors"] / max(1, totals["clusters"]), 1),
    }
