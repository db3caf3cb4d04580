"""Exact top 10 % over score files against numpy.argpartition in memory: `python topk_against_argpartition.py --rows N`.

Writes N normal scores with 64-bit keys to uncompressed Parquet files of one million rows in a temporary folder, and
selects from the files on two threads. argpartition gets its array for nothing and breaks ties anyhow; the files are in
the page cache, since they were just written.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tamis.selectors.ordering import descending
from tamis.selectors.radix import Cuts, RadixSelect, Ranked, merge

ROWS_PER_FILE = 1_000_000
THREADS = 2


def write(folder: Path, rows: int) -> list[Path]:
    paths = []
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        size, random = min(ROWS_PER_FILE, rows - start), np.random.default_rng(number)
        table = pa.table({"score": random.normal(size=size), "key": random.integers(0, 2**64, size, np.uint64)})
        paths.append(folder / f"{number:06d}.parquet")
        pq.write_table(table, paths[-1], compression="none", use_dictionary=False)
    return paths


def read(number: int, path: Path, with_keys: bool = True) -> Ranked:
    columns = ["score", "key"] if with_keys else ["score"]
    file = pq.ParquetFile(path, pre_buffer=False)
    table = file.read(columns=columns, use_threads=False).combine_chunks()
    score = table["score"].chunk(0).to_numpy(zero_copy_only=True)
    key = table["key"].chunk(0).to_numpy(zero_copy_only=True) if with_keys else np.zeros(score.size, np.uint64)
    position = np.arange(score.size, dtype=np.uint64) | np.uint64(number << 32)
    return Ranked(np.zeros(score.size, np.int64), descending(score), key, position)


def each(paths: list[Path], work: Callable[[Ranked], Any], with_keys: bool = True) -> Iterator[Any]:
    """Results in the order of files; reading and work on a file share a thread."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(lambda item: work(read(*item, with_keys)), enumerate(paths))


def select(paths: list[Path], keep: int) -> tuple[Cuts, int]:
    chosen, passes = RadixSelect(1, weighted=False), 0
    while chosen.phase != "done":
        total: dict[str, NDArray] = {}
        for part in each(paths, chosen.observe, chosen.needs_keys):
            total = merge(total, part)
        chosen.advance(total, lambda documents, measure: np.array([keep]))
        passes += 1
    return chosen.cuts(), passes


def peak() -> str:
    return f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    rows = parser.parse_args().rows
    keep = rows // 10
    print(f"{rows:,} rows, {keep:,} kept, {os.cpu_count()} cores, {THREADS} threads")
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), rows)
        select(paths[:1], 1)[0].inside(read(0, paths[0]))  # compile the kernels
        clock = [time.perf_counter()]
        for _ in each(paths, lambda ranked: None):
            pass
        clock.append(time.perf_counter())
        cuts, passes = select(paths, keep)
        clock.append(time.perf_counter())
        kept = sum(int(inside) for inside in each(paths, lambda ranked: np.count_nonzero(cuts.inside(ranked))))
        clock.append(time.perf_counter())
        reading, selecting, marking = np.diff(clock)
        print(f"one reading of the files   {reading:7.2f} s (score, key; image and position made)")
        print(f"radix select, {passes} passes      {selecting:7.2f} s, of which about {passes * reading:.2f} s reading")
        print(f"marking the kept rows      {marking:7.2f} s, of which about {reading:.2f} s reading; {peak()}")
        score = np.concatenate([pq.read_table(path, columns=["score"])["score"].to_numpy() for path in paths])
    started = time.perf_counter()
    index = np.argpartition(-score, keep - 1)[:keep]
    partition = time.perf_counter() - started
    print(f"numpy.argpartition         {partition:7.2f} s, array in memory; {peak()}")
    print(f"ratio select / argpartition {selecting / partition:.2f}, without reading "
          f"{max(selecting - passes * reading, 0) / partition:.2f}")  # fmt: skip
    same = kept == keep and descending(score[index]).max() < cuts.rank[0]
    print("same selection" if same else "DIFFERENT selection")


if __name__ == "__main__":
    main()
