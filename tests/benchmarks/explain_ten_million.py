"""Time of `tamis explain`, the whole process, on a run of ten million documents.

    .venv/bin/python tests/benchmarks/explain_ten_million.py [--documents 10000000] [--folder DIR] [--repeats 5]

Writes a run directory as `tamis run` would (1,000 shards of 10,000 documents, two scores, a threshold and a resampling
with their cuts; only one of the sources exists), and explains documents of it: one that was dropped, one that was kept,
and one that there is not; with the files in the page cache, and after they were dropped from it. Prints medians
and ranges; on a busy machine look at the processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tamis.connectors.files import file_info
from tamis.connectors.keys import hash_column, keyed_gumbel
from tamis.connectors.score_store import save_arrays
from tamis.jobs.recipe import Recipe
from tamis.pipelines.emit import write_small
from tamis.selectors.cuts import Cuts
from tamis.selectors.decide import Pick, picks_to_arrays
from tamis.selectors.ordering import descending

SHARD_ROWS = 10_000
GROUPS = [f"group {n:02d}" for n in range(12)]
MINIMUM = -1.0
CUT = 3.0  # keeps about a tenth
TAMIS = str(Path(sys.executable).parent / "tamis")


def shard_columns(shard: int) -> dict[str, Any]:
    """Return one shard's documents, decided."""
    generator = np.random.default_rng(shard)
    ids = [f"doc-{shard}-{row}" for row in range(SHARD_ROWS)]
    keys = hash_column(pa.array(ids))
    relevance, quality = generator.normal(size=(2, SHARD_ROWS))
    groups = generator.integers(0, len(GROUPS), SHARD_ROWS)
    reason = np.where(quality < MINIMUM, 1, 2).astype(np.int32)
    kept = (quality >= MINIMUM) & (relevance + keyed_gumbel(0, "relevant", keys) > CUT)
    return {"ids": ids, "keys": keys, "relevance": relevance, "quality": quality, "groups": groups} | {
        "reason": reason,
        "kept": kept,
        "tokens": generator.integers(50, 2000, SHARD_ROWS).astype(np.int32),
    }


