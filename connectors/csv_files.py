"""Reader for CSV (RFC 4180) with a header line: one stream per file, plain, gzip or zstd.

Not by byte range: whether a line end ends a record depends on all quotes before it. And not by pyarrow.csv, which
fails on a record longer than its block, joins what follows a closing quote to the field, takes a field that never
closes for a good one, and cannot give all other columns as one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .corpus_config import CorpusConfig
from .csv_scan import FIELD_START, QUOTED, Scanned, column_of, json_objects, last_record_end, scan_records
from .errors import TamisError, nearest
from .files import FileInfo, compression_of, open_input
from .format import ARCHIVE_RATIO, EXTRA, LineFormat, wanted
from .lines import DamagedStreamError, decompressed_chunks, range_chunks
from .records import BATCH_BYTES, RAW_BYTES, DeadRow, Piece, Records
from .utf8 import first_invalid

MAX_RECORD_BYTES = 256 << 20
"""A longer record is dead: a quote that is never closed must not bring the rest of a file into memory."""

MAX_HEADER_BYTES = 1 << 20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_STRAY_QUOTE = "text after a closing quote (a quote inside a field is written twice)"


class CSV(LineFormat):
    """Comma- or tab-separated values with a header line; plain, .gz or .zst."""

    def check(self, config: CorpusConfig, file: FileInfo, columns: Sequence[str]) -> None:
        """Raise ValueError for a column that the header does not have."""
        with open_input(file.url) as source:
            check_header(source, columns, delimiter_of(config, file.url), compression_of(file.url))

    def cut(self, file: FileInfo, shard_bytes: int) -> list[Piece]:
        """A file is one piece: where a record begins depends on all that is before it."""
        ratio = ARCHIVE_RATIO if compression_of(file.url) else 1
        return [Piece(file.url, file.version, 0, file.size, file.size * ratio)]

    def read(self, config: CorpusConfig, piece: Piece, columns: Sequence[str] | None) -> Iterator[Records]:
        """Read a file."""
        with open_input(piece.url) as source:
            try:
                yield from read_csv(
                    source,
                    wanted(config, columns),
                    delimiter=delimiter_of(config, piece.url),
                    extra=columns is None,
                    compression=compression_of(piece.url),
                )
            except ValueError as error:
                raise TamisError(f"{piece.url}: {error}") from error


def delimiter_of(config: CorpusConfig, url: str) -> str:
    """Return what separates fields: as the recipe says, else a tab for .tsv and a comma."""
    if config.delimiter is not None:
        return config.delimiter
    suffixes = [suffix.lower() for suffix in Path(url).suffixes]
    return "\t" if ".tsv" in suffixes[-2:] else ","


def read_csv(
    source: pa.NativeFile,
    columns: Sequence[str],
    *,
    delimiter: str,
    extra: bool = False,
    compression: str | None = None,
    block_bytes: int = 8 << 20,
) -> Iterator[Records]:
    """Yield the rows of a CSV file, about `BATCH_BYTES` at a time.

    source: an open file that can seek, of the bytes as stored; columns: the declared columns, all of which come out as
    large_string (an empty field is the empty string, quoted or not); delimiter: one ASCII character; extra: add a
    large_string column `extra` with one JSON object per row that holds all other fields, as strings; compression: None,
    `gzip` or `zstd`; block_bytes: how much is read at once.

    The first record is the header. `Records.rows` counts the records after it from 0; empty lines are none. Lines end
    with LF or CRLF; a lone CR is data. A record with another number of fields than the header, with text after a
    closing quote, with invalid UTF-8, longer than `MAX_RECORD_BYTES`, or with a quoted field that never closes is a
    dead row, and depends neither on its neighbours nor on the columns asked for. A damaged compressed stream ends with
    one dead row for what was lost. In memory are about two blocks, or three times a record that is longer than those.

    Raises ValueError, before the first row, for a header that cannot be used (see `check_header`) or a bad delimiter.
    A file without any record has no rows.
    """
    declared = list(dict.fromkeys(columns))
    nothing = pa.schema([(name, pa.large_string()) for name in [*declared, *([EXTRA] if extra else [])]]).empty_table()
    no_rows = np.empty(0, dtype=np.int64)
    row = 0
    try:
        names, blocks = _open(source, delimiter, compression, block_bytes)
        if names is None:
            return
        _check_names(names, declared)
        parser = _Parser(names, declared, ord(delimiter), extra)
        for block in blocks:
            if block.fault is not None:
                dead = DeadRow(row, "read", block.fault, block.data[:RAW_BYTES])
                yield Records(nothing, no_rows, row + 1, [dead])
                row += 1
                continue
            for records in parser.parse(block.data, row):
                row = records.next_row
                yield records
    except DamagedStreamError as damage:
        dead = DeadRow(row, "read", f"{damage} after {row} records", damage.partial[:RAW_BYTES])
        yield Records(nothing, no_rows, row + 1, [dead])


def check_header(
    source: pa.NativeFile, names: Sequence[str], delimiter: str, compression: str | None = None
) -> list[str]:
    """Return the names of all columns; [] where a damaged stream ends before them (`read_csv` makes its dead row).

    source: an open file of the bytes as stored; names: those that must be among them. Raises ValueError when one is
    not, naming the nearest, when a name comes twice, and when there is no header that can be read.
    """
    try:
        found, _ = _open(source, delimiter, compression, MAX_HEADER_BYTES)
    except DamagedStreamError:
        return []
    if found is None:
        raise ValueError("it has no header line")
    _check_names(found, names)
    return found


def _check_names(found: Sequence[str], names: Sequence[str]) -> None:
    twice = next((name for number, name in enumerate(found) if name in found[:number]), None)
    if twice is not None:
        raise ValueError(f"two columns are called `{twice}` in its header; rename one")
    for name in names:
        if name not in found:
            raise ValueError(f"there is no column `{name}` in its header{nearest(name, found)}")


@dataclass(frozen=True)
class _Block:
    """Whole records; or, with a fault, the beginning of one that cannot be read."""

    data: bytes
    fault: str | None = None


def _open(
    source: pa.NativeFile, delimiter: str, compression: str | None, block_bytes: int
) -> tuple[list[str] | None, Iterator[_Block]]:
    """Return the names in the header, None where there is no record, and the blocks after it."""
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise ValueError(f"a delimiter is one ASCII character, not a quote or line end; {delimiter!r} is not")
    if compression is None:
        chunks = range_chunks(source, 0, None, block_bytes)
    else:
        chunks = decompressed_chunks(source, compression, block_bytes)
    blocks = _record_blocks(_without_mark(chunks), ord(delimiter))
    for block in blocks:
        if block.fault is not None:
            raise ValueError(f"its header cannot be read: {block.fault}")
        scanned = scan_records(np.frombuffer(block.data, dtype=np.uint8), 0, 1, ord(delimiter))
        if len(scanned.stray):
            return _names(block.data, scanned), chain([_Block(block.data[scanned.stop :])], blocks)
    return None, iter(())


def _names(data: bytes, scanned: Scanned) -> list[str]:
    if scanned.record_ends[0] - scanned.record_starts[0] > MAX_HEADER_BYTES:
        raise ValueError(f"its header cannot be read: it has more than {MAX_HEADER_BYTES:,} bytes")
    if scanned.stray[0]:
        raise ValueError(f"its header cannot be read: {_STRAY_QUOTE}")
    fields = [data[start:end] for start, end in zip(scanned.starts.tolist(), scanned.ends.tolist(), strict=True)]
    try:
        names = [field.decode() for field in fields]
    except UnicodeDecodeError:
        raise ValueError("its header is not valid UTF-8") from None
    return [name.replace('""', '"') if twice else name for name, twice in zip(names, scanned.doubled, strict=True)]


def _without_mark(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Take off a byte order mark, after which a quote would not be the first byte of its field."""
    head: bytes | None = b""
    for chunk in chunks:
        if head is not None:
            head += chunk
            if len(head) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(head):
                continue
            chunk, head = head.removeprefix(_BYTE_ORDER_MARK), None
        yield chunk
    if head:
        yield head


