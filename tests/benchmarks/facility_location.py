"""Facility location against apricot-select and submodlib: time, and the value of what is picked.

    python tests/benchmarks/facility_location.py --corpus 'corpus/*.parquet' --documents 20000 --budget 2000 \
        --peer-python peer/bin/python
    python tests/benchmarks/facility_location.py --corpus 'corpus/*.parquet' --documents 200000 --words 100

Both peers have an environment of their own: pip install apricot-select submodlib-py. Time is that from vectors in
memory to picks: the graph of nearest neighbours (or the peer's matrix of similarities) included, start-up and the
compilation of kernels not; beside it that of all cores together, which a busy machine disturbs less. The value is the
sum over all documents of the greatest similarity to a picked one, by all pairs. Without --peer-python, only ours runs.
It also picks in two rounds, as the step `cover` does with a cluster of more than so many documents, and says what that
costs in value; and what k-center loses then, as the ratio of the greatest distances that remain.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dsir_against_data_selection import read_texts
from numpy.typing import NDArray
from tamis.connectors import memory
from tamis.scoring.hashed_embedding import hashed_embeddings
from tamis.scoring.neighbours import neighbour_graph
from tamis.scoring.tokenizer import tokenize
from tamis.selectors import in_cluster
from tamis.selectors.facility_location import FacilityLocation, facility_value, neighbours_for
from tamis.selectors.greedy import greedy
from tamis.selectors.k_center import KCenter
from tamis.selectors.vector_steps import Cover

PEER = """
import json, sys, time, warnings
import numpy as np
warnings.filterwarnings("ignore")
name, path, budget, result = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
vectors = np.load(path)
def pick(vectors, budget):
    if name == "apricot":
        from apricot import FacilityLocationSelection
        return FacilityLocationSelection(budget, metric="cosine", optimizer="lazy").fit(vectors).ranking.tolist()
    from submodlib import FacilityLocationFunction
    f = FacilityLocationFunction(n=len(vectors), mode="dense", data=vectors, metric="cosine")
    return [int(i) for i, _ in f.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)]
