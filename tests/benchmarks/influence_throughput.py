"""How fast a new target is scored over stored gradients: bytes per second, against a plain read of the same files.

    python tests/benchmarks/influence_throughput.py --folder scratch --documents 1000000 --dimension 1024

Writes features as the score store does, float16 lists in Parquet, 32 MB of them a file; then, in alternating laps and
each time with the files in the page cache, reads all bytes of the files (`read`), decodes them into Arrow tables
(`decode`), and scores them for a target and stores the scores (`score`), as the pass over shards does; one thread.
Seconds are of the wall clock; the ratio is that of the medians. `--storage int8` stores bytes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tamis.connectors.memory import forget_peak, peak_bytes
from tamis.connectors.score_store import Address, ScoreStore
from tamis.connectors.shards import Shard
from tamis.scoring.influence_examples import normalised_products
from tamis.scoring.quantised_vectors import quantised
from tamis.scoring.vectors import vector_column, vectors_of

FILE_BYTES = 32 << 20


def write(store: ScoreStore, address: Address, shards: list[Shard], rows: int, options: argparse.Namespace) -> None:
    random = np.random.default_rng(0)
    for shard in shards:
        vectors = random.standard_normal((rows, options.dimension), np.float32)
        stored = quantised(vectors) if options.storage == "int8" else vectors.astype(np.float16)
        column = vector_column(stored, np.ones(rows, np.bool_))
        store.write_table(address, shard, pa.table({"score": column}), {"keys": "none"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch, with room for the features")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--storage", choices=["float16", "int8"], default="float16")
    parser.add_argument("--laps", type=int, default=3)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    rows = FILE_BYTES // (2 * options.dimension)
    shards = [Shard(i, (), f"{i:032x}") for i in range(-(-options.documents // rows))]
    queries = np.random.default_rng(1).standard_normal((options.queries, options.dimension), np.float32)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store, features, scores = ScoreStore(folder), Address("features", "x"), Address("influence", "x")
        write(store, features, shards, rows, options)
        paths = [Path(store.url(features, shard).removeprefix("file://")) for shard in shards]
        size = sum(path.stat().st_size for path in paths)

        def read() -> None:
            for path in paths:
                path.read_bytes()

        def decode() -> None:
            for path in paths:
                pq.read_table(path, use_threads=False)

        def score() -> None:
            for shard in shards:
                vectors, there = vectors_of(store.read_table(features, shard, ["score"])["score"])
                found = normalised_products(vectors, queries, "norm", []).max(axis=1)
                store.write_table(scores, shard, pa.table({"score": pa.array(found, mask=~there)}), {"keys": "none"})

        ways: dict[str, Callable[[], None]] = {"read": read, "decode": decode, "score": score}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        score()  # compiles
        forget_peak()
        for _ in range(options.laps):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
        print(f"{len(shards) * rows:,} documents of {options.dimension:,} dimensions, {size / 1e9:.2f} GB")
        plain = statistics.median(seconds["read"])
        for name, laps in seconds.items():
            middle = statistics.median(laps)
            print(f"  {name:7s}{middle:7.2f} s {size / middle / 1e9:7.2f} GB/s {middle / plain:6.2f}x the plain read")
        print(f"  peak {peak_bytes() / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
