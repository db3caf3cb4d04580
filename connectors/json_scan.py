"""One pass over the bytes of JSON lines: which are single objects, and which of their fields are not declared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]  # json's own reader of one string
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from .keys import load64, trailing_zeros

BLANK, OBJECT, ODD, DEEP = 0, 1, 2, 3
"""State of a line: white space only; one pair of balanced outer braces; nested too deeply; anything else is ODD."""

MAX_DEPTH = 500
"""Levels of nesting that any parser can take: the limit of Python's json depends on the stack it is called on."""

_QUOTE, _BACKSLASH, _COMMA = 34, 92, 44
_OPEN_BRACE, _CLOSE_BRACE, _OPEN_BRACKET, _CLOSE_BRACKET = 123, 125, 91, 93
_SPACE, _TAB, _RETURN, _NEWLINE = 32, 9, 13, 10
_CAPITAL_I = 73
_TOO_DEEP = -2
_LOW_BITS, _HIGH_BITS, _NONE = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080), np.uint64(0)
_QUOTES, _BACKSLASHES = _LOW_BITS * np.uint64(_QUOTE), _LOW_BITS * np.uint64(_BACKSLASH)
_NEWLINES = _LOW_BITS * np.uint64(_NEWLINE)
_JSON_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Lines:
    """The lines of a block. starts, ends: int64[n], the line ends left out; states: uint8[n]; extra: large_string[n].

    `extra` holds one JSON object per line, or is None where it was not asked for; it means something only where the
    state is OBJECT.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    states: NDArray[np.uint8]
    extra: pa.Array | None


def scan_lines(data: bytes, declared: Iterable[str], *, extra: bool) -> Lines:
    """Find the lines of a block (not empty), their states and, for `extra`, the undeclared fields as they stand.

    A line is OBJECT when it begins with `{` and the braces and brackets outside strings close for the first time at
    its end. That is not yet valid JSON, but a parser that accepts such lines in a row cannot split them differently.
    A line with a backslash in a key or a capital I outside strings (RapidJSON takes `Inf`, json does not) is ODD.
    """
    block = np.frombuffer(data, dtype=np.uint8)
    keys = [name.encode() for name in declared]
    key_offsets = np.cumsum([0, *map(len, keys)], dtype=np.int64)
    key_bytes = np.frombuffer(b"".join(keys) or b"\0", dtype=np.uint8)
    # As many lines as bytes, and no line's `extra` is longer than the line; pages that are not written cost nothing.
    ends = np.empty(len(block), dtype=np.int64)
    states = np.empty(len(block), dtype=np.uint8)
    offsets = np.zeros(len(block) + 1 if extra else 1, dtype=np.int64)
    out = np.empty(len(block) if extra else 0, dtype=np.uint8)
    lines = _scan(block, key_bytes, key_offsets, extra, ends, states, offsets, out)
    ends, states = ends[:lines].copy(), states[:lines].copy()
    starts = np.append(np.zeros(1, dtype=np.int64), ends[:-1] + 1)
    column = None
    if extra:
        offsets = offsets[: lines + 1].copy()
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(out[: offsets[-1]].copy())]
        column = pa.Array.from_buffers(pa.large_string(), lines, buffers)
    return Lines(starts, ends, states, column)


@njit(nogil=True, cache=True)
def _scan(
    data: NDArray[np.uint8],
    key_bytes: NDArray[np.uint8],
    key_offsets: NDArray[np.int64],
    extra: bool,
    ends: NDArray[np.int64],
    states: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> int:
    """Fill in the lines' ends, states and, for `extra`, offsets in `out`; return how many lines there are."""
    line = written = i = 0
    while i < len(data):
        while i < len(data) and data[i] != _NEWLINE and _is_space(data[i]):
            i += 1
        if i == len(data) or data[i] == _NEWLINE:
            states[line] = BLANK
        elif data[i] != _OPEN_BRACE:
            states[line] = ODD
        else:
            i, length = _scan_object(data, i, key_bytes, key_offsets, extra, out[written:])
            while i < len(data) and data[i] != _NEWLINE and _is_space(data[i]):
                i += 1
            if length >= 0 and i < len(data) and data[i] != _NEWLINE:
                length = -1
            states[line] = OBJECT if length >= 0 else (DEEP if length == _TOO_DEEP else ODD)
            written += max(length, 0)
        ends[line] = i = _line_end(data, i)
        line += 1
        if extra:
            offsets[line] = written
        i += 1
    return line