pick(vectors[:100], 5)
start, busy = time.perf_counter(), time.process_time()
items = pick(vectors, budget)
found = {"seconds": time.perf_counter() - start, "busy": time.process_time() - busy, "items": items}
json.dump(found, open(result, "w"))
"""


def embeddings(pattern: str, documents: int, words: int | None) -> NDArray[np.float32]:
    """Vectors of so many texts, or of pieces of so many words where these are given."""
    text = read_texts(pattern, "text", 1 << 40)
    if words is not None:
        pieces = [
            " ".join(parts[start : start + words])
            for parts in pc.utf8_split_whitespace(text).to_pylist()
            for start in range(0, len(parts), words)
        ]
        text = pa.array(pieces, pa.large_string())
    return hashed_embeddings(tokenize(text.slice(0, documents)), 1, 256)


def run_peer(python: str, name: str, vectors: NDArray[np.float32], budget: int, limit: float) -> dict | None:
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder, "vectors.npy"), Path(folder, "result.json")
        np.save(path, vectors)
        command = [python, "-c", PEER, name, path, str(budget), result]
        try:
            done = subprocess.run(command, text=True, capture_output=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
        return json.loads(result.read_text())


def two_round_items(vectors: NDArray[np.float32], budget: int, rule: str) -> NDArray[np.int64]:
    step = Cover.model_validate({"method": "cover", "rule": rule, "vectors": "v", "keep": {"documents": budget}})
    keys = np.arange(len(vectors), dtype=np.uint64)
    parts = int(in_cluster.parts_of(np.array([len(vectors)]))[0])
    of = in_cluster.part_of(keys, np.full(len(vectors), parts))

    def choose(rows: NDArray[np.int64], budget: int, weights: NDArray[np.float32] | None) -> NDArray[np.int64]:
        ones = np.ones(len(rows), np.int64)
        members = in_cluster.Members(vectors[rows], keys[rows], ones, len(vectors), weights)
        return in_cluster.cover(step, members, budget, 0)

    proposals, weights = [], []
    for rows in (np.flatnonzero(of == part) for part in range(parts)):
        items = choose(rows, in_cluster.proposed(budget, len(vectors), len(vectors), parts), None)
        proposals.append(rows[items])
        weights.append(in_cluster.stand_for(vectors[rows], items))
    rows = np.concatenate(proposals)
    return rows[choose(rows, budget, np.concatenate(weights))]


def radius(vectors: NDArray[np.float32], items: NDArray[np.int64]) -> float:
    """The greatest distance of any vector to the nearest of those picked."""
    least = min(
        float((vectors[start : start + 4096] @ vectors[items].T).max(axis=1).min())
        for start in range(0, len(vectors), 4096)
    )
    return float(np.sqrt(2 - 2 * least))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="glob of Parquet files")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--words", type=int, help="cut texts into pieces of so many words")
    parser.add_argument("--budget", type=int, help="default: a tenth of the documents")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--part", type=int, help="documents in a part, where two rounds are tried")
    parser.add_argument(
        "--k-center", action="store_true", help="try k-center too; one round costs n x budget distances"
    )
    parser.add_argument("--peer-python", help="interpreter that has apricot and submodlib")
    parser.add_argument("--peers", nargs="+", default=["apricot", "submodlib"])
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a peer is given up")
    options = parser.parse_args()
    vectors = embeddings(options.corpus, options.documents, options.words)
    budget = options.budget or len(vectors) // 10
    neighbours = neighbours_for(len(vectors), budget)
    greedy(FacilityLocation(neighbour_graph(vectors[:200], 4)), 5)  # compiles
    memory.forget_peak()
    before = memory.resident_bytes() or 0
    print(f"{len(vectors):,} vectors of {vectors.shape[1]}, {vectors.nbytes / 1e6:.0f} MB; {budget:,} are picked")

    part = options.part or in_cluster.PART
    rounds = None
    if len(vectors) > part:
        in_cluster.PART = part
        start = time.perf_counter()
        rounds = two_round_items(vectors, budget, "facility_location")
        print(
            f"two rounds, parts of {part:,}, one thread: {time.perf_counter() - start:.2f} s; "
            f"{((memory.peak_bytes() or 0) - before) / 1e6:.0f} MB more memory at the peak",
            flush=True,
        )
        memory.release()
        memory.forget_peak()
        before = memory.resident_bytes() or 0

    start, busy = time.perf_counter(), time.process_time()
    graph = neighbour_graph(vectors, neighbours, threads=options.threads)
    between = time.perf_counter()
    picks = greedy(FacilityLocation(graph), budget)
    ended, busy = time.perf_counter(), time.process_time() - busy
    ours, peak = ended - start, memory.peak_bytes() or 0
    value = facility_value(vectors, picks.items)
    print(
        f"ours, {neighbours} neighbours: {ours:.2f} s (graph {between - start:.2f}, picks {ended - between:.2f}), all "
        f"cores {busy:.2f} s, value {value:,.1f}; {(peak - before) / 1e6:.0f} MB more memory at the peak"
    )
    del graph
    drawn = np.random.default_rng(0).permutation(len(vectors))[:budget]
    print(f"a random choice: value {1 - facility_value(vectors, drawn) / value:.2%} below", flush=True)
    if rounds is not None:
        print(f"two rounds: value {1 - facility_value(vectors, rounds) / value:.2%} below", flush=True)
    if len(vectors) > part and options.k_center:
        start = time.perf_counter()
        one = radius(vectors, greedy(KCenter(vectors), budget).items)
        between = time.perf_counter()
        two = radius(vectors, two_round_items(vectors, budget, "k_center"))
        ended = time.perf_counter()
        print(
            f"k-center: farthest at {one:.4f} ({between - start:.1f} s), in two rounds {two:.4f} "
            f"({ended - between:.1f} s), of a random choice {radius(vectors, drawn):.4f}"
        )
    for name in options.peers if options.peer_python else []:
        found = run_peer(options.peer_python, name, vectors, budget, options.limit)
        if found is None:
            print(f"{name}: not done after {options.limit:.0f} s, ours at least {options.limit / ours:.0f}x")
            continue
        theirs = facility_value(vectors, np.array(found["items"]))
        print(
            f"{name}: {found['seconds']:.2f} s, ours {found['seconds'] / ours:.1f}x; all cores {found['busy']:.2f} s, "
            f"ours {found['busy'] / busy:.1f}x; value {theirs:,.1f}, ours {value / theirs - 1:+.2%}"
        )


if __name__ == "__main__":
    main()
