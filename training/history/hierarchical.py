"""TWIN-V2 clustering: one user's behaviors into small groups of like items and like strength.

Knows nothing of time, of what becomes of a cluster, or of where item vectors come from.

Source:
    TWIN V2, arXiv:2407.16357, offline part. Differs, where the paper leaves it open: strength groups by
    fixed edges; ten Lloyd iterations from one k-means++ start; at least two parts a split; behaviors that
    k-means cannot tell apart are cut in the order given.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from service.contract.history import F32, I64, U16, quantize_strength
from training.history.options import SnapshotOptions


def cluster_behaviors(vectors: F32, strength: U16, *, options: SnapshotOptions) -> I64:
    """Return the cluster of each behavior, numbered from 0 along the tree of splits: what was split last lies side
    by side, and all of one strength group does.

    The same input gives the same clusters in every process: randomness is seeded per call.

    Shapes:
        vectors: (L, D) the item's vector of each behavior, finite; behaviors in a stable order, oldest first.
        strength: (L,) fixed point.
        returns: (L,).

    Raises:
        ValueError: the lengths differ or a vector is not finite.
    """
    if len(vectors) != len(strength):
        raise ValueError(f"{len(vectors)} vectors for {len(strength)} strengths")
    if not np.isfinite(vectors).all():
        raise ValueError("a behavior's item vector is not finite")
    group = strength_groups(strength, options)
    labels = np.zeros(len(vectors), np.int64)
    clusters = [
        cluster
        for g in range(len(options.strength_edges) + 1)
        for cluster in _cluster_group(vectors, np.flatnonzero(group == g), options)
    ]
    for number, members in enumerate(clusters):
        labels[members] = number
    return labels


def strength_groups(strength: U16, options: SnapshotOptions) -> I64:
    """Return each behavior's strength group, 0 to the number of edges.

    Shapes:
        strength: (L,) fixed point.
        returns: (L,).
    """
    edges = quantize_strength(options.strength_edges)
    return np.searchsorted(edges, strength, side="right").astype(np.int64)


def _cluster_group(vectors: F32, members: I64, options: SnapshotOptions) -> list[I64]:
    """Return the clusters of one strength group, each as rising indices into `vectors`."""
    random = np.random.default_rng(options.seed)
    clusters: list[I64] = []
    waiting = [members] if len(members) else []
    while waiting:
        part = waiting.pop()
        if len(part) <= options.max_cluster_size:
            clusters.append(part)
            continue
        smaller = _split(vectors[part], options, random)
        if len(smaller) == 1:  # k-means cannot tell them apart, and would be asked for ever
            size = options.max_cluster_size
            clusters += [part[i : i + size] for i in range(0, len(part), size)]
        else:
            waiting += [part[chosen] for chosen in smaller]
    return clusters


def _split(vectors: F32, options: SnapshotOptions, random: np.random.Generator) -> list[I64]:
    """Return the non-empty parts of one k-means split, as indices into `vectors`."""
    if (vectors == vectors[0]).all():
        return [np.arange(len(vectors))]
    parts_count = split_parts_count(len(vectors), options.split_exponent)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # Fewer distinct vectors than parts: k-means++ divides by 0 and leaves parts empty. Both are harmless.
        warnings.simplefilter("ignore", UserWarning)
        _, part = kmeans2(
            vectors, parts_count, iter=options.kmeans_iterations, minit="++", rng=random, check_finite=False
        )
    return [chosen for p in range(parts_count) if len(chosen := np.flatnonzero(part == p))]


def split_parts_count(size: int, exponent: float) -> int:
    """Return into how many parts a cluster is split: ⌊size^exponent⌋, 2 at least."""
    parts: float = size**exponent
    return max(2, math.floor(parts + 1e-9))  # 1024^.3 is 8, and 7.999… in floats


def medoids(vectors: F32, labels: npt.NDArray[np.int64]) -> I64:
    """Return each cluster's member nearest to its centroid; of equally near ones the last.

    Shapes:
        vectors: (L, D); labels: (L,) every number from 0 to C − 1 at least once.
        returns: (C,) indices into L.
    """
    order = np.argsort(labels, kind="stable")
    label = labels[order]
    member = vectors[order].astype(np.float64)
    starts = np.searchsorted(label, np.arange(label[-1] + 1 if len(label) else 0))
    if len(starts) == 0:
        return np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, len(label)))
    centroids = np.add.reduceat(member, starts, axis=0) / sizes[:, None]
    distance = np.square(member - centroids[label]).sum(1)
    nearest_first = np.lexsort((-order, distance, label))
    return order[nearest_first[starts]]
