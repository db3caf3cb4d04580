"""The pass that writes a run: kept documents, one decision per document, and dead letters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.corpus import Corpus, group_strings
from ..connectors.errors import TamisError
from ..connectors.files import Written
from ..connectors.shards import Shard
from ..scoring.scorer import Documents, FittedScorer, Statistic
from ..selectors.decide import reasons_of
from .decided import Decisions
from .passes import Control, Result, merge_results
from .score import dead_address, document_address

DATA_FILE_BYTES = 64 << 20
"""A data file is closed after the shard with which it holds so many bytes of text,"""

PART_BYTES = 256 << 20
"""or for which so many bytes are read: one worker writes it, and others should have work too."""

ROW_GROUP_ROWS = 4096
ROW_GROUP_BYTES = 32 << 20

OWN_COLUMNS = ("key", "weight")
"""Columns that Tamis adds to the data files; a corpus that has them already keeps its own as `source_…`."""

FILES_SCHEMA = pa.schema([("path", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string())])


@dataclass(frozen=True)
class OutputPart:
    """What one worker writes in one go.

    shards: consecutive ones, with the number of the first row of each of their pieces in its file; data_file: name
    of the file for their kept documents, None when none is kept.
    """

    shards: tuple[tuple[Shard, tuple[int, ...]], ...]
    data_file: str | None


def output_parts(
    shards: Iterable[Shard], first_rows: dict[int, list[int]], kept: dict[int, tuple[int, int]]
) -> list[OutputPart]:
    """Group consecutive shards into data files. kept: documents and bytes of text kept, by shard."""
    runs: list[list[Shard]] = [[]]
    for shard in shards:
        runs[-1].append(shard)
        to_read = sum(s.bytes for s in runs[-1] if kept[s.index][0])
        if to_read >= PART_BYTES or sum(kept[s.index][1] for s in runs[-1]) >= DATA_FILE_BYTES:
            runs.append([])
    parts = []
    data_files = itertools.count()
    for run in filter(None, runs):
        some = any(kept[shard.index][0] for shard in run)
        name = f"part-{next(data_files):06d}.parquet" if some else None
        parts.append(OutputPart(tuple((shard, tuple(first_rows[shard.index])) for shard in run), name))
    return parts


def data_schema(corpus: Corpus, scores: dict[str, pa.DataType]) -> pa.Schema:
    """Return the schema of the data files: the corpus's own columns, key, weight, then the chosen scores."""
    own = [field.with_name(source_name(field.name)) for field in corpus.schema]
    return pa.schema([*own, ("key", pa.uint64()), ("weight", pa.float32()), *scores.items()])


def source_name(column: str) -> str:
    """Return the name in the data files of a column of the corpus."""
    return f"source_{column}" if column in OWN_COLUMNS else column


@dataclass
class EmitPass:
    """Writes the files of one output part. folder: the run's partial directory.

    scores: all score columns with their types, for the decisions; carried: those that go into the data files too;
    fitted: fitted scorers by score, which describe what was kept.
    """

    decisions: Decisions
    folder: str
    scores: dict[str, pa.DataType]
    carried: list[str]
    fitted: dict[str, FittedScorer] = field(default_factory=dict)

    def do(self, part: OutputPart, control: Control) -> Result:
        """Write the files of a part; return their names and hashes, and statistics of the kept documents."""
        written: list[tuple[str, int, Written]] = []
        selected = {score: scorer.start() for score, scorer in self.fitted.items()}
        decided = {}
        for shard, first_rows in part.shards:
            shard_rows = _DecidedShard(self, shard, first_rows)
            decided[shard.index] = shard_rows
            for kind, table in (("decisions", shard_rows.decisions()), ("dead_letters", shard_rows.dead_letters())):
                if table.num_rows:
                    name = f"{kind}/part-{shard.index:06d}.parquet"
                    written.append((name, table.num_rows, self._write_small(name, table)))
        if part.data_file is not None:
            name = f"data/{part.data_file}"
            rows = sum(int(d.kept.sum()) for d in decided.values())
            documents = (
                table for shard, _ in part.shards for table in self._kept(decided[shard.index], selected, control)
            )
            schema = data_schema(self.decisions.columns.corpus, {c: self.scores[c] for c in self.carried})
            target = f"{self.folder}/{name}"
            written.append((name, rows, files.write_atomically(target, lambda f: write_data(f, schema, documents))))
        result: Result = {
            "files": pa.Table.from_pylist(
                [{"path": p, "rows": n, "bytes": w.bytes, "sha256": w.sha256} for p, n, w in written], FILES_SCHEMA
            )
        }
        for score, statistic in selected.items():
            result |= {f"statistic {score} selected {key}": value for key, value in statistic.items()}
        return result

    def merge(self, results: list[Result]) -> Result:
        """Add statistics, concatenate the list of files."""
        return merge_results(results)

    def _write_small(self, name: str, table: pa.Table) -> Written:
        return files.write_atomically(
            f"{self.folder}/{name}",
            lambda file: pq.write_table(table, file, compression="zstd", row_group_size=1 << 17),
        )

    def _kept(self, shard: _DecidedShard, selected: dict[str, Statistic], control: Control) -> Iterator[pa.Table]:
        """Read a shard's kept documents again, with all columns of the corpus, and add ours."""
        if not shard.kept.any():
            return
        corpus = self.decisions.columns.corpus
        done = 0
        for _, records in corpus.read(shard.shard, None):
            control.check()
            rows = slice(done, done + len(records.rows))
            done = rows.stop
            if not np.array_equal(shard.rows[rows], records.rows):
                raise TamisError(f"{shard.shard.pieces[0].url} changed while the run was reading it; run again")
            control.advance(size=records.table.nbytes)
            kept = shard.kept[rows]
            if not kept.any():
                continue
            table = records.table.filter(pa.array(kept))
            documents = Documents(
                table.column(corpus.config.text).combine_chunks(),
                shard.keys[rows][kept],
                group_strings(table, corpus.config),
            )
            for score, scorer in self.fitted.items():
                scorer.update(selected[score], documents, of_corpus=False)
            yield self._with_own_columns(table, shard, rows, kept)
        if done != len(shard.rows):
            raise TamisError(f"{shard.shard.pieces[0].url} changed while the run was reading it; run again")

    def _with_own_columns(
        self, table: pa.Table, shard: _DecidedShard, rows: slice, kept: NDArray[np.bool_]
    ) -> pa.Table:
        schema = self.decisions.columns.corpus.schema
        columns = {
            source_name(field.name): table.column(field.name).cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        }
        columns |= {"key": pa.array(shard.keys[rows][kept]), "weight": pa.array(shard.weights[rows][kept])}
        start = rows.start
        for name in self.carried:
            columns[name] = shard.scores[name].slice(start, rows.stop - start).filter(pa.array(kept))
        return pa.table(columns)


