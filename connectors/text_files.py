"""Reader for plain text: a file is one document, or the blocks of lines between blank lines are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from .byte_kernels import copy_bytes, find_either
from .corpus_config import CorpusConfig
from .errors import RecipeError
from .files import compression_of, expand, open_input
from .format import Format, Listing, cut_by_bytes
from .keys import constant
from .lines import DamagedStreamError, decompressed_chunks, line_blocks, range_chunks
from .records import BATCH_BYTES, RAW_BYTES, DeadRow, Piece, Records
from .utf8 import first_invalid

MAX_DOCUMENT_BYTES = 1 << 30
"""A longer document is dead: a large file without blank lines must not come into memory whole."""

_OVERHANG_BYTES = 256 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NEWLINE, _RETURN, _TAB, _SPACE = 10, 13, 9, 32


class TextFiles(Format):
    """Plain text, .gz or .zst: one column, the text."""

    def find(self, name: str, config: CorpusConfig, shard_bytes: int, skip_unreadable: bool) -> Listing:
        """List the files, and cut those that are split at blank lines by bytes."""
        (column,) = config.content_columns.values()
        for role, other in config.named_columns.items():
            if other != column:
                raise RecipeError(f"{name}.{role}: format text has one column, the text; leave `{role}` out")
        files = expand(config.paths, f"{name}.paths")
        whole = [[Piece(file.url, file.version, 0, file.size, file.size)] for file in files]
        cut = [cut_by_bytes(file, shard_bytes) for file in files]
        in_one = [config.split == "file" and compression_of(file.url) is None for file in files]
        pieces = [one if keep else parts for one, parts, keep in zip(whole, cut, in_one, strict=True)]
        return Listing(files, pieces, pa.schema([(column, pa.string())]))

    def read(self, config: CorpusConfig, piece: Piece, columns: Sequence[str] | None) -> Iterator[Records]:
        """Read the documents that begin in a piece."""
        compression = compression_of(piece.url)
        by_range = compression is None and config.split == "blank_lines"
        with open_input(piece.url) as source:
            yield from read_text(
                source,
                piece.start,
                piece.end if by_range else None,
                split=config.split,
                column=config.text or "text",
                compression=compression,
            )


def read_text(
    source: pa.NativeFile,
    start: int,
    end: int | None,
    *,
    split: Literal["file", "blank_lines"],
    column: str = "text",
    compression: str | None = None,
    block_bytes: int = 8 << 20,
) -> Iterator[Records]:
    """Yield the documents of a text file, about `BATCH_BYTES` at a time, as the large_string column `column`.

    source: an open file that can seek, of the bytes as stored; start, end: byte range of a plain file that is split at
    blank lines (see below; None for the end of the file), else 0 and None; split: `file` makes one document of the
    file, even of an empty one; `blank_lines` makes one of each run of lines that are not blank; compression: None,
    `gzip` or `zstd`; block_bytes: how much is read at once.

    A document is the bytes as they stand in the file, but for a byte order mark at its start and, between blank lines,
    its last line end (LF or CRLF). A line is blank that holds nothing but ASCII white space. A byte range has the
    documents before which the nearest blank line starts in it, and the first range the one at the start of the file:
    so no reader looks back, and ranges that cover a file without overlap yield every document once.

    `Records.rows` counts documents from 0. A document that is not UTF-8, or longer than `MAX_DOCUMENT_BYTES`, is a dead
    row. A damaged compressed stream ends with one dead row for the document that it breaks. In memory are about two
    blocks, or three times a document that is longer than those.
    """
    if (start != 0 or end is not None) and (compression is not None or split == "file"):
        raise ValueError(f"a {compression or 'text'} file that is one piece cannot be read by byte range")
    if compression is not None:
        chunks = decompressed_chunks(source, compression, block_bytes)
    else:
        chunks = range_chunks(source, start, end, block_bytes)
    if split == "file":
        blocks = _whole_file(chunks)
    else:
        beyond = () if end is None else range_chunks(source, end, None, min(block_bytes, _OVERHANG_BYTES))
        lines = line_blocks(_without_endless_lines(chunks), block_bytes)
        if start == 0:
            lines = _without_mark(lines)
        owned = _owned_lines(lines, line_blocks(beyond, 0), from_start=start == 0 and end != 0)
        blocks = _whole_documents(owned)
    row = 0
    try:
        for block in blocks:
            for records in _batches(block, row, column):
                row = records.next_row
                yield records
    except DamagedStreamError as damage:
        dead = DeadRow(row, "read", f"{damage} after {row} documents", damage.partial[:RAW_BYTES])
        yield Records(_table(column, pa.array([], pa.large_string())), np.empty(0, dtype=np.int64), row + 1, [dead])


@dataclass(frozen=True)
class _Block:
    """Documents: data[starts[i]:ends[i]], both int64[n]; cut: of the only one, too long, here is just the beginning."""

    data: bytes | bytearray
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    cut: bool = False


def _whole_file(chunks: Iterable[bytes]) -> Iterator[_Block]:
    content = bytearray()
    try:
        for chunk in chunks:
            content += chunk
            if len(content) > MAX_DOCUMENT_BYTES + len(_BYTE_ORDER_MARK):
                break
    except DamagedStreamError as damage:
        damage.partial = bytes(content[:RAW_BYTES])
        raise
    start = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0
    yield _Block(content, np.array([start]), np.array([len(content)]))


def _without_endless_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Leave out what follows in a line that is longer than a document may be."""
    line = 0
    for chunk in chunks:
        newline = chunk.find(b"\n")
        if line > _most():
            chunk = chunk[newline:] if newline >= 0 else b""
        yield chunk
        line = line + len(chunk) if newline < 0 else len(chunk) - 1 - chunk.rfind(b"\n")


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(blocks, b"").removeprefix(_BYTE_ORDER_MARK)
    yield from blocks


