"""What differs between two finished runs, document by document.

Reads the run directories; imports no Beam, for it must be quick.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors.decisions import DecisionFiles
from ..connectors.errors import TamisError, one_line
from ..connectors.key_ranges import KeyRanges, range_bits
from ..selectors.changes import DROPPED, KEPT, ROW, Changes, Names, Tally
from ..selectors.drift import kolmogorov_smirnov, population_stability_index, stability_by_chance

BYTES_PER_DOCUMENT = 128
"""Held at most per document of a key range, of both runs: its row, its sort, its partner, and what is counted."""

MEMORY = 256 << 20
"""So many bytes may the documents of one key range take."""

SHARDS_PER_BLOCK = 16
"""Files whose rows are sorted together, so that a key range is read in slices that are not too small."""

SAMPLE = "sample.parquet"
"""In the directory of a run with many documents."""

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
        sorted({name for run in runs for name in _group_names(*run)}),
        sorted({reason for _, manifest in runs for reason in manifest["reasons"]}),
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
    """Write what is compared of a run into key ranges; each core holds the rows of SHARDS_PER_BLOCK files."""
    groups, reasons = (pa.array(some, pa.string()) for some in (names.groups, names.reasons))

    def rows_of(shard: int) -> NDArray[Any]:
        table = files.read(shard, ["key", "group", "tokens", "kept", "reason", "weight"])
        rows = np.empty(table.num_rows, ROW)
        for column in ("key", "tokens", "weight"):
            rows[column] = table[column].to_numpy()
        rows["group"] = _numbers(table["group"], groups, files.path(shard), "")
        dropped = ~table["kept"].to_numpy()
        rows["fate"] = KEPT
        rows["fate"][dropped] = DROPPED + _numbers(
            table["reason"].filter(pa.array(dropped)), reasons, files.path(shard), None
        )
        return rows

    def add(shards: Sequence[int]) -> None:
        ranges.add(np.concatenate([rows_of(shard) for shard in shards]))

    size = min(SHARDS_PER_BLOCK, 1 + len(files.shards) // 64)  # few shards are left to all cores
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        blocks = [files.shards[start : start + size] for start in range(0, len(files.shards), size)]
        for _ in pool.map(add, blocks):
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


@dataclass(frozen=True)
class Drift:
    """How a score's distribution over the documents read changed.

    old, new: documents with the score; old_missing, new_missing: without it; sample: whether these are of a keyed
    sample, in either run; stability: population stability index over quantile bins of the old run; by_chance: that
    of independent samples of one distribution; distance: Kolmogorov-Smirnov. The last three are None where a run has
    no such score at all. same_scorer: whether both runs computed it alike (one fingerprint).
    """

    score: str
    same_scorer: bool
    sample: bool
    old: int
    old_missing: int
    new: int
    new_missing: int
    stability: float | None
    by_chance: float | None
    distance: float | None


def drifts(runs: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[Drift]:
    """Measure the drift of each numeric score that two runs have, from all documents or the sample that a run keeps.

    A run keeps a sample where it has more than 100,000 documents, so that about so many values are held, 8 bytes each.

    Args:
        runs: directory and manifest of the old and of the new run.

    Returns:
        One entry per score, in the order of the new run.

    Raises:
        TamisError: a file of a run is gone or damaged.
    """
    of_old, of_new = (_scores(manifest) for _, manifest in runs)
    return [_drift(runs, name, of_old[name] == of_new[name]) for name in of_new if name in of_old]


_NO_NUMBERS = ("string", "large_string", "large_binary", "bool", "list")
"""How the types of columns begin that have no mean; `large_binary` are the sketches of `minhash`."""


def _scores(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the scorer's fingerprint of each numeric column."""
    return {
        column["name"]: scorer["fingerprint"]
        for scorer in manifest["scorers"]
        for column in scorer["columns"]
        if not column["type"].startswith(_NO_NUMBERS)
    }


def _drift(runs: Sequence[tuple[Path, Mapping[str, Any]]], name: str, same_scorer: bool) -> Drift:
    values = [_values(run, manifest, name) for run, manifest in runs]
    old, new = (some[~np.isnan(some)] for some in values)
    missing = [some.size - known.size for some, known in zip(values, (old, new), strict=True)]
    some = bool(old.size and new.size)
    return Drift(
        score=name,
        same_scorer=same_scorer,
        sample=any((run / SAMPLE).exists() for run, _ in runs),
        old=old.size,
        old_missing=missing[0],
        new=new.size,
        new_missing=missing[1],
        stability=population_stability_index(old, new) if some else None,
        by_chance=stability_by_chance(old.size, new.size) if some else None,
        distance=kolmogorov_smirnov(old, new) if some else None,
    )


def _values(run: Path, manifest: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """Return a score's values, NaN where there is none."""
    if (run / SAMPLE).exists():
        try:
            tables = [pq.read_table(run / SAMPLE, columns=[name])]
        except (pa.ArrowException, OSError) as error:
            raise TamisError(f"{run / SAMPLE}: {one_line(error)}; `tamis verify` checks all files") from error
    else:
        files = DecisionFiles(run, manifest)
        tables = [files.read(shard, [name]) for shard in files.shards]
    parts = [table[name].cast(pa.float64()).to_numpy() for table in tables]
    return np.concatenate([np.zeros(0), *parts])