def write_decisions(run: Path, shard: int) -> tuple[int, pa.Table]:
    """Write one shard's decisions; returns the number of kept documents, and 1 % of them all for the sample."""
    columns = shard_columns(shard)
    groups = pa.DictionaryArray.from_arrays(pa.array(columns["groups"].astype(np.int32)), pa.array(GROUPS))
    reasons = pa.array(["no_score", "threshold_quality", "relevant"])
    source = pa.array([source_path(run, shard)])
    table = pa.table(
        {
            "key": columns["keys"],
            "source": pa.DictionaryArray.from_arrays(pa.array(np.zeros(SHARD_ROWS, np.int32)), source),
            "row": np.arange(SHARD_ROWS),
            "group": groups,
            "tokens": columns["tokens"],
            "kept": columns["kept"],
            "reason": pa.DictionaryArray.from_arrays(pa.array(columns["reason"], mask=columns["kept"]), reasons),
            "weight": columns["kept"].astype(np.float32),
            "relevance": columns["relevance"],
            "quality": columns["quality"],
        }
    )
    with (run / "decisions" / f"part-{shard:06d}.parquet").open("wb") as file:
        write_small(table, file)
    sample = table.select(["key", "tokens", "group", "relevance", "quality"]).slice(0, SHARD_ROWS // 100)
    return int(columns["kept"].sum()), sample.set_column(2, "group", sample["group"].cast(pa.string()))


def source_path(run: Path, shard: int) -> str:
    """Return where a shard's documents are said to come from."""
    return str(run.parent / "sources" / f"{shard:05d}.parquet")


def write_run(run: Path, shards: int) -> None:
    """Write the run directory, and the source of the last shard."""
    for folder in (run / "decisions", run / "fitted", run.parent / "sources"):
        folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        kept, samples = zip(*pool.map(lambda shard: write_decisions(run, shard), range(shards)), strict=True)
    pq.write_table(pa.concat_tables(samples), run / "sample.parquet")
    pq.write_table(pa.table({"group": GROUPS}), run / "fitted" / "groups.parquet")
    counts = np.array([sum(kept)])
    bound = [descending(np.array([CUT])), np.zeros(1, np.uint64), np.zeros(1, np.uint64)]
    save_arrays(
        f"{run}/fitted/1-relevant.npz", picks_to_arrays([Pick(Cuts(*bound, np.array([False]), counts, counts))])
    )
    last = shard_columns(shards - 1)
    words = " ".join(f"word{n}" for n in range(300))
    groups = [GROUPS[number] for number in last["groups"]]
    texts = [f"The text of {name}. {words}" for name in last["ids"]]
    path = source_path(run, shards - 1)
    pq.write_table(pa.table({"id": last["ids"], "text": texts, "source": groups}), path)
    (run / "manifest.json").write_text(json.dumps(manifest(run, kept, path)))


def manifest(run: Path, kept: Sequence[int], source: str) -> dict[str, Any]:
    """Return what `explain` reads of a manifest, and a line per file."""
    recipe = Recipe.model_validate(
        {
            "corpus": {"format": "parquet", "paths": [f"{run.parent}/sources/*"], "id": "id", "group": "source"},
            "select": [
                {"method": "threshold", "by": "quality", "min": MINIMUM},
                {"method": "resample", "by": "relevance", "keep": {"fraction": 0.1}, "name": "relevant"},
            ],
        }
    )
    names = [f"decisions/part-{shard:06d}.parquet" for shard in range(len(kept))]
    parts = [sum(kept[start : start + 20]) for start in range(0, len(kept), 20)]
    files = [{"path": name, "rows": SHARD_ROWS} for name in names]
    files += [{"path": f"data/part-{n:06d}.parquet", "rows": rows} for n, rows in enumerate(parts)]
    return {
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "seed": 0,
        "limit": None,
        "totals": {"dead": {"documents": 0}},
        "files": files,
        "sources": [{"corpus": "corpus", "path": source, "fingerprint": file_info(source).version}],
        "steps": [{"temperature": None}, {"temperature": 1.0}],
        "scorers": [
            {"columns": [{"name": name, "unit": "nats", "direction": "higher"}]} for name in ("relevance", "quality")
        ],
    }


def drop_from_cache(run: Path) -> None:
    """Let the next reading come from the disk."""
    os.sync()
    for path in run.rglob("*.*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def seconds(arguments: list[str], code: int) -> tuple[float, float]:
    """Run the command in a process of its own; returns its time, and that of the processors."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([TAMIS, "explain", *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, used


def main() -> None:
    """Write the run if it is not there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to keep the run; default: a temporary folder")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = (arguments.folder or Path(temporary)) / "run"
        shards = -(-arguments.documents // SHARD_ROWS)
        if not run.exists():
            write_run(run, shards)
        last = shard_columns(shards - 1)
        kept, dropped = (int(np.flatnonzero(last["kept"] == wanted)[-1]) for wanted in (True, False))
        asked = {
            "kept, by id": ([last["ids"][kept]], 0),
            "dropped, by key": ([f"{last['keys'][dropped]:016x}"], 0),
            "unknown id": (["doc-none"], 1),
        }
        size = sum(path.stat().st_size for path in (run / "decisions").iterdir())
        print(f"{shards * SHARD_ROWS:,} documents, {size / 1e6:.0f} MB of decisions, {os.cpu_count()} cores")
        for name, (wanted, code) in asked.items():
            seconds([str(run), *wanted], code)
            times, used = zip(*(seconds([str(run), *wanted], code) for _ in range(arguments.repeats)), strict=True)
            warm = f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f} s)"
            drop_from_cache(run)
            cold, _ = seconds([str(run), *wanted], code)
            processors = f"{statistics.median(used):.2f} s of processor time"
            print(f"explain, {name}: {warm}, {processors}, {cold:.2f} s with files not in the page cache")


if __name__ == "__main__":
    main()
