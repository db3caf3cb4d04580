"""Reads the decisions of a finished run: documents by key, and where a value stands among all others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .errors import TamisError, one_line

DECISIONS = re.compile(r"decisions/part-(\d+)\.parquet")
DATA = re.compile(r"data/part-\d+\.parquet")

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Place:
    """A document in the decisions. shard: index of its shard, which numbers the file; row: in that file."""

    shard: int
    row: int

    @property
    def position(self) -> int:
        """The document's place in the order of the corpus, as selections use it."""
        return self.shard << 32 | self.row


@dataclass(frozen=True)
class Standing:
    """How a value compares with others. documents: how many have a value; below: how many of these lie below it."""

    documents: int
    below: int


class DecisionFiles:
    """The decision files of a run; what is scanned is held file by file (a file has one shard's rows, 32 MB of text).

    run: its directory; manifest: as read from there.
    """

    def __init__(self, run: Path, manifest: Mapping[str, Any]) -> None:
        self.run = run
        self._rows: dict[int, int] = {}
        self._kept: dict[int, int] = {}
        self._data: list[tuple[str, int]] = []
        for file in manifest["files"]:
            if decisions := DECISIONS.fullmatch(file["path"]):
                self._rows[int(decisions[1])] = file["rows"]
            elif DATA.fullmatch(file["path"]):
                self._data.append((file["path"], file["rows"]))
        self._data.sort()
        self.documents = sum(self._rows.values())

    @property
    def shards(self) -> list[int]:
        """Indices of the shards that have decisions, ascending."""
        return sorted(self._rows)

    def documents_of(self, shard: int) -> int:
        """Return how many documents a shard has."""
        return self._rows[shard]

    def find(self, keys: Sequence[int], columns: Sequence[str] = ("key",)) -> list[Place]:
        """Return the documents that have one of a few keys in one of some columns, in the order of the corpus.

        Reads 8 bytes per document of the run and column.
        """
        wanted = [np.uint64(key) for key in keys]

        def rows_with(shard: int) -> NDArray[np.int64]:
            with self._open(shard) as file:
                self._kept[shard] = _count_kept(file)
                found = [column.to_numpy() for column in self._read(file, shard, list(columns)).columns]
            return np.flatnonzero(np.logical_or.reduce([values == key for values in found for key in wanted]))

        places = self._each(rows_with)
        return [Place(shard, row) for shard, rows in places.items() for row in rows.tolist()]

    def row(self, place: Place) -> dict[str, Any]:
        """Return a document's row, by column."""
        return dict(self.read(place.shard).slice(place.row, 1).to_pylist()[0])

    def standings(
        self, values: Mapping[str, float], group: str | None
    ) -> tuple[dict[str, Standing], dict[str, Standing]]:
        """Compare the value of each column with those of the whole corpus, and with those of a group (null: None).

        Reads the columns whole: 8 bytes per document and column.
        """

        def compare(shard: int) -> NDArray[np.int64]:
            return compared(self.read(shard, ["group", *values]), values, group)

        total = sum(self._each(compare).values(), np.zeros((2, len(values), 2), dtype=np.int64))
        return standings(values, total)

    def output(self, place: Place) -> tuple[str, int] | None:
        """Return the data file of a kept document and its row there; None if the data files do not reach so far.

        place: as found by `find`, which counts what is kept before it.
        """
        before = sum(kept for shard, kept in self._kept.items() if shard < place.shard)
        before += int(self.read(place.shard, ["kept"])["kept"][: place.row].to_numpy().sum())
        for path, rows in self._data:
            if before < rows:
                return path, before
            before -= rows
        return None

    def read(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """Read one file; raises TamisError naming it when it is gone, damaged or of another length."""
        with self._open(shard) as file:
            return self._read(file, shard, columns)

    def _read(self, file: pq.ParquetFile, shard: int, columns: list[str] | None) -> pa.Table:
        try:
            table = file.read(columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(shard, error) from error
        if table.num_rows != self._rows[shard]:
            raise TamisError(
                f"{self.path(shard)} has {table.num_rows} rows where the manifest says {self._rows[shard]}"
            )
        return table

    def path(self, shard: int) -> Path:
        """Return the file with a shard's decisions."""
        return self.run / "decisions" / f"part-{shard:06d}.parquet"

    def _open(self, shard: int) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(str(self.path(shard)), pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(shard, error) from error

    def _damaged(self, shard: int, error: Exception) -> TamisError:
        return TamisError(f"{self.path(shard)}: {one_line(error)}; `tamis verify` checks all files")

    def _each(self, make: Callable[[int], _Made]) -> dict[int, _Made]:
        """Call a function for all files; returns what it made by shard, in order.

        One after the other: the files are small, and threads that take turns with the interpreter take twice the time.
        """
        return {shard: make(shard) for shard in self.shards}


def _count_kept(file: pq.ParquetFile) -> int:
    """Count a file's kept documents by its footer: they are those without a reason."""
    column = file.metadata.schema.names.index("reason")
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    return sum(int(group.column(column).statistics.null_count) for group in groups)


def compared(table: pa.Table, values: Mapping[str, float], group: str | None) -> NDArray[np.int64]:
    """Count, for each value, the documents of a table that have one, and those below it.

    table: `group` and the columns of `values`. Returns int64[2, columns, 2]: whole table and group; documents, below.
    """
    encoded = table["group"].unify_dictionaries().combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) and encoded.num_chunks else encoded
    if not isinstance(encoded, pa.DictionaryArray):
        encoded = pa.array(encoded).dictionary_encode()
    code = encoded.dictionary.index(pa.scalar(group, encoded.dictionary.type)).as_py() if group is not None else -1
    codes = encoded.indices.fill_null(-1).to_numpy()
    same = codes == (code if group is None or code >= 0 else -2)
    counts = np.zeros((2, len(values), 2), dtype=np.int64)
    for number, (name, value) in enumerate(values.items()):
        others = table[name].to_numpy().astype(np.float64, copy=False)
        below = others < value
        there = ~np.isnan(others)
        counts[0, number] = np.count_nonzero(there), np.count_nonzero(below)
        counts[1, number] = np.count_nonzero(there & same), np.count_nonzero(below & same)
    return counts


def standings(
    names: Sequence[str] | Mapping[str, float], counts: NDArray[np.int64]
) -> tuple[dict[str, Standing], dict[str, Standing]]:
    """Return the counts of `compared` by column: in the corpus, and in the group."""
    corpus, group = (
        {name: Standing(*map(int, pair)) for name, pair in zip(names, part, strict=True)} for part in counts
    )
    return corpus, group
