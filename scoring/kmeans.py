"""k-means on FAISS: centroids from a sample, and the two nearest centroids of vectors, block by block."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import RecipeError
from .vectors import widened

BLOCK = 4096
"""Vectors that are compared with the centroids at a time: 4 bytes each a dimension."""

TWO_LEVELS = 8192
"""Clusters from which on centroids are found in two levels, by default."""

PROBES = 16
"""First-level clusters whose centroids a vector is compared with, in two levels."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Centroids:
    """What k-means found.

    centroids: float32[k, d], of length one where spherical; coarse: float32[c, d], the first of two levels, c = 0 for
    one level.
    """

    centroids: Float32
    coarse: Float32
    spherical: bool

    def __len__(self) -> int:
        return len(self.centroids)


class Nearest(NamedTuple):
    """The nearest centroids of n vectors.

    cluster: int32[n]; distance, second: float32[n], to the nearest and to the second nearest centroid: 1 - cosine where
    spherical, else Euclidean. second is NaN where no second centroid was looked at.
    """

    cluster: NDArray[np.int32]
    distance: Float32
    second: Float32


def require_faiss() -> None:
    """Raise RecipeError when FAISS is not installed."""
    if importlib.util.find_spec("faiss") is None:
        raise RecipeError("faiss cannot be imported; pip install 'tamis[cluster]'", place="scorer")


def fit_kmeans(
    vectors: NDArray[np.floating],
    clusters: int,
    spherical: bool = True,
    iterations: int = 25,
    seed: int = 1234,
    two_levels: bool | None = None,
    gpu: bool = False,
) -> Centroids:
    """Find centroids by Lloyd's iterations.

    In two levels, about sqrt(k) clusters are found first, and in each of them a share of the k that goes by its size:
    about 2 n d sqrt(k) operations an iteration instead of n d k. Memory: 4 bytes a dimension and vector, beside what
    is given.

    Args:
        vectors: float16 or float32 [n, d], of length one where spherical; a cluster that gets none takes half of
            another.
        clusters: k; where there are fewer vectors, as many as these.
        spherical: centroids are brought to length one, and compared by the inner product.
        iterations: of each level.
        seed: of the choice of the first centroids.
        two_levels: default: from TWO_LEVELS clusters on.
        gpu: compute on all GPUs.

    Raises:
        ValueError: there is no vector.

    Source: FAISS (https://arxiv.org/abs/2401.08281), its `Kmeans`; spherical k-means with 100 iterations and seed 1234
        is SemDeDup's (https://arxiv.org/abs/2303.09540).
    """
    if not len(vectors):
        raise ValueError("no vector to find clusters in")
    x = widened(vectors)
    k = min(clusters, len(x))
    if k < 4 or not (k >= TWO_LEVELS if two_levels is None else two_levels):
        return Centroids(_train(x, k, spherical, iterations, seed, gpu), x[:0], spherical)
    coarse = _train(x, round(np.sqrt(k)), spherical, iterations, seed, gpu)
    cluster = nearest_centroids(Centroids(coarse, coarse[:0], spherical), x).cluster
    sizes = np.bincount(cluster, minlength=len(coarse))
    parts = [
        _train(np.ascontiguousarray(x[cluster == c]), share, spherical, iterations, seed, gpu)
        for c, share in enumerate(_shares(sizes, k).tolist())
        if share
    ]
    return Centroids(np.concatenate(parts), coarse[sizes > 0], spherical)