def _owned_lines(lines: Iterable[bytes], beyond: Iterable[bytes], *, from_start: bool) -> Iterator[bytes]:
    """Yield the lines of the documents that belong to a range, in blocks of whole lines.

    lines: blocks of the lines that start in the range; beyond: of those after it; from_start: the first line is the
    file's.
    """
    owned = from_start
    for block in lines:
        if not owned:
            blank = _first_blank(block)
            owned, block = blank < len(block), block[blank:]
        yield block
    if owned:
        for block in beyond:
            blank = _first_blank(block)
            yield block[:blank]
            if blank < len(block):
                return


def _whole_documents(blocks: Iterable[bytes]) -> Iterator[_Block]:
    """Join blocks of whole lines to blocks of whole documents.

    A DamagedStreamError passes through with the bytes of the broken document, after all whole ones were yielded.
    """
    pending: list[bytes] = []  # the beginning of a document whose end has not come
    cut = False
    try:
        for block in blocks:
            starts, ends, is_open = _find_documents(block)
            first = 0
            if pending:
                first = int(len(starts) > 0 and starts[0] == 0)
                pending.append(block[: ends[0]] if first else b"")
                if first and is_open and len(starts) == 1:
                    pending[-1] = block
                    if sum(map(len, pending)) > _most():
                        pending, cut = [b"".join(pending)[:RAW_BYTES]], True
                    continue
                yield _one_document(b"".join(pending), cut)
                pending, cut = [], False
            last = len(starts) - is_open
            yield _Block(block, starts[first:last], ends[first:last])
            if is_open:
                pending = [block[starts[-1] :]]
    except DamagedStreamError as damage:
        damage.partial = (b"".join(pending) + damage.partial)[:RAW_BYTES]
        raise
    if pending:
        yield _one_document(b"".join(pending), cut)


def _one_document(lines: bytes, cut: bool) -> _Block:
    end = len(lines) - (2 if lines.endswith(b"\r\n") else 1 if lines.endswith(b"\n") else 0)
    return _Block(lines, np.zeros(1, dtype=np.int64), np.array([end]), cut)


def _most() -> int:
    return MAX_DOCUMENT_BYTES + 2  # with its line end


def _batches(block: _Block, row: int, column: str) -> Iterator[Records]:
    sizes = block.ends - block.starts
    batch = (np.cumsum(sizes) - sizes) // BATCH_BYTES
    bounds = [0, *(np.flatnonzero(np.diff(batch)) + 1).tolist(), len(sizes)]
    for first, last in pairwise(bounds):
        if first < last:
            yield _records(block, first, last, row + first, column)