class _DecidedShard:
    """A shard's rows with everything that was decided about them."""

    def __init__(self, emit: EmitPass, shard: Shard, first_rows: tuple[int, ...]) -> None:
        self.emit, self.shard, self.first_rows = emit, shard, first_rows
        decisions = emit.decisions
        rows, self.reason = decisions.rows(shard)
        self.keys = rows.keys
        self.kept = self.reason < 0
        self.weights = decisions.weights(rows, self.reason)
        columns = decisions.columns
        self.document = columns.store.read_table(
            document_address(columns.corpus), shard, ["piece", "row", "tokens", "group"]
        )
        self.rows = self.document["row"].to_numpy()
        self.scores = {name: columns.stored(shard, name, len(rows)) for name in emit.scores}

    def decisions(self) -> pa.Table:
        """One row per readable document, in the order of the shard."""
        piece = self.document["piece"].to_numpy()
        names = reasons_of([stored.step for stored in self.emit.decisions.steps])
        reason = pa.array(self.reason.astype(np.int32), mask=self.kept)
        return pa.table(
            {
                "key": self.keys,
                "source": self._sources(piece),
                "row": self.rows + self._offsets(piece),
                "group": self.document["group"].cast(pa.string()).combine_chunks().dictionary_encode(),
                "tokens": self.document["tokens"],
                "kept": self.kept,
                "reason": pa.DictionaryArray.from_arrays(reason, pa.array(names)),
                "weight": self.weights,
                **self.scores,
            }
        )

    def dead_letters(self) -> pa.Table:
        """The documents that could not be read, in the order of the shard."""
        columns = self.emit.decisions.columns
        address = dead_address(columns.corpus)
        if not columns.store.has(address, self.shard):
            return pa.table({})
        dead = columns.store.read_table(address, self.shard)
        piece = dead["piece"].to_numpy()
        row = dead["row"].to_numpy() + self._offsets(piece)
        return pa.table(
            {"source": self._sources(piece), "row": row, **{name: dead[name] for name in ("stage", "error", "raw")}}
        )

    def _sources(self, piece: NDArray[np.int32]) -> pa.DictionaryArray:
        urls = pa.array([p.url for p in self.shard.pieces])
        return pa.DictionaryArray.from_arrays(pa.array(piece, pa.int32()), urls)

    def _offsets(self, piece: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.asarray(self.first_rows, dtype=np.int64)[piece]


def write_data(file: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables to one Parquet file in row groups of ROW_GROUP_ROWS, fewer where these exceed ROW_GROUP_BYTES."""
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        pending = schema.empty_table()
        for table in tables:
            pending = pa.concat_tables([pending, table.select(schema.names).cast(schema)])
            while pending.num_rows >= ROW_GROUP_ROWS:
                writer.write_table(pending.slice(0, ROW_GROUP_ROWS), row_group_size=ROW_GROUP_ROWS)
                pending = pending.slice(ROW_GROUP_ROWS)
            if pending.nbytes >= ROW_GROUP_BYTES:
                writer.write_table(pending, row_group_size=ROW_GROUP_ROWS)
                pending = schema.empty_table()
        if pending.num_rows:
            writer.write_table(pending, row_group_size=ROW_GROUP_ROWS)