def _shares(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Split a total in proportion, at least one for what is not empty and never above a size: largest remainders."""
    wanted = sizes * (total / sizes.sum())
    shares = np.clip(wanted.astype(np.int64), np.minimum(sizes, 1), sizes)
    while (left := total - int(shares.sum())) != 0:
        room = shares < sizes if left > 0 else shares > 1
        order = np.argsort(np.where(room, (shares - wanted) * np.sign(left), np.inf), kind="stable")
        chosen = order[: min(abs(left), np.count_nonzero(room))]
        if not len(chosen):  # fewer than there are first-level clusters
            break
        shares[chosen] += np.sign(left)
    return shares


def _train(x: Float32, k: int, spherical: bool, iterations: int, seed: int, gpu: bool) -> Float32:
    """Return float32[k, d] centroids of float32[n, d], n >= k; all vectors are used."""
    import faiss

    if k == len(x):
        return x.copy()
    kmeans = faiss.Kmeans(
        x.shape[1],
        k,
        niter=iterations,
        seed=seed,
        spherical=spherical,
        gpu=gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=-(-len(x) // k),  # the caller has sampled
    )
    kmeans.train(x)
    centroids: Float32 = np.ascontiguousarray(kmeans.centroids, np.float32).reshape(k, -1)
    return centroids


def nearest_centroids(
    centroids: Centroids, vectors: NDArray[np.floating], gpu: bool = False, index: Any = None
) -> Nearest:
    """Find the two nearest centroids of each vector; of equally near ones the one of the smaller number.

    Distances are computed again from the vectors found, in one order, so that they do not depend on the blocks.
    Memory: BLOCK vectors of 4 bytes a dimension. In two levels, vectors are compared with the centroids of the PROBES
    nearest first-level clusters.

    Args:
        centroids: k of them.
        vectors: float16 or float32 [n, d].
        gpu: compute on all GPUs.
        index: of `centroid_index`, to be used again; default: a new one.
    """
    n, k = len(vectors), len(centroids)
    index = centroid_index(centroids, gpu) if index is None else index
    nearest = Nearest(np.zeros(n, np.int32), np.zeros(n, np.float32), np.full(n, np.nan, np.float32))
    wide = np.empty((min(n, BLOCK), vectors.shape[1]), np.float32)
    for start in range(0, n, BLOCK):
        part = [array[start : start + BLOCK] for array in nearest]
        block = widened(vectors[start : start + BLOCK], wide[: len(part[0])])
        _, found = index.search(block, min(k, 2))
        _distances(block, centroids.centroids, found, centroids.spherical, *part)
    return nearest


def centroid_index(centroids: Centroids, gpu: bool = False) -> Any:
    """Return a FAISS index of centroids."""
    import faiss

    d = centroids.centroids.shape[1]
    metric = faiss.METRIC_INNER_PRODUCT if centroids.spherical else faiss.METRIC_L2
    index: Any = faiss.IndexFlat(d, metric)
    if len(centroids.coarse):
        index.add(centroids.coarse)
        index = faiss.IndexIVFFlat(index, d, len(centroids.coarse), metric)
        index.nprobe = min(PROBES, len(centroids.coarse))
        index.is_trained = True
    index.add(centroids.centroids)
    return faiss.index_cpu_to_all_gpus(index) if gpu else index


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS compute on the calling thread alone: workers are Tamis' threads, one for each core."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # of this thread's calls only
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def gpus() -> int:
    """Return how many GPUs FAISS can use; 0 for its CPU package."""
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _distance(x: Any, centroid: Any, spherical: Any) -> Any:
    total = np.float32(0.0)
    if spherical:
        for j in range(x.size):
            total += x[j] * centroid[j]
        return max(np.float32(1.0) - total, np.float32(0.0))
    for j in range(x.size):
        total += (x[j] - centroid[j]) * (x[j] - centroid[j])
    return np.sqrt(total)


@numba.njit(nogil=True, cache=True)
def _distances(x: Any, centroids: Any, found: Any, spherical: Any, cluster: Any, distance: Any, second: Any) -> None:
    """Fill the results from the numbers of up to two centroids each, -1 where there is none."""
    for i in range(len(x)):
        first = found[i, 0]
        cluster[i], distance[i] = first, _distance(x[i], centroids[first], spherical)
        if found.shape[1] > 1 and found[i, 1] >= 0:
            other = found[i, 1]
            there = _distance(x[i], centroids[other], spherical)
            if there < distance[i] or (there == distance[i] and other < first):
                cluster[i], distance[i], there = other, there, distance[i]
            second[i] = there