def _record_blocks(chunks: Iterable[bytes], delimiter: int) -> Iterator[_Block]:
    """Join pieces of a stream into blocks of whole records, each with its line end.

    A DamagedStreamError passes through with the bytes of the broken record, after all whole ones were yielded.
    """
    pending: list[bytes] = []
    size = 0
    state = FIELD_START
    most = MAX_RECORD_BYTES + 1  # the last byte may be the CR of a line end
    try:
        for chunk in chunks:
            first, last, state = last_record_end(np.frombuffer(chunk, dtype=np.uint8), state, delimiter)
            if last and size > most:
                yield _Block(b"".join(pending), _too_long())
                pending, size, chunk, last = [], 0, chunk[first:], last - first
            if last:
                yield _Block(b"".join([*pending, memoryview(chunk)[:last]]))
                pending, size, chunk = [], 0, chunk[last:]
            pending.append(chunk)
            size += len(chunk)
            if size > most:
                pending = [b"".join(pending)[:RAW_BYTES]]
    except DamagedStreamError as damage:
        damage.partial = b"".join(pending)[:RAW_BYTES]
        raise
    if size > MAX_RECORD_BYTES + (state != QUOTED):
        yield _Block(b"".join(pending), _too_long())
    elif state == QUOTED:
        yield _Block(b"".join(pending), "a quoted field never closes")
    elif size:
        yield _Block(b"".join([*pending, b"\n"]))