def _records(block: _Block, first: int, last: int, row: int, column: str) -> Records:
    """Return documents first to last of a block, of which the first has the number `row`."""
    starts, ends = block.starts[first:last], block.ends[first:last]
    too_long = (ends - starts > MAX_DOCUMENT_BYTES) | block.cut
    faults = dict.fromkeys(np.flatnonzero(too_long).tolist(), f"document of more than {MAX_DOCUMENT_BYTES:,} bytes")
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    np.cumsum(np.where(too_long, 0, ends - starts), out=offsets[1:])
    buffer = pa.allocate_buffer(int(offsets[-1]))  # Arrow keeps freed memory for the next batch
    text = np.frombuffer(buffer, dtype=np.uint8)
    _copy_documents(np.frombuffer(block.data, dtype=np.uint8), starts, offsets, text)
    invalid = first_invalid(offsets, text)
    faults |= {i: f"not valid UTF-8 at byte {invalid[i]}" for i in np.flatnonzero(invalid >= 0).tolist()}
    table = _table(column, pa.Array.from_buffers(pa.large_string(), len(starts), [None, pa.py_buffer(offsets), buffer]))
    alive = np.ones(len(starts), dtype=bool)
    alive[list(faults)] = False
    raw = {i: bytes(block.data[starts[i] : min(starts[i] + RAW_BYTES, ends[i])]) for i in faults}
    dead = [DeadRow(row + i, "read", faults[i], raw[i]) for i in sorted(faults)]
    numbers = np.arange(row, row + len(starts))
    return Records(table.filter(pa.array(alive)) if dead else table, numbers[alive], row + len(starts), dead)


def _table(column: str, text: pa.Array) -> pa.Table:
    return pa.table({column: text})


def _find_documents(lines: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Return starts and ends (the last line end left out) of runs of lines that are not blank, and whether the last
    run reaches the end of the lines.
    """
    data = np.frombuffer(lines, dtype=np.uint8)
    bounds = np.empty((2, lines.count(b"\n") // 2 + 1), dtype=np.int64)
    found, is_open = _find_runs(constant(data), bounds[0], bounds[1])
    return bounds[0, :found].copy(), bounds[1, :found].copy(), bool(is_open)


def _first_blank(lines: bytes) -> int:
    """Return where the first blank line starts, or the length of all."""
    return int(_first_blank_line(constant(np.frombuffer(lines, dtype=np.uint8))))


@njit(nogil=True, cache=True)
def _end_of_space(data: Any, position: Any) -> Any:
    """Return the position of the next byte that is not white space, or is a line feed, or the length of data."""
    while (
        position < len(data)
        and data[position] != _NEWLINE
        and (data[position] == _SPACE or _TAB <= data[position] <= _RETURN)
    ):
        position += 1
    return position


@njit(nogil=True, cache=True)
def _first_blank_line(data: Any) -> Any:
    start = np.int64(0)
    while start < len(data):
        i = _end_of_space(data, start)
        if i == len(data) or data[i] == _NEWLINE:
            return start
        start = find_either(data, i, _NEWLINE, _NEWLINE) + 1
    return np.int64(len(data))


@njit(nogil=True, cache=True)
def _find_runs(data: Any, starts: Any, ends: Any) -> Any:
    found = 0
    inside = False
    start = np.int64(0)
    while start < len(data):
        i = _end_of_space(data, start)
        if i == len(data) or data[i] == _NEWLINE:
            inside = False
        else:
            i = find_either(data, i, _NEWLINE, _NEWLINE)
            if not inside:
                starts[found] = start
                found += 1
                inside = True
            ends[found - 1] = i - 1 if i < len(data) and data[i - 1] == _RETURN else i
        start = i + 1
    return found, inside


@njit(nogil=True, cache=True)
def _copy_documents(data: Any, starts: Any, offsets: Any, out: Any) -> None:
    for i in range(len(starts)):
        copy_bytes(data, starts[i], starts[i] + offsets[i + 1] - offsets[i], out, offsets[i])