@njit(nogil=True, cache=True)
def _scan_object(
    data: NDArray[np.uint8],
    start: int,
    key_bytes: NDArray[np.uint8],
    key_offsets: NDArray[np.int64],
    extra: bool,
    out: NDArray[np.uint8],
) -> tuple[int, int]:
    """Check the object that begins a line and write its undeclared fields.

    Returns the position after it, or one in its line where it went wrong, and the bytes written, or _TOO_DEEP, or -1.
    """
    depth = 0
    odd = False
    written = 0
    field = -1  # where the undeclared field that is being read begins
    key_next = False
    if extra:
        out[0] = _OPEN_BRACE
        written = 1
    i = start
    while i < len(data):
        byte = data[i]
        if byte == _QUOTE:
            stop, escaped = _string_end(data, i)
            if stop == len(data) or data[stop] == _NEWLINE:
                return stop, -1
            odd = odd or (key_next and escaped)
            if key_next and extra:
                field = -1 if _is_declared(data[i + 1 : stop], key_bytes, key_offsets) else i
            key_next = False
            i = stop
        elif byte in (_OPEN_BRACE, _OPEN_BRACKET):
            depth += 1
            if depth > MAX_DEPTH:
                return i, _TOO_DEEP
            key_next = depth == 1
        elif byte in (_CLOSE_BRACE, _CLOSE_BRACKET):
            depth -= 1
            if depth == 0:
                if odd:
                    return i + 1, -1
                if extra:
                    written = _close_field(data, field, i, out, written)
                    out[written] = _CLOSE_BRACE
                    written += 1
                return i + 1, written
        elif byte == _COMMA and depth == 1:
            written = _close_field(data, field, i, out, written)
            field = -1
            key_next = True
        elif byte in (_CAPITAL_I, _NEWLINE):
            return i, -1
        i += 1
    return i, -1


@njit(nogil=True, cache=True)
def _close_field(data: NDArray[np.uint8], field: int, stop: int, out: NDArray[np.uint8], written: int) -> int:
    if field < 0:
        return written
    while _is_space(data[stop - 1]):
        stop -= 1
    if written > 1:
        out[written] = _COMMA
        written += 1
    for i in range(field, stop):
        out[written] = data[i]
        written += 1
    return written


@njit(nogil=True, cache=True)
def _line_end(data: NDArray[np.uint8], start: int) -> int:
    """Return the position of the next newline, or of the end of the data."""
    i: Any = start
    while i + 8 <= len(data):
        found = _bytes_like(load64(data, i), _NEWLINES)
        if found:
            return i + np.int64(trailing_zeros(found) >> 3)
        i += 8
    while i < len(data) and data[i] != _NEWLINE:
        i += 1
    return i


@njit(nogil=True, cache=True)
def _string_end(data: NDArray[np.uint8], quote: int) -> tuple[int, bool]:
    """Return the position of the closing quote, or where the line ends before, and whether there was a backslash."""
    escaped = False
    i: Any = quote + 1
    while i < len(data):
        while i + 8 <= len(data):
            word = load64(data, i)
            found = _bytes_like(word, _QUOTES) | _bytes_like(word, _BACKSLASHES) | _bytes_like(word, _NEWLINES)
            if found:
                i += np.int64(trailing_zeros(found) >> 3)
                break
            i += 8
        if i == len(data):
            break
        byte = data[i]
        if byte in (_QUOTE, _NEWLINE):
            return i, escaped
        if byte == _BACKSLASH:
            escaped = True
            i += 1 if i + 1 < len(data) and data[i + 1] == _NEWLINE else 2
        else:
            i += 1
    return len(data), escaped


@njit(nogil=True, cache=True, inline="always")
def _bytes_like(word: np.uint64, wanted: np.uint64) -> np.uint64:
    """Set the top bit of the first of eight bytes that is the wanted one (given eight times), and perhaps of bytes
    after it; zero if there is none (Mycroft's test for a zero byte).
    """
    difference = word ^ wanted
    return (difference - _LOW_BITS) & ~difference & _HIGH_BITS


@njit(nogil=True, cache=True)
def _is_declared(key: NDArray[np.uint8], key_bytes: NDArray[np.uint8], key_offsets: NDArray[np.int64]) -> bool:
    for k in range(len(key_offsets) - 1):
        if key_offsets[k + 1] - key_offsets[k] != len(key):
            continue
        same = True
        for i in range(len(key)):
            if key_bytes[key_offsets[k] + i] != key[i]:
                same = False
                break
        if same:
            return True
    return False


@njit(nogil=True, cache=True, inline="always")
def _is_space(byte: int) -> bool:
    return byte in (_SPACE, _TAB, _RETURN, _NEWLINE)


def undeclared_fields(line: str, declared: Iterable[str], decoder: JSONDecoder) -> str:
    """Return the undeclared fields of one valid JSON object as they stand, whatever its keys look like: the exact,
    slow form of the `extra` of `scan_lines`.
    """
    names = set(declared)
    return "{" + ",".join(line[start:end] for key, start, _, end in _fields(line, decoder) if key not in names) + "}"


def field_values(line: str, decoder: JSONDecoder) -> Iterator[tuple[str, str]]:
    """Yield (key, JSON text of the value as it stands) for the fields of one valid JSON object."""
    for key, _, value, end in _fields(line, decoder):
        yield key, line[value:end]


def _fields(line: str, decoder: JSONDecoder) -> Iterator[tuple[str, int, int, int]]:
    """Yield key, start of the key, start and end of the value for the fields of one valid JSON object."""
    position = _after_space(line, _after_space(line, 0) + 1)
    while line[position] == '"':
        start = position
        key, position = scanstring(line, start + 1)
        value = _after_space(line, _after_space(line, position) + 1)
        parsed: tuple[Any, int] = decoder.raw_decode(line, value)
        yield key, start, value, parsed[1]
        position = _after_space(line, parsed[1])
        if line[position] == ",":
            position = _after_space(line, position + 1)


def _after_space(line: str, position: int) -> int:
    while line[position] in _JSON_SPACE:
        position += 1
    return position
