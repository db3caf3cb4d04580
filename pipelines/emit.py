"""The pass that writes a run: kept documents, one decision per document, and dead letters."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors.atomic import write_atomically
from ..connectors.corpus import Corpus
from ..connectors.errors import TamisError
from ..connectors.records import one_array
from ..connectors.shards import Shard
from ..scoring.scorer import TOKENIZER, Documents, FittedScorer, Statistic, is_number
from ..selectors.decide import Rows, reasons_of
from ..selectors.q_tuning import QTuning
from ..selectors.weigh_tokens import QTuningMask, TokenWeigher, weigh_tokens
from .decided import Decisions
from .passes import Control, Result, Work
from .reading import PARENT_KEY, POSITION, read_documents
from .score import dead_address, document_address

DATA_FILE_BYTES = 64 << 20
"""A data file is closed after the shard with which it holds so many bytes of text,"""

PART_BYTES = 64 << 20
"""or for which so many bytes are read, since one worker writes a part and others should have work too;"""

PARTS = 128
"""but a large corpus has no more parts for that reason than these."""

ROW_GROUP_ROWS = 4096
ROW_GROUP_BYTES = 32 << 20

TOKEN_WEIGHTS = "token_weights"

OWN_COLUMNS = ("key", "weight", TOKEN_WEIGHTS)
"""Columns that Tamis adds to the data files; a corpus that has them already keeps its own as `source_…`."""

PIECES = (PARENT_KEY, POSITION)

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
    shards = list(shards)
    most = max(PART_BYTES, sum(shard.bytes for shard in shards) // PARTS)
    runs: list[list[Shard]] = [[]]
    read = text = 0
    for shard in shards:
        runs[-1].append(shard)
        read, text = read + shard.bytes, text + kept[shard.index][1]
        if read >= most or text >= DATA_FILE_BYTES:
            runs.append([])
            read = text = 0
    parts = []
    data_files = itertools.count()
    for run in filter(None, runs):
        some = any(kept[shard.index][0] for shard in run)
        name = f"part-{next(data_files):06d}.parquet" if some else None
        parts.append(OutputPart(tuple((shard, tuple(first_rows[shard.index])) for shard in run), name))
    return parts


def data_schema(corpus: Corpus, scores: list[pa.Field], token_weights: pa.Field | None = None) -> pa.Schema:
    """Return the schema of the data files: the corpus's own columns, key, weight, the chosen scores, token weights."""
    names = source_names(corpus.schema.names, corpus.config.chunk is not None)
    own = [field.with_name(names[field.name]) for field in corpus.schema]
    pieces = [(PARENT_KEY, pa.uint64()), (POSITION, pa.int32())] if corpus.config.chunk is not None else []
    columns = [*own, *pieces, ("key", pa.uint64()), ("weight", pa.float32()), *scores]
    columns += [token_weights] if token_weights is not None else []
    return pa.schema(columns, metadata=corpus.schema.metadata)


def source_names(columns: Sequence[str], in_pieces: bool = False) -> dict[str, str]:
    """Return the name in the data files of each column of the corpus: its own, unless Tamis has one of that name.

    in_pieces: documents are cut, which adds columns.
    """
    ours = {*OWN_COLUMNS, *((PARENT_KEY, POSITION) if in_pieces else ())}
    names = {}
    for column in columns:
        names[column] = column
        while names[column] in ours or (names[column] != column and names[column] in columns):
            names[column] = f"source_{names[column]}"
    return names


