"""What differs between two finished runs, document by document.

Reads the run directories; imports no Beam, for it must be quick.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors.decisions import DecisionFiles
from ..connectors.errors import TamisError
from ..connectors.key_ranges import KeyRanges, range_bits
from ..selectors.changes import DROPPED, KEPT, ROW, Changes, Names, Tally

BYTES_PER_DOCUMENT = 128
"""Held at most per document of a key range, of both runs: its row, its sort, its partner, and what is counted."""

MEMORY = 256 << 20
"""So many bytes may the documents of one key range take."""

Int64 = NDArray[np.int64]


def compare(runs: Sequence[tuple[Path, Mapping[str, Any]]], show: int) -> Changes:
    """Compare the documents of two finished runs.

    Both are parted once into ranges of keys (on disk, 24 bytes per document), and one range after the other is
    compared, in MEMORY at most: only a key with millions of copies can take more, for its copies stay together. What
    is counted takes some 100 bytes per group.

    Args:
        runs: directory and manifest of the old and of the new run.
        show: so many examples of each kind.

    Returns:
        The changes.

    Raises:
        TamisError: a file of a run is gone or damaged, or the disk is full.
    """
    names = Names(
        *(
            pa.array(sorted(set().union(*(read(*run) for run in runs))), pa.string())
            for read in (_group_names, lambda _, manifest: manifest["reasons"])
        )
    )
    files = [DecisionFiles(*run) for run in runs]
    bits = range_bits(sum(side.documents for side in files), MEMORY // BYTES_PER_DOCUMENT)
    tally = Tally(names, show)
    with ExitStack() as stack:
        sides = [stack.enter_context(KeyRanges(ROW, bits)) for _ in files]
        for side, decisions in zip(sides, files, strict=True):
            _part(decisions, names, side)
        for number in range(1 << bits):
            old, new = (side.read(number) for side in sides)
            tally.add(old, new)
    return tally.changes()


def _group_names(run: Path, manifest: Mapping[str, Any]) -> list[str]:
    groups = manifest["groups"]
    if isinstance(groups, str):
        return list(pq.read_table(run / groups, columns=["group"])["group"].to_pylist())
    return [group["group"] for group in groups]


def _part(files: DecisionFiles, names: Names, ranges: KeyRanges) -> None:
    def add(shard: int) -> None:
        table = files.read(shard, ["key", "group", "tokens", "kept", "reason", "weight"])
        rows = np.empty(table.num_rows, ROW)
        for column in ("key", "tokens", "weight"):
            rows[column] = table[column].to_numpy()
        rows["group"] = _numbers(table["group"], groups, files.path(shard), "")
        kept = table["kept"].to_numpy()
        reasons = _numbers(table["reason"].filter(pa.array(~kept)), reasons, files.path(shard), None)
        rows["fate"] = KEPT
        rows["fate"][~kept] = reasons + DROPPED
        ranges.add(rows)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for _ in pool.map(add, files.shards):
            pass


def _numbers(column: pa.ChunkedArray, names: pa.Array, path: Path, instead: str | None) -> Int64:
    """Return the place of each value among names. instead: the name of null; None allows no null."""
    parts = [np.zeros(0, np.int64)]
    for chunk in column.chunks:
        encoded = chunk if isinstance(chunk, pa.DictionaryArray) else chunk.dictionary_encode()
        values = pa.concat_arrays([encoded.dictionary.cast(pa.string()), pa.array([instead], pa.string())])
        places = pc.index_in(values, value_set=names).fill_null(-1).to_numpy(zero_copy_only=False)
        parts.append(places[encoded.indices.fill_null(len(values) - 1).to_numpy()].astype(np.int64))
    numbers = np.concatenate(parts)
    if numbers.min(initial=0) < 0:
        raise TamisError(f"{path} has groups or reasons that its manifest lacks; `tamis verify` checks all files")
    return numbers


