"""Kernels over the bytes of CSV (RFC 4180): where records and fields lie, and columns made from them.

A record ends with LF or CRLF outside quotes. A field is quoted when its first byte is a quote, which then lasts to the
next quote that is not doubled; quotes elsewhere in a field are data. A quoted field that goes on after its closing
quote is a stray quote: other readers join the two parts and so change the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from .byte_kernels import copy_bytes, find_either
from .keys import constant

FIELD_START, PLAIN, QUOTED, QUOTE_IN_QUOTED = 0, 1, 2, 3
"""States between two bytes; a record may only end in a state other than QUOTED."""

MOST_FIELDS = 1 << 20
"""Of a record with more fields than this, perhaps not all are counted."""

_QUOTE, _NEWLINE, _RETURN, _BACKSLASH, _SPACE = 34, 10, 13, 92, 32
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_SHORT_ESCAPES = np.zeros(32, dtype=np.uint8)
_SHORT_ESCAPES[[8, 9, 10, 12, 13]] = np.frombuffer(b"btnfr", dtype=np.uint8)


@dataclass(frozen=True)
class Scanned:
    """Whole records of a block; lines without a byte between them are no records.

    stop: position after the last record or empty line; record_starts, record_ends: int64[n], the line ends left out;
    first_field: int64[n + 1], number of each record's first field, and of all fields; stray: bool[n], a field of the
    record has a stray quote; starts, ends: int64[fields], content of fields without their quotes; doubled:
    bool[fields], it has doubled quotes.
    """

    stop: int
    record_starts: NDArray[np.int64]
    record_ends: NDArray[np.int64]
    first_field: NDArray[np.int64]
    stray: NDArray[np.bool_]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    doubled: NDArray[np.bool_]


def last_record_end(data: NDArray[np.uint8], state: int, delimiter: int) -> tuple[int, int, int]:
    """Follow a piece of a stream; state: where the piece before it ended.

    Returns the positions after the first and after the last record that ends in the piece (0 where none does), and the
    state at its end.
    """
    return _last_record_end(constant(data), state, delimiter)  # type: ignore[no-any-return]


def scan_records(data: NDArray[np.uint8], start: int, enough: int, delimiter: int) -> Scanned:
    """Find the records and fields of at least `enough` bytes from `start` on, and of at least one record.

    data: uint8, up to the end of a record, its line end included.
    """
    # No more fields than bytes, but for the last record; pages of these arrays that are not written cost nothing.
    size = min(len(data) - start, enough + MOST_FIELDS) + 2
    record_starts, record_ends, first_field, starts, ends = (np.empty(size, dtype=np.int64) for _ in range(5))
    stray, doubled = np.empty(size, dtype=np.bool_), np.empty(size, dtype=np.bool_)
    stop, records, fields = _scan_records(
        constant(data), start, enough, delimiter, record_starts, record_ends, first_field, stray, starts, ends, doubled
    )
    first_field[records] = fields
    return Scanned(
        stop,
        record_starts[:records],
        record_ends[:records],
        first_field[: records + 1],
        stray[:records],
        starts[:fields],
        ends[:fields],
        doubled[:fields],
    )


def column_of(data: NDArray[np.uint8], scanned: Scanned, fields: NDArray[np.int64]) -> pa.Array:
    """Return the values of fields, given by their numbers, as large_string; they must be valid UTF-8."""
    offsets = np.zeros(len(fields) + 1, dtype=np.int64)
    # Arrow keeps freed memory for the next batch, NumPy gives it back to the system.
    buffer = pa.allocate_buffer(int((scanned.ends[fields] - scanned.starts[fields]).sum()))
    out = np.frombuffer(buffer, dtype=np.uint8)
    _copy_fields(constant(data), scanned.starts, scanned.ends, scanned.doubled, fields, offsets, out)
    return _strings(offsets, buffer.slice(0, offsets[-1]))


def json_objects(
    data: NDArray[np.uint8], scanned: Scanned, first_fields: NDArray[np.int64], columns: Sequence[int], names: list[str]
) -> pa.Array:
    """Return one JSON object per record, as large_string: the fields `columns` of the record, as strings.

    first_fields: number of each record's first field; names: of the columns, as JSON strings with their colons.
    """
    keys = [name.encode() for name in names]
    key_offsets = np.cumsum([0, *map(len, keys)], dtype=np.int64)
    key_bytes = np.frombuffer(b"".join(keys) or b"\0", dtype=np.uint8)
    wanted = np.asarray(columns, dtype=np.int64)
    content = sum(int((scanned.ends[first_fields + c] - scanned.starts[first_fields + c]).sum()) for c in columns)
    frame = int(key_offsets[-1]) + 3 * len(columns) + 2
    out = np.empty(6 * content + frame * len(first_fields), dtype=np.uint8)  # \u001f: six bytes for one
    offsets = np.zeros(len(first_fields) + 1, dtype=np.int64)
    _write_objects(
        constant(data),
        scanned.starts,
        scanned.ends,
        scanned.doubled,
        first_fields,
        wanted,
        key_bytes,
        key_offsets,
        offsets,
        out,
    )
    return _strings(offsets, pa.py_buffer(out[: offsets[-1]].copy()))


def _strings(offsets: NDArray[np.int64], data: pa.Buffer) -> pa.Array:
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, [None, pa.py_buffer(offsets), data])


@njit(nogil=True, cache=True)
def _last_record_end(data: Any, state: Any, delimiter: Any) -> Any:
    first = last = i = np.int64(0)
    while i < len(data):
        if state == QUOTED:
            i = find_either(data, i, _QUOTE, _QUOTE)
            if i < len(data):
                state = QUOTE_IN_QUOTED
        elif data[i] == _QUOTE and state in (FIELD_START, QUOTE_IN_QUOTED):
            state = QUOTED
        else:
            i = find_either(data, i, delimiter, _NEWLINE)
            state = FIELD_START if i < len(data) else PLAIN
            if i < len(data) and data[i] == _NEWLINE:
                last = i + 1
                first = first or last
        i += 1
    return first, last, state


@njit(nogil=True, cache=True)
def _scan_records(
    data: Any,
    start: Any,
    enough: Any,
    delimiter: Any,
    record_starts: Any,
    record_ends: Any,
    first_field: Any,
    stray: Any,
    starts: Any,
    ends: Any,
    doubled: Any,
) -> Any:
    i = np.int64(start)
    records = fields = 0
    while i < len(data) and (i - start < enough or records == 0):
        record_starts[records] = i
        first_field[records] = fields
        stray[records] = False
        while True:
            starts[fields] = i
            doubled[fields] = False
            if data[i] == _QUOTE:
                starts[fields] = i + 1
                i, doubled[fields] = _closing_quote(data, i + 1)
                ends[fields] = i
                i += 1
                if i + 1 < len(data) and data[i] == _RETURN and data[i + 1] == _NEWLINE:
                    i += 1
                if data[i] != delimiter and data[i] != _NEWLINE:
                    stray[records] = True
                    i = find_either(data, i, delimiter, _NEWLINE)
            else:
                i = find_either(data, i, delimiter, _NEWLINE)
                ends[fields] = i
                if data[i] == _NEWLINE and i > starts[fields] and data[i - 1] == _RETURN:
                    ends[fields] = i - 1
            fields = min(fields + 1, len(starts) - 1)
            i += 1
            if data[i - 1] == _NEWLINE:
                break
        end = i - 1
        if end > record_starts[records] and data[end - 1] == _RETURN:
            end -= 1
        record_ends[records] = end
        if end == record_starts[records]:
            fields -= 1
        else:
            records += 1
    return i, records, fields


@njit(nogil=True, cache=True)
def _closing_quote(data: Any, start: Any) -> Any:
    """Return the position of the quote that ends a field, and whether there are doubled quotes before it."""
    doubled = False
    i = find_either(data, start, _QUOTE, _QUOTE)
    while i + 1 < len(data) and data[i + 1] == _QUOTE:
        doubled = True
        i = find_either(data, i + 2, _QUOTE, _QUOTE)
    return i, doubled


@njit(nogil=True, cache=True)
def _copy_fields(data: Any, starts: Any, ends: Any, doubled: Any, fields: Any, offsets: Any, out: Any) -> None:
    written = np.int64(0)
    for row in range(len(fields)):
        field = fields[row]
        start = starts[field]
        while doubled[field] and start < ends[field]:
            stop = min(find_either(data, start, _QUOTE, _QUOTE) + 1, ends[field])
            written = copy_bytes(data, start, stop, out, written)
            start = stop + 1  # the second of two quotes is left out
        if not doubled[field]:
            written = copy_bytes(data, start, ends[field], out, written)
        offsets[row + 1] = written


@njit(nogil=True, cache=True)
def _write_objects(
    data: Any,
    starts: Any,
    ends: Any,
    doubled: Any,
    first_fields: Any,
    columns: Any,
    key_bytes: Any,
    key_offsets: Any,
    offsets: Any,
    out: Any,
) -> None:
    written = np.int64(0)
    for row in range(len(first_fields)):
        out[written] = ord("{")
        written += 1
        for c in range(len(columns)):
            if c > 0:
                out[written] = ord(",")
                written += 1
            for i in range(key_offsets[c], key_offsets[c + 1]):
                out[written] = key_bytes[i]
                written += 1
            field = first_fields[row] + columns[c]
            written = _write_string(data, starts[field], ends[field], doubled[field], out, written)
        out[written] = ord("}")
        written += 1
        offsets[row + 1] = written


@njit(nogil=True, cache=True)
def _write_string(data: Any, start: Any, end: Any, doubled: Any, out: Any, written: Any) -> Any:
    """Write a field as a JSON string, with the escapes that Python's json chooses."""
    out[written] = _QUOTE
    written += 1
    i = start
    while i < end:
        byte = data[i]
        i += 1
        if byte == _QUOTE and doubled:
            i += 1
        if byte >= _SPACE:
            if byte in (_QUOTE, _BACKSLASH):
                out[written] = _BACKSLASH
                written += 1
            out[written] = byte
            written += 1
            continue
        out[written] = _BACKSLASH
        if _SHORT_ESCAPES[byte]:
            out[written + 1] = _SHORT_ESCAPES[byte]
            written += 2
        else:
            out[written + 1] = ord("u")
            out[written + 2] = out[written + 3] = ord("0")
            out[written + 4] = _HEX[byte >> 4]
            out[written + 5] = _HEX[byte & 15]
            written += 6
    out[written] = _QUOTE
    return written + 1
