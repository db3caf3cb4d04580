"""k-means of the scorer `clusters` against FAISS called directly, on the same numbers and threads; FAISS gets float32.

    python tests/benchmarks/kmeans_against_faiss.py --documents 40000 --clusters 500

Both sides fit and assign in turn, several times; given are medians. Ours also finds the distance to the second nearest
centroid, so FAISS is asked for one and for two. Seconds are those of all cores, which a busy machine disturbs less.
With --memory, vectors are assigned as a stream, ever more of them, and the peak of memory is given.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
from numpy.typing import NDArray
from tamis.connectors import memory
from tamis.scoring.kmeans import BLOCK, centroid_index, fit_kmeans, nearest_centroids
from tamis.scoring.vectors import widened


def vectors_like_text(n: int, d: int) -> NDArray[np.float32]:
    """Unit vectors around 200 centres of unequal weight."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, d)).astype(np.float32)
    of = rng.choice(200, n, p=(w := 1 / np.arange(1, 201)) / w.sum())
    vectors = centres[of] + 1.5 * rng.normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def busy(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(options: argparse.Namespace, spherical: bool) -> None:
    stored = vectors_like_text(options.documents, options.dimension).astype(np.float16)
    x = stored.astype(np.float32)
    k, d = options.clusters, options.dimension
    wide = np.empty((BLOCK, d), np.float32)
    kmeans = faiss.Kmeans(d, k, niter=25, spherical=spherical, max_points_per_centroid=10**9)
    found = fit_kmeans(x, k, spherical)
    index = centroid_index(found)
    nearest_centroids(found, x[:100])  # compiles
    sides = {
        "FAISS fits": lambda: kmeans.train(x),
        "ours fits": lambda: fit_kmeans(stored, k, spherical),
        "FAISS assigns": lambda: kmeans.index.search(x, 1),
        "FAISS assigns, two nearest": lambda: kmeans.index.search(x, 2),
        "ours assigns": lambda: nearest_centroids(found, stored, index=index),
        "widening": lambda: [widened(stored[s : s + BLOCK], wide[: len(x) - s]) for s in range(0, len(x), BLOCK)],
    }
    seconds = {name: [] for name in sides}
    for _ in range(options.times):
        for name, work in sides.items():
            seconds[name].append(busy(work))
    median = {name: statistics.median(times) for name, times in seconds.items()}
    fit, one, two = (median[f"FAISS {name}"] for name in ("fits", "assigns", "assigns, two nearest"))
    ours_fit, ours_assign = median["ours fits"], median["ours assigns"]
    print(f"{'spherical' if spherical else 'Euclidean'}: {options.documents:,} x {d}, {k:,} clusters")
    print(f"  fit: {ours_fit:.2f} s, {ours_fit / fit:.2f} of FAISS")
    print(
        f"  assignment: {ours_assign:.3f} s, {ours_assign / one:.2f} of FAISS, {ours_assign / two:.2f} with two nearest"
    )
    wide, second = median["widening"] / one, two / one - 1
    rest = ours_assign / one - 1 - wide - second
    print(f"  more than FAISS: float16 made wide {wide:.2f}, the second nearest {second:.2f}, distances {rest:.2f}")
    print(f"  both: {(ours_fit + ours_assign) / (fit + one):.2f} of FAISS")


def stream(options: argparse.Namespace) -> None:
    x = vectors_like_text(65_536, options.dimension).astype(np.float16)
    found = fit_kmeans(x[:20_000], options.clusters, iterations=3)
    index = centroid_index(found)
    for shards in (1, 10, 50):
        memory.forget_peak()
        before = memory.resident_bytes() or 0
        for _ in range(shards):
            nearest_centroids(found, x, index=index)
        print(f"{shards * len(x):,} vectors: {((memory.peak_bytes() or 0) - before) / 1e6:.0f} MB more at the peak")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    if options.memory:
        stream(options)
        return
    for spherical in (True, False):
        compare(options, spherical)


if __name__ == "__main__":
    main()