@dataclass(frozen=True)
class _Parser:
    """names: all columns of the file; columns: the declared ones."""

    names: list[str]
    columns: list[str]
    delimiter: int
    extra: bool

    def parse(self, block: bytes, row: int) -> Iterator[Records]:
        """Parse whole records, of which the first has the number `row`."""
        data = np.frombuffer(block, dtype=np.uint8)
        position = 0
        while position < len(block):
            scanned = scan_records(data, position, BATCH_BYTES, self.delimiter)
            position = scanned.stop
            if len(scanned.stray):
                yield self._records(data, scanned, row)
                row += len(scanned.stray)

    def _records(self, data: NDArray[np.uint8], scanned: Scanned, row: int) -> Records:
        faults = self._faults(data, scanned)
        alive = np.ones(len(scanned.stray), dtype=bool)
        alive[list(faults)] = False
        numbers = np.flatnonzero(alive)
        first_fields = scanned.first_field[numbers]
        table = {name: column_of(data, scanned, first_fields + self.names.index(name)) for name in self.columns}
        if self.extra:
            others = [number for number, name in enumerate(self.names) if name not in self.columns]
            keys = [json.dumps(self.names[number], ensure_ascii=False) + ":" for number in others]
            table[EXTRA] = json_objects(data, scanned, first_fields, others, keys)
        dead = [
            DeadRow(row + number, "read", error, self._raw(data, scanned, number))
            for number, error in sorted(faults.items())
        ]
        return Records(pa.table(table), numbers + row, row + len(alive), dead)

    def _faults(self, data: NDArray[np.uint8], scanned: Scanned) -> dict[int, str]:
        """Return why records are dead, by their number; of several reasons the gravest."""
        invalid = first_invalid(np.append(scanned.record_starts, scanned.stop), data)
        fields = np.diff(scanned.first_field)
        faults = {i: f"not valid UTF-8 at byte {invalid[i]}" for i in np.flatnonzero(invalid >= 0).tolist()}
        for i in np.flatnonzero(fields != len(self.names)).tolist():
            faults[i] = f"record has {fields[i]} fields, the header {len(self.names)}"
        faults |= dict.fromkeys(np.flatnonzero(scanned.stray).tolist(), _STRAY_QUOTE)
        sizes = scanned.record_ends - scanned.record_starts
        return faults | dict.fromkeys(np.flatnonzero(sizes > MAX_RECORD_BYTES).tolist(), _too_long())

    def _raw(self, data: NDArray[np.uint8], scanned: Scanned, number: int) -> bytes:
        start, end = int(scanned.record_starts[number]), int(scanned.record_ends[number])
        return data[start : min(end, start + RAW_BYTES)].tobytes()


def _too_long() -> str:
    return f"record of more than {MAX_RECORD_BYTES:,} bytes (is a quote never closed?)"
