"""Reader for JSON lines: plain files by byte range, gzip and zstd files as one stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from .corpus_config import CorpusConfig
from .errors import nearest
from .files import FileInfo, compression_of, open_input
from .format import EXTRA, LineFormat, wanted
from .json_scan import BLANK, DEEP, MAX_DEPTH, OBJECT, Lines, field_values, scan_lines, undeclared_fields
from .lines import DamagedStreamError, decompressed_chunks, line_blocks, range_chunks
from .records import RAW_BYTES, DeadRow, Piece, Records
from .utf8 import first_invalid

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TOO_DEEP = f"line is nested more than {MAX_DEPTH} levels deep"


class JSONLines(LineFormat):
    """One JSON object per line; plain, .gz or .zst."""

    def check(self, config: CorpusConfig, file: FileInfo, columns: Sequence[str]) -> None:
        """Raise ValueError for a field that no object at the beginning of the file has."""
        with open_input(file.url) as source:
            check_fields(source, columns, compression_of(file.url))

    def read(self, config: CorpusConfig, piece: Piece, columns: Sequence[str] | None) -> Iterator[Records]:
        """Read the lines that start in a piece."""
        compression = compression_of(piece.url)
        names = wanted(config, columns)
        if config.response is not None:  # it must be a string, as the text
            names = [config.response, *(name for name in names if name != config.response)]
        with open_input(piece.url) as source:
            yield from read_jsonl(
                source,
                piece.start,
                None if compression else piece.end,
                names,
                extra=columns is None,
                compression=compression,
                first_is_text=config.messages is None,
            )


def read_jsonl(
    source: pa.NativeFile,
    start: int,
    end: int | None,
    columns: Sequence[str],
    *,
    extra: bool = False,
    compression: str | None = None,
    block_bytes: int = 8 << 20,
    first_is_text: bool = True,
) -> Iterator[Records]:
    """Yield the rows of a JSON lines file, block by block.

    source: an open file that can seek, of the bytes as stored; start, end: byte range of a plain file (the lines that
    start in it; None for the end of the file), 0 and None for a compressed one; columns: the declared columns, all of
    which come out as large_string, first the text: a row is dead unless it is a string there (with first_is_text False
    only null is refused there); extra: add a large_string column `extra` with one JSON object per row that holds all
    other fields as they stand in the line; compression: None, `gzip` or `zstd`; block_bytes: size of a block, unless
    one line is longer.

    In the columns after the text, such as id and group, any value will do: a string is itself; null, a missing field
    and a string with a lone surrogate are null; all else is its JSON text as it stands in the line (but -0 is 0, like
    every other integer that equals another). So a value depends on its line alone, whatever stands in other lines.

    `Records.rows` counts lines from 0 at `start`; lines of white space count but are no rows. A line that cannot be
    read is a dead row, and does not depend on its neighbours. A damaged compressed stream ends with one dead row for
    what was lost. NaN and Infinity are read as Python's json does. Of a key that comes twice the last one counts.
    """
    if compression is None:
        chunks = range_chunks(source, start, end, block_bytes)
    elif start == 0 and end is None:
        chunks = decompressed_chunks(source, compression, block_bytes)
    else:
        raise ValueError(f"a {compression} file cannot be read by byte range")
    parser = _Parser(list(dict.fromkeys(columns)), extra, first_is_text)
    first_line = 0
    try:
        for block in line_blocks(chunks, block_bytes):
            if first_line == 0 and start == 0:
                block = block.removeprefix(_BYTE_ORDER_MARK)
            records = parser.parse(block, first_line)
            first_line = records.next_row
            yield records
    except DamagedStreamError as fault:
        dead = DeadRow(first_line, "read", f"{fault} after {first_line} lines", fault.partial[:RAW_BYTES])
        yield Records(parser.schema.empty_table(), np.empty(0, dtype=np.int64), first_line + 1, [dead])


def check_fields(
    source: pa.NativeFile, names: Sequence[str], compression: str | None = None, block_bytes: int = 1 << 20
) -> None:
    """Raise ValueError for a name that no object has in the first block of the file (`block_bytes`, at least a line).

    source: an open file of the bytes as stored; compression: None, `gzip` or `zstd`. A block in which no object can be
    read passes: `read_jsonl` makes its dead rows.
    """
    chunks = (
        decompressed_chunks(source, compression, block_bytes)
        if compression
        else range_chunks(source, 0, None, block_bytes)
    )
    seen: set[str] = set()
    try:
        block = next(line_blocks(chunks, block_bytes), b"").removeprefix(_BYTE_ORDER_MARK)
    except DamagedStreamError:
        return
    for line in block.split(b"\n"):
        if seen.issuperset(names):
            return
        try:
            fields = _DECODER.decode(line.decode())
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            seen.update(fields)
    for name in names:
        if seen and name not in seen:
            raise ValueError(f"there is no field `{name}` in its first lines{nearest(name, seen)}")


class _Integer(str):
    """An integer as it stands in the line: no limit on its digits, no time to convert it."""


class _Float(str):
    """A number with a fraction or an exponent, as it stands in the line."""


_DECODER = json.JSONDecoder(parse_int=_Integer, parse_float=_Float, parse_constant=_Float)


class _UnreadableLineError(Exception):
    """Why a line is no row."""


_Types = tuple[pa.DataType, ...]


@dataclass
class _Parser:
    """columns: declared names, first the text; likely: the types of the others with which Arrow last read a block."""

    columns: list[str]
    extra: bool
    first_is_text: bool = True
    likely: _Types = field(init=False)

    def __post_init__(self) -> None:
        self.likely = (pa.large_string(),) * (len(self.columns) - 1)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, pa.large_string()) for name in [*self.columns, *([EXTRA] if self.extra else [])]])

    @property
    def text(self) -> str:
        return self.columns[0]

    def parse(self, block: bytes, first_line: int) -> Records:
        """Parse a block of whole lines, of which the first has the number `first_line`."""
        lines = scan_lines(block, self.columns, extra=self.extra)
        plain = lines.states == OBJECT
        if not block.isascii():
            offsets = np.append(lines.starts, len(block))
            plain &= first_invalid(offsets, np.frombuffer(block, dtype=np.uint8)) < 0
        table, numbers = self._parse_together(block, lines, np.flatnonzero(plain))
        left = lines.states != BLANK
        left[numbers] = False
        rescued, dead = self._parse_singly(block, lines, np.flatnonzero(left), first_line)
        if rescued:
            table = pa.concat_tables([table, pa.Table.from_pylist(list(rescued.values()), self.schema)])
            numbers = np.concatenate([numbers, list(rescued)])
            order = np.argsort(numbers)
            table, numbers = table.take(pa.array(order)), numbers[order]
        return Records(table, numbers + first_line, first_line + len(lines.starts), dead)

    def _parse_together(
        self, block: bytes, lines: Lines, numbers: NDArray[np.int64]
    ) -> tuple[pa.Table, NDArray[np.int64]]:
        """Parse lines with Arrow; returns the rows beyond doubt and their lines: none if Arrow refuses a line."""
        nothing = self.schema.empty_table(), numbers[:0]
        if not len(numbers) or not self.first_is_text:
            return nothing
        if len(numbers) < np.count_nonzero(lines.states != BLANK):
            block = b"\n".join([block[lines.starts[i] : lines.ends[i]] for i in numbers])
        table = self._arrow_table(block)
        if table is None or table.num_rows != len(numbers):
            return nothing
        if lines.extra is not None:
            table = table.append_column(EXTRA, lines.extra.take(pa.array(numbers)))
        if table[self.text].null_count:
            present = table[self.text].is_valid()
            table, numbers = table.filter(present), numbers[present.to_numpy()]
        return table, numbers

    def _arrow_table(self, block: bytes) -> pa.Table | None:
        """Parse with any types that fit all lines (which of them is no matter), or return None."""
        all_types = product((pa.large_string(), pa.int64()), repeat=len(self.columns) - 1)
        for types in dict.fromkeys([self.likely, *all_types]):
            try:
                table = _read_json(block, pa.schema(list(zip(self.columns, (pa.large_string(), *types), strict=True))))
            except pa.ArrowInvalid:
                continue
            self.likely = types
            return table.cast(pa.schema([(name, pa.large_string()) for name in self.columns]))
        return None

    def _parse_singly(
        self, block: bytes, lines: Lines, numbers: NDArray[np.int64], first_line: int
    ) -> tuple[dict[int, dict[str, Any]], list[DeadRow]]:
        """Parse the lines that Arrow refused, or was not shown, one by one."""
        rescued: dict[int, dict[str, Any]] = {}
        dead: list[DeadRow] = []
        for number in numbers.tolist():
            line = block[lines.starts[number] : lines.ends[number]].removesuffix(b"\r")
            try:
                if lines.states[number] == DEEP:
                    raise _UnreadableLineError(_TOO_DEEP)
                rescued[number] = self._parse_line(line)
            except _UnreadableLineError as reason:
                dead.append(DeadRow(first_line + number, "read", str(reason), line[:RAW_BYTES]))
        return rescued, dead

    def _parse_line(self, line: bytes) -> dict[str, Any]:
        try:
            decoded = line.decode()
            fields = _DECODER.decode(decoded)
        except UnicodeDecodeError as error:
            raise _UnreadableLineError(f"not valid UTF-8 at byte {error.start}") from None
        except json.JSONDecodeError as error:
            raise _UnreadableLineError(f"line is not JSON: {error}") from None
        except RecursionError:
            raise _UnreadableLineError(_TOO_DEEP) from None
        if not isinstance(fields, dict):
            raise _UnreadableLineError(f"line is {_kind(fields)}, not an object")
        if self.text not in fields:
            raise _UnreadableLineError(f"`{self.text}` is missing")
        if fields[self.text] is None:
            raise _UnreadableLineError(f"`{self.text}` is null")
        if self.first_is_text and not _is_string(fields[self.text]):
            raise _UnreadableLineError(f"`{self.text}` is {_kind(fields[self.text])}, not a string")
        row = {name: _as_string(name, fields.get(name), decoded) for name in self.columns}
        if row[self.text] is None:
            raise _UnreadableLineError(f"lone surrogate in `{self.text}`")
        if self.extra:
            row[EXTRA] = undeclared_fields(decoded, self.columns, _DECODER)
        return row


def _read_json(block: bytes, schema: pa.Schema) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _as_string(name: str, value: Any, line: str) -> str | None:
    """Return a decoded value of a line as `read_jsonl` promises it: the same string as Arrow gives where it can."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return [text for key, text in field_values(line, _DECODER) if key == name][-1]
    if isinstance(value, _Integer):
        return "0" if value == "-0" else str(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return str(value)


def _is_string(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, _Integer | _Float)


def _kind(value: Any) -> str:
    if isinstance(value, _Integer | _Float):
        return "a number"
    names = {str: "a string", dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    return names[type(value)]
