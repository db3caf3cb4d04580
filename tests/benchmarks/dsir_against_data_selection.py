"""DSIR fit and score against the package data-selection 1.0.3, on one core.

    python tests/benchmarks/dsir_against_data_selection.py --corpus 'corpus/*.parquet' --target target.parquet \
        --megabytes 100 --peer-python peer/bin/python

The peer needs its own environment, with an NLTK that compiles its word pattern with the standard library's `re`
(before 3.10.3; later ones find other tokens): pip install data-selection==1.0.3 "nltk<3.10"

The peer reads JSON lines, ours gets Arrow batches in memory; so the time the peer spends on merely reading and parsing
its lines is measured too, and ratios are printed with and without it. Ours never resamples here: that is a top-k over
one number per document. With sha256 buckets, log ratios, weights and the top documents must agree.
"""

import argparse
import glob
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tamis.scoring.dsir import log_ratio
from tamis.scoring.ngrams import NgramHash, count_ngrams, sum_ngram_weights
from tamis.scoring.tokenizer import tokenize

BUCKETS = 10_000
BATCH_BYTES = 8 << 20
PEER = """
import json, sys, time
import nltk, numpy as np
from pathlib import Path
from data_selection import HashedNgramDSIR
from data_selection.base import default_load_dataset_fn
folder, sample = Path(sys.argv[1]), int(sys.argv[2])
tokenizer = nltk.WordPunctTokenizer()
tokenizer.tokenize("compile the pattern")
if type(tokenizer._regexp).__module__ != "re":
    sys.exit(f"NLTK {nltk.__version__} does not use the standard library's re: install nltk<3.10")
seconds, start = {}, time.perf_counter()
def lap(name):
    global start
    seconds[name] = time.perf_counter() - start
    start = time.perf_counter()
for path in ("raw.jsonl", "target.jsonl"):
    for example in default_load_dataset_fn(folder / path):
        example["text"]
lap("read")
dsir = HashedNgramDSIR([str(folder / "raw.jsonl")], [str(folder / "target.jsonl")], str(folder / "cache"), num_proc=1)
dsir.fit_importance_estimator(num_tokens_to_fit="all")
lap("fit")
dsir.compute_importance_weights()
lap("score")
dsir.resample(str(folder / "sampled"), sample, str(folder / "sampled_cache"))
lap("resample")
dsir.resample(str(folder / "top"), sample, str(folder / "top_cache"), top_k=True)
top = [json.loads(line)["row"] for line in open(folder / "top" / "0.jsonl")]
np.savez(folder / "peer.npz", delta=dsir.log_diff, scores=np.load(folder / "cache/log_importance_weights/0.npy"),
         lengths=np.load(folder / "cache/perexample_metadata/0.npy"), top=top)
print(json.dumps(seconds))
"""


def read_texts(pattern: str, column: str, limit: int) -> pa.Array:
    """Read texts in path order until `limit` bytes, whole documents."""
    parts, size = [], 0
    for path in sorted(glob.glob(pattern)):  # noqa: PTH207 (the pattern may be absolute)
        for batch in pq.ParquetFile(path).iter_batches(1000, columns=[column]):
            text = batch.column(0).drop_null().cast(pa.large_string())
            sizes = np.cumsum(pa.compute.binary_length(text).to_numpy())
            kept = int(np.searchsorted(sizes, limit - size, side="right"))
            parts.append(text[:kept])
            size += int(sizes[kept - 1]) if kept else 0
            if kept < len(text):
                return pa.concat_arrays(parts)
    if not parts:
        raise SystemExit(f"no Parquet file matches {pattern}")
    return pa.concat_arrays(parts)


def bytes_of(text: pa.Array) -> int:
    return int(pa.compute.sum(pa.compute.binary_length(text)).as_py() or 0)


