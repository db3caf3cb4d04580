"""The row groups of the data files of runs: which documents of them a loader takes, and reading these in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .errors import TamisError, nearest, one_line
from .files import is_local, open_input
from .keys import keyed_bits, keyed_uniform
from .parquet import MAX_BATCH_ROWS, READ_BUFFER, footer
from .records import one_array
from .streams import Indices

_FOOTERS = 256
"""Footers that a process keeps, some 10 KB each."""


@dataclass(frozen=True)
class DataFile:
    """A data file of a run. rows: as the manifest says; columns: the file's column of each name that is asked for."""

    url: str
    rows: int
    columns: Mapping[str, str]


@dataclass(frozen=True)
class RowGroups:
    """All row groups of the data files, 16 bytes each. file, number: int32, which one of which file; rows: int64."""

    files: Sequence[DataFile]
    file: NDArray[np.int32]
    number: NDArray[np.int32]
    rows: Indices

    @classmethod
    def of(cls, files: Sequence[DataFile]) -> RowGroups:
        """Read all footers; raises TamisError for a file that is gone, damaged or of another length."""
        with ThreadPoolExecutor(16) as pool:
            rows = list(pool.map(_group_rows, files))
        counts = [len(of_file) for of_file in rows]
        return cls(
            files,
            np.repeat(np.arange(len(files), dtype=np.int32), counts),
            np.concatenate([np.arange(0, dtype=np.int32), *(np.arange(n, dtype=np.int32) for n in counts)]),
            np.concatenate([np.zeros(0, np.int64), *rows]),
        )


def _group_rows(file: DataFile) -> Indices:
    try:
        metadata = footer(file.url)
    except FileNotFoundError as error:
        raise TamisError(f"{file.url} is in the manifest, but not there; `tamis verify` checks all files") from error
    rows = np.array([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)], np.int64)
    if rows.sum() != file.rows:
        raise TamisError(f"{file.url} has {rows.sum()} rows where the manifest says {file.rows}")
    missing = set(file.columns.values()) - set(metadata.schema.to_arrow_schema().names)
    if missing:
        name = sorted(missing)[0]
        raise TamisError(f"{file.url} has no column `{name}`{nearest(name, metadata.schema.to_arrow_schema().names)}")
    return rows


@dataclass(frozen=True)
class Taking:
    """Which documents of a row group are taken, and how often.

    filter: on the files' columns; filter_columns: that it names; sampled: in proportion to the weight; by_group: the
    documents of each group are a sequence of their own; seed: of the sample.
    """

    filter: pc.Expression | None = None
    filter_columns: tuple[str, ...] = ()
    sampled: bool = False
    by_group: bool = False
    seed: int = 0

    @property
    def all(self) -> bool:
        """Whether it is every document once."""
        return self.filter is None and not self.sampled and not self.by_group

    def columns(self, file: DataFile) -> list[str]:
        """Return the columns that decide."""
        more = [*(["key", "weight"] if self.sampled else []), *(["group"] if self.by_group else [])]
        return list(dict.fromkeys([*self.filter_columns, *(file.columns[name] for name in more)]))

    def rows(self, table: pa.Table, file: DataFile, epoch: int) -> Indices:
        """Return the rows that are taken, ascending, each as often as it is taken. table: has `columns` of the file."""
        rows = np.arange(table.num_rows, dtype=np.int64)
        if self.filter is not None:
            marked = table.append_column("\0row", pa.array(rows)).filter(self.filter)
            rows = marked["\0row"].to_numpy()
        if not self.sampled:
            return rows
        taken = table.take(pa.array(rows))
        weights = taken[file.columns["weight"]].to_numpy().astype(np.float64)
        if not (weights >= 0).all():
            raise TamisError(f"{file.url}: documents cannot be drawn by weights below 0; use the weights in the loss")
        draws = keyed_uniform(self.seed, f"loader sample {epoch}", taken[file.columns["key"]].to_numpy())
        copies = np.floor(weights) + (draws < weights % 1)
        return np.repeat(rows, copies.astype(np.int64))