@dataclass
class EmitPass(Work):
    """Writes the files of one output part. folder: the run's partial directory.

    scores: all score columns, for the decisions; carried: those that go into the data files too;
    fitted: fitted scorers by score, which describe what was kept; token_weigher: makes the column TOKEN_WEIGHTS;
    tokenizer: the fingerprint of its tokenizer, kept in the column's metadata.
    """

    decisions: Decisions
    folder: str
    scores: dict[str, pa.Field]
    carried: list[str]
    fitted: dict[str, FittedScorer] = field(default_factory=dict)
    token_weigher: TokenWeigher | None = None
    tokenizer: str = ""

    @property
    def token_weights(self) -> pa.Field | None:
        """The column of token weights, if there is one."""
        if self.token_weigher is None:
            return None
        metadata = {TOKENIZER: self.tokenizer, "token_weights": self.token_weigher.model_dump_json()}
        return pa.field(TOKEN_WEIGHTS, pa.list_(pa.float16()), metadata=metadata)

    def do(self, part: OutputPart, control: Control) -> Result:
        """Write the files of a part; return their names and hashes, and statistics of the kept documents."""
        return _Part(self, control).write(part)


class _Part:
    """The writing of one output part. written: its files so far; selected: statistics of kept documents, by score."""

    def __init__(self, emit: EmitPass, control: Control) -> None:
        self.emit, self.control = emit, control
        self.written: list[dict[str, object]] = []
        self.selected: dict[str, Statistic] = {score: scorer.start() for score, scorer in emit.fitted.items()}

    def write(self, part: OutputPart) -> Result:
        """Write everything; see EmitPass.do."""
        emit = self.emit
        tables = itertools.chain.from_iterable(self._emit(*shard) for shard in part.shards)
        if part.data_file is None:
            for _ in tables:
                raise TamisError("a shard keeps documents though none were counted; run again")
        else:
            schema = data_schema(
                emit.decisions.columns.corpus, [emit.scores[c] for c in emit.carried], emit.token_weights
            )
            self._write(f"data/{part.data_file}", lambda file: write_data(file, schema, tables))
        result: Result = {"files": pa.Table.from_pylist(self.written, FILES_SCHEMA)}
        for score, statistic in self.selected.items():
            result |= {f"statistic {score} selected {key}": value for key, value in statistic.items()}
        return result

    def _emit(self, shard: Shard, first_rows: tuple[int, ...]) -> Iterator[pa.Table]:
        """Write a shard's decisions and dead letters, then yield its kept documents."""
        self.control.check()
        decided = _DecidedShard(self.emit, shard, first_rows)
        for kind, table in (("decisions", decided.decisions()), ("dead_letters", decided.dead_letters())):
            if table.num_rows:
                self._write(f"{kind}/part-{shard.index:06d}.parquet", functools.partial(write_small, table))
        if decided.kept.any():
            yield from self._kept(decided)

    def _write(self, name: str, write: Callable[[IO[bytes]], int]) -> None:
        """Write a file and note it. write: returns the number of rows."""
        rows: list[int] = []
        whole = write_atomically(f"{self.emit.folder}/{name}", lambda file: rows.append(write(file)))
        self.written.append({"path": name, "rows": rows[0], "bytes": whole.bytes, "sha256": whole.sha256})

    def _kept(self, shard: _DecidedShard) -> Iterator[pa.Table]:
        """Read a shard's kept documents again, with all columns of the corpus, and add ours."""
        corpus = self.emit.decisions.columns.corpus
        done = 0
        for _, batch in read_documents(corpus, shard.shard, None):
            self.control.check()
            rows = slice(done, done + len(batch.rows))
            done = rows.stop
            if not np.array_equal(shard.rows[rows], batch.rows):
                raise TamisError(f"{shard.shard.pieces[0].url} changed while the run was reading it; run again")
            self.control.advance(size=batch.table.nbytes)
            kept = shard.kept[rows]
            if not kept.any():
                continue
            table = batch.table.filter(pa.array(kept))
            documents = Documents(batch.documents.text.filter(pa.array(kept)), shard.keys[rows][kept])
            for score, scorer in self.emit.fitted.items():
                scorer.update(self.selected[score], documents, of_corpus=False)
            yield self._with_own_columns(table, shard, rows, kept)
        if done != len(shard.rows):
            raise TamisError(f"{shard.shard.pieces[0].url} changed while the run was reading it; run again")

    def _with_own_columns(
        self, table: pa.Table, shard: _DecidedShard, rows: slice, kept: NDArray[np.bool_]
    ) -> pa.Table:
        schema = self.emit.decisions.columns.corpus.schema
        names = source_names(schema.names, shard.is_cut)
        columns = {
            names[field.name]: table.column(field.name).cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        }
        if shard.is_cut:
            pieces = shard.document.select(PIECES).slice(rows.start, len(kept)).filter(pa.array(kept))
            columns |= {name: pieces[name] for name in PIECES}
        columns |= {"key": pa.array(shard.keys[rows][kept]), "weight": pa.array(shard.weights[rows][kept])}
        start = rows.start
        for name in self.emit.carried:
            columns[name] = shard.scores[name].slice(start, rows.stop - start).filter(pa.array(kept))
        if (weigher := self.emit.token_weigher) is not None:
            part = {name: shard.scores[name].slice(start, rows.stop - start) for name in weigher.needs}
            losses = {name: one_array(lists.filter(pa.array(kept))) for name, lists in part.items()}
            columns[TOKEN_WEIGHTS] = weigh_tokens(weigher, losses, shard.whole[rows][kept])
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
        self.whole = self._whole(rows)
        columns = decisions.columns
        self.is_cut = columns.corpus.config.chunk is not None
        wanted = ["piece", "row", "tokens", "group", *(PIECES if self.is_cut else ())]
        self.document = columns.store.read_table(document_address(columns.corpus), shard, wanted)
        self.rows = self.document["row"].to_numpy()
        self.scores = columns.stored(shard, emit.scores, len(rows))

    def _whole(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which documents' tokens all count, bool[n]: those that are triaged into other quadrants than 2."""
        weigher = self.emit.token_weigher
        whole = np.zeros(len(rows), np.bool_)
        if isinstance(weigher, QTuningMask) and weigher.triage is not None:
            decided = next(s for s in self.emit.decisions.steps if s.step.name == weigher.triage).load()
            assert isinstance(decided.step, QTuning) and decided.plane is not None
            scores = [rows.scores[column][self.kept] for column in decided.step.ranked_by]
            whole[self.kept] = decided.plane.quadrant(*scores) != 2
        return whole

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
                **{name: self.document[name] for name in (PIECES if self.is_cut else ())},
                **{name: values for name, values in self.scores.items() if is_number(values.type)},
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


def write_small(table: pa.Table, file: IO[bytes]) -> int:
    """Write a shard's decisions or dead letters; returns the number of rows."""
    # keys as they are: `tamis explain` scans them; and no dictionaries of scores, which all differ
    keys = {field.name for field in table.schema if pa.types.is_uint64(field.type)}
    differ = keys | {field.name for field in table.schema if pa.types.is_float64(field.type)}
    pq.write_table(
        table,
        file,
        compression={name: "none" if name in keys else "zstd" for name in table.column_names},
        use_dictionary=[name for name in table.column_names if name not in differ],
        row_group_size=1 << 17,
    )
    return int(table.num_rows)


def write_data(file: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write tables to one Parquet file in row groups of ROW_GROUP_ROWS, fewer where these exceed ROW_GROUP_BYTES.

    Returns the number of rows.
    """
    rows = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        pending: list[pa.Table] = []
        count = size = 0
        for table in tables:
            plain = table.select(schema.names).cast(schema)
            pending.append(plain)
            rows, count, size = rows + plain.num_rows, count + plain.num_rows, size + plain.nbytes
            if count >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
                joined = pa.concat_tables(pending)
                whole = count if size >= ROW_GROUP_BYTES else count - count % ROW_GROUP_ROWS
                writer.write_table(joined.slice(0, whole), row_group_size=ROW_GROUP_ROWS)
                pending = [joined.slice(whole)]
                count, size = pending[0].num_rows, pending[0].nbytes
        if count:
            writer.write_table(pa.concat_tables(pending), row_group_size=ROW_GROUP_ROWS)
    return rows