def batches_of(text: pa.Array) -> list[pa.Array]:
    rows = max(1, len(text) * BATCH_BYTES // max(1, bytes_of(text)))
    return [text[start : start + rows] for start in range(0, len(text), rows)]


def write_lines(path: Path, text: pa.Array) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for row, value in enumerate(text.to_pylist()):
            lines.write(json.dumps({"text": value, "row": row}) + "\n")


def run_peer(python: str, raw: pa.Array, target: pa.Array, sample: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds per stage, and the arrays the peer computed."""
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder, "raw.jsonl"), raw)
        write_lines(Path(folder, "target.jsonl"), target)
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [python, "-c", PEER, folder, str(sample)]
        done = subprocess.run(command, env=one_thread, text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"the peer failed: {done.stderr[-2000:]}")
        with np.load(Path(folder, "peer.npz")) as arrays:
            return json.loads(done.stdout.splitlines()[-1]), dict(arrays)


def fit(raw: list[pa.Array], target: list[pa.Array], hash: NgramHash) -> NDArray[np.float64]:
    counts = [sum(count_ngrams(batch, 2, BUCKETS, hash) for batch in part) for part in (target, raw)]
    return log_ratio(counts[0], counts[1])


def score(raw: list[pa.Array], delta: NDArray[np.float64], hash: NgramHash) -> NDArray[np.float64]:
    return np.concatenate([sum_ngram_weights(batch, delta[None], 2, hash)[:, 0] for batch in raw])


def laps_of(work: Callable[[], Any], times: int) -> list[float]:
    """Wall times of `times` runs after one that compiles and warms up."""
    work()
    laps = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        laps.append(time.perf_counter() - start)
    return laps


def measure(raw: list[pa.Array], target: list[pa.Array], times: int) -> dict[str, list[float]]:
    """Wall times of ours by stage."""
    laps = {"tokenize": laps_of(lambda: [tokenize(batch) for batch in raw], times)}
    for hash, runs in (("fast64", times), ("sha256", 1)):
        delta = fit(raw, target, hash)
        laps[f"{hash} fit"] = laps_of(lambda hash=hash: fit(raw, target, hash), runs)
        laps[f"{hash} score"] = laps_of(lambda hash=hash, delta=delta: score(raw, delta, hash), runs)
    return laps


def check_parity(raw: list[pa.Array], target: list[pa.Array], peer: dict[str, Any]) -> None:
    """Compare sha256 results with the peer's; exits with an error where they differ."""
    delta = fit(raw, target, "sha256")
    scores = score(raw, delta, "sha256")
    tokens = np.concatenate([tokenize(batch).counts for batch in raw])
    long_enough = np.flatnonzero(tokens >= 100)
    top = long_enough[np.argsort(-scores[long_enough], kind="stable")[: peer["top"].size]]
    for name, agree in {
        "log ratios": np.allclose(delta, peer["delta"], rtol=1e-9, atol=1e-12),
        "log importance weights": np.allclose(scores, peer["scores"], rtol=1e-9, atol=0),
        "lengths": np.array_equal(tokens, peer["lengths"]),
        f"top {top.size} documents": set(top.tolist()) == set(peer["top"].tolist()),
    }.items():
        print(f"sha256: {name} {'agree' if agree else 'DIFFER'}")
        if not agree:
            raise SystemExit(1)
    difference = np.abs(scores - peer["scores"]) / np.maximum(np.abs(peer["scores"]), 1e-300)
    print(f"sha256: largest relative difference of a log importance weight {difference.max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="glob of Parquet files")
    parser.add_argument("--target", required=True, help="glob of Parquet files")
    parser.add_argument("--column", default="text")
    parser.add_argument("--megabytes", type=float, default=20, help="of the corpus")
    parser.add_argument("--target-megabytes", type=float, default=1)
    parser.add_argument("--peer-python", required=True, help="interpreter that has data-selection")
    parser.add_argument("--times", type=int, default=5, help="runs of ours, of which the median counts")
    options = parser.parse_args()
    raw = read_texts(options.corpus, options.column, int(options.megabytes * 1e6))
    target = read_texts(options.target, options.column, int(options.target_megabytes * 1e6))
    raw_size, size = bytes_of(raw) / 1e6, (bytes_of(raw) + bytes_of(target)) / 1e6
    print(f"corpus {len(raw)} documents, {raw_size:.1f} MB; target {len(target)} documents, {size - raw_size:.1f} MB")

    raws, targets = batches_of(raw), batches_of(target)
    before = measure(raws, targets, options.times)
    peer, arrays = run_peer(options.peer_python, raw, target, max(1, len(raw) // 10))
    after = measure(raws, targets, options.times)
    print("data-selection: " + ", ".join(f"{name} {value:.1f} s" for name, value in peer.items()))
    check_parity(raws, targets, arrays)

    # Before and after the peer, since a shared machine changes its speed within minutes.
    ours = {stage: statistics.median(before[stage] + after[stage]) for stage in before}
    drift = max(sum(after[stage]) / sum(before[stage]) for stage in before)
    print(f"ours took up to {drift:.2f} times as long after the peer as before it")
    print(f"tokenize: {raw_size / ours['tokenize']:.0f} MB/s")
    reading = {"fit": peer["read"], "score": peer["read"] * raw_size / size}
    for hash in ("fast64", "sha256"):
        for stages, megabytes in ((["fit"], size), (["score"], raw_size), (["fit", "score"], size + raw_size)):
            mine = sum(ours[f"{hash} {stage}"] for stage in stages)
            theirs = sum(peer[stage] for stage in stages)
            parsed = theirs - sum(reading[stage] for stage in stages)
            print(
                f"{hash} {' + '.join(stages)}: ours {megabytes / mine:.1f} MB/s, peer {megabytes / theirs:.2f} MB/s: "
                f"{theirs / mine:.0f}x ({parsed / mine:.0f}x without its reading)"
            )


if __name__ == "__main__":
    main()