class Source:
    """Reads row groups of runs. `names`: of the columns to give, as the files' `columns` know them.

    Holds footers of up to 256 files.
    """

    def __init__(self, groups: RowGroups, taking: Taking, names: Sequence[str], group_names: Sequence[str]) -> None:
        self.groups, self.taking, self.names, self.group_names = groups, taking, tuple(names), list(group_names)
        self._footer = functools.lru_cache(_FOOTERS)(footer)

    def count(self, epoch: int) -> Indices:
        """Return the documents that are taken of each row group and group, int64[row groups, groups].

        Reads the columns that decide, of all files; nothing where all documents are taken.
        """
        if self.taking.all:
            return self.groups.rows[:, None]
        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(lambda unit: self._count(unit, epoch), range(len(self.groups.rows))))
        return np.array(counts, np.int64).reshape(len(counts), self.lanes)

    @property
    def constants(self) -> dict[str, Any]:
        """What documents have that is in no column as they are given: copies weigh 1, and there may be no group."""
        weight = {"weight": 1.0} if self.taking.sampled else {}
        return weight if "group" in self.names else weight | {"group": None}

    @property
    def lanes(self) -> int:
        """Sequences of documents: one, or one for each group."""
        return len(self.group_names) if self.taking.by_group else 1

    def _count(self, unit: int, epoch: int) -> Indices:
        with self._opened(unit, lambda file: self.taking.columns(file)) as (file, parquet, number):
            rows, codes = self._taken(file, parquet, number, epoch)
        return np.bincount(codes, minlength=self.lanes) if codes is not None else np.array([len(rows)])

    def _taken(
        self, file: DataFile, parquet: pq.ParquetFile, number: int, epoch: int
    ) -> tuple[Indices, Indices | None]:
        """Return the rows that are taken, and the code of the group of each where groups matter."""
        table = parquet.read_row_group(number, columns=self.taking.columns(file), use_threads=False)
        rows = self.taking.rows(table, file, epoch)
        if not self.taking.by_group:
            return rows, None
        groups = one_array(table[file.columns["group"]].cast(pa.string()))
        codes = pc.index_in(groups, pa.array(self.group_names, pa.string())).fill_null(-1).to_numpy()[rows]
        return rows[codes >= 0], codes[codes >= 0].astype(np.int64)

    def read(self, unit: int, first: int, end: int, lane: int, epoch: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the documents [first, end) of those that are taken of a row group, from batch_rows rows at a time."""
        rows: Indices | None = None
        names = list(dict.fromkeys(self.groups.files[self.groups.file[unit]].columns[name] for name in self.names))
        with self._opened(unit, lambda file: [*names, *self.taking.columns(file)]) as (file, parquet, number):
            if not self.taking.all:
                rows, codes = self._taken(file, parquet, number, epoch)
                rows = (rows if codes is None else rows[codes == lane])[first:end]
                first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
            done = 0
            batches = parquet.iter_batches(
                batch_size=min(batch_rows, MAX_BATCH_ROWS), row_groups=[number], columns=names, use_threads=False
            )
            for batch in batches if first < end else ():
                done += batch.num_rows
                begin = done - batch.num_rows
                if done > first:
                    yield self._named(file, _cut(batch, begin, first, end, rows))
                if done >= end:
                    break

    def _named(self, file: DataFile, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({name: batch.column(file.columns[name]) for name in self.names})

    def _opened(self, unit: int, columns: Callable[[DataFile], Sequence[str]]) -> _Opened:
        file, number = self.groups.files[self.groups.file[unit]], int(self.groups.number[unit])
        return _Opened(file, number, self._footer, columns(file))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_footer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._footer = functools.lru_cache(_FOOTERS)(footer)


def _cut(batch: pa.RecordBatch, begin: int, first: int, end: int, rows: Indices | None) -> pa.RecordBatch:
    """Return the part of a batch in [first, end), or its rows among `rows`. begin: number of its first row."""
    if rows is None:
        start = max(first - begin, 0)
        return batch.slice(start, min(end - begin, batch.num_rows) - start)
    within = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, begin + batch.num_rows)]
    return batch.take(pa.array(within - begin))


@dataclass
class _Opened:
    """A row group opened for reading. Of a remote file the chunks of the wanted columns are fetched first, as they are
    in the file: a cache of blocks as `open_input` has would cost 32 MB for every stream.
    """

    file: DataFile
    number: int
    footer: Callable[[str], pq.FileMetaData]
    columns: Sequence[str]
    _source: Any = field(default=None, init=False)

    def __enter__(self) -> tuple[DataFile, pq.ParquetFile, int]:
        try:
            metadata = self.footer(self.file.url)
            if is_local(self.file.url):
                self._source = open_input(self.file.url)
            else:
                self._source = pa.PythonFile(_Chunks(self.file.url, metadata, self.number, set(self.columns)), mode="r")
            parquet = pq.ParquetFile(self._source, metadata=metadata, pre_buffer=False, buffer_size=READ_BUFFER)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        return self.file, parquet, self.number

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._source.close()
        if isinstance(error, pa.ArrowException | OSError):
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> TamisError:
        return TamisError(f"{self.file.url}: {one_line(error)}; `tamis verify` checks all files")


class _Chunks:
    """A file of which only the column chunks of one row group are there."""

    def __init__(self, url: str, metadata: pq.FileMetaData, number: int, columns: set[str]) -> None:
        self.closed = False
        self._at = 0
        self._parts: list[tuple[int, bytes]] = []
        group = metadata.row_group(number)
        with open_input(url) as source:
            self._size = source.size()
            for index in range(group.num_columns):
                chunk = group.column(index)
                if chunk.path_in_schema in columns or chunk.path_in_schema.split(".", 1)[0] in columns:
                    first = chunk.dictionary_page_offset or chunk.data_page_offset
                    first = min(first, chunk.data_page_offset)
                    source.seek(first)
                    self._parts.append((first, source.read(chunk.total_compressed_size)))

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = (0, self._at, self._size)[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        for first, content in self._parts:
            begin = self._at - first
            if 0 <= begin < len(content):
                part = content[begin : begin + size] if size >= 0 else content[begin:]
                self._at += len(part)
                return part
        return b""

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Permuted:
    """The documents of an epoch (of one group) with their row groups in a random order.

    units: int64[k], the row groups that have some; ends: int64[k], documents up to and with each.
    """

    units: Indices
    ends: Indices

    @classmethod
    def of(cls, counts: Indices, seed: int, label: str) -> Permuted:
        """Permute. counts: int64[row groups]."""
        bits = keyed_bits(seed, f"{label} row groups", np.arange(len(counts), dtype=np.uint64))
        units = np.argsort(bits, kind="stable")
        units = units[counts[units] > 0]
        return cls(units, np.cumsum(counts[units]))

    @property
    def documents(self) -> int:
        """Number of documents."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def pieces(self, first: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (row group, first, end) for the documents [first, end)."""
        place = int(np.searchsorted(self.ends, first, side="right"))
        while first < end:
            start = int(self.ends[place - 1]) if place else 0
            stop = min(end, int(self.ends[place]))
            yield int(self.units[place]), first - start, stop - start
            first, place = stop, place + 1
