"""Semantic duplicates against semhash on the same embeddings, two cores: time, and recall against brute force.

    python tests/benchmarks/semantic_duplicates.py --corpus 'mixed/*.parquet' --peer-python peer/bin/python

The corpus is cut into passages of about 100 words; their embeddings are `hashed` ones, or those of --embeddings (.npy).
A document is a copy when the cosine with an earlier one is at least the threshold; recall is the share of the copies
that are dropped, measured on a random sample of the passages. Ours: k-means on a sample, assignment, and comparison
inside the clusters. The peer needs its own environment: pip install semhash==0.5.0. It gets the same float32 matrix,
and is stopped after --stop seconds.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}  # before NumPy: our threads are over clusters

import numpy as np
import pyarrow as pa
from dsir_against_data_selection import read_texts
from tamis.scoring.hashed_embedding import hashed_embeddings
from tamis.scoring.kmeans import fit_kmeans, nearest_centroids
from tamis.scoring.nearest_earlier import nearest_earlier, unit_length
from tamis.scoring.tokenizer import tokenize

WORDS = 100
PEER = """
import json, sys, time
import numpy as np
from semhash import SemHash
class NoModel:
    def encode(self, inputs, **kwargs): raise ValueError("the embeddings are given")
x = np.load(sys.argv[1])
records = [str(i) for i in range(len(x))]
start = time.perf_counter()
index = SemHash.from_embeddings(x, records, NoModel())
found = index.self_deduplicate(threshold=float(sys.argv[3]))
seconds = time.perf_counter() - start
kept = sorted(int(r) for r in found.selected)
json.dump({"seconds": seconds, "kept": kept}, open(sys.argv[2], "w"))
"""


def passages(text: pa.Array, wanted: int) -> pa.Array:
    """Cut texts at spaces into passages of about WORDS words."""
    found = []
    for one in text.to_pylist():
        words = one.split(" ")
        found += [" ".join(words[i : i + WORDS]) for i in range(0, len(words), WORDS) if len(words) - i > WORDS // 4]
        if len(found) >= wanted:
            break
    return pa.array(found[:wanted], pa.large_string())


def clusters_of(x: np.ndarray, clusters: int, sample: int) -> list[np.ndarray]:
    rows = np.sort(np.random.default_rng(0).permutation(len(x))[:sample])
    centroids = fit_kmeans(x[rows], clusters, True, 10, 1234)
    cluster = nearest_centroids(centroids, x).cluster
    order = np.argsort(cluster, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)


def ours(x: np.ndarray, clusters: int, sample: int, threshold: float) -> tuple[np.ndarray, float, float]:
    """Which documents are dropped, and the seconds of clustering and of comparing."""
    start = time.perf_counter()
    members = clusters_of(x, clusters, sample)
    middle = time.perf_counter()
    dropped = np.zeros(len(x), bool)

    def compare(rows: np.ndarray) -> None:
        similarity, _ = nearest_earlier(unit_length(x[rows]))
        dropped[rows[similarity >= threshold]] = True

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compare, members))
    return dropped, middle - start, time.perf_counter() - middle


def brute_force(x: np.ndarray, rows: np.ndarray, threshold: float, block: int = 2048) -> np.ndarray:
    """Which of some documents are near any earlier one; rows: ascending."""
    near = np.zeros(len(rows), bool)

    def compare(start: int) -> None:
        chosen = rows[start : start + block]
        for first in range(0, int(chosen[-1]), block):
            products = x[chosen] @ x[first : first + block].T
            products[chosen[:, None] <= np.arange(first, first + products.shape[1])] = -1
            near[start : start + block] |= (products >= threshold).any(1)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compare, range(0, len(rows), block)))
    return near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="glob of Parquet files")
    parser.add_argument("--embeddings", help="a matrix of float32, .npy, instead")
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--clusters", type=int, nargs="*", default=[200])
    parser.add_argument("--sample", type=int, default=25_600)
    parser.add_argument("--compared", type=int, default=20_000, help="passages of which recall is measured")
    parser.add_argument("--peer-python", help="interpreter that has semhash")
    parser.add_argument("--stop", type=float, default=600, help="seconds after which the peer is stopped")
    options = parser.parse_args()
    if options.embeddings:
        x = unit_length(np.load(options.embeddings))[: options.passages]
    else:
        text = passages(read_texts(options.corpus, "text", 1 << 40), options.passages)
        x = unit_length(hashed_embeddings(tokenize(text), 1, 256))
    print(f"{len(x)} passages, {x.shape[1]} dimensions, cosine {options.threshold}")
    start = time.perf_counter()
    rows = np.sort(np.random.default_rng(1).permutation(len(x))[: options.compared])
    truth = rows[brute_force(x, rows, options.threshold)]
    seconds = time.perf_counter() - start
    print(f"brute force for {len(rows)} passages: {seconds:.1f} s, {len(truth)} of them are copies", flush=True)
    peer = None
    if options.peer_python:
        with tempfile.TemporaryDirectory() as folder:
            matrix, result = Path(folder, "x.npy"), Path(folder, "result.json")
            np.save(matrix, x)
            command = [options.peer_python, "-c", PEER, matrix, result, str(options.threshold)]
            try:
                done = subprocess.run(command, text=True, capture_output=True, timeout=options.stop)
            except subprocess.TimeoutExpired:
                print(f"semhash: stopped after {options.stop:.0f} s")
            else:
                if done.returncode:
                    raise SystemExit(f"the peer failed: {done.stderr[-2000:]}")
                content = json.loads(result.read_text())
                peer = content["seconds"]
                gone = np.ones(len(x), bool)
                gone[content["kept"]] = False
                print(f"semhash: {peer:.1f} s, {gone.sum()} dropped, recall {gone[truth].mean():.4f}", flush=True)
    for clusters in options.clusters:
        dropped, clustering, comparing = ours(x, clusters, options.sample, options.threshold)
        whole = clustering + comparing
        faster = "" if peer is None else f", {peer / whole:.1f}x as fast as semhash"
        parts = f"{clustering:.2f} clustering, {comparing:.2f} comparing"
        told = f"{dropped.sum()} dropped, recall {dropped[truth].mean():.4f}{faster}"
        print(f"ours, {clusters} clusters: {whole:.2f} s ({parts}), {told}", flush=True)


if __name__ == "__main__":
    main()
