r"""Lower-casing of UTF-8 text and the classes of its characters, exactly as CPython's `str.lower()` and `re` see them.

Eight bytes at a time are classified and lower-cased as one 64-bit integer, up to the first non-ASCII byte; other
characters go through tables. The tables are read off the running interpreter, so they follow its version of Unicode.
Special cases of lower-casing are `İ`, which becomes two characters, and the final form of the letter sigma.
"""

import functools
import re
import sys
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import constant, load64, store64, trailing_zeros

_U64 = np.uint64
_HIGH_BITS = _U64(0x8080808080808080)
_GATHER_BITS = _U64(0x0102040810204080)  # times a 0/1 per byte, moves byte i's bit to bit 56 + i
SPACE, _WORD, MARK, CLASS = 0, 1, 2, 3
_IGNORABLE, _CASED, _CHANGES = 4, 8, 16


@functools.cache
def character_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Properties of every code point, and lower case of those below the last one that has another lower case.

    Returns:
        properties: uint8[0x110000], class of the lower-cased character | flags.
        lower: uint32[last + 1], lower-case code point (`İ`, the only one with two, is handled in the scan).
    """
    points = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    everything = _string(points)
    classes = np.full(points.size, MARK, np.uint8)
    for pattern, value in ((r"\w+", _WORD), (r"\s+", SPACE)):
        for run in re.finditer(pattern, everything):
            classes[run.start() : run.end()] = value
    # İ is replaced by its base letter, so that every character stays one character.
    points[0x130] = ord("I")
    lower = _points(_string(points).lower())
    points[0x130] = 0x130
    changed = np.flatnonzero(lower != points)
    properties = classes[lower]
    properties[changed] |= _CHANGES
    # A capital sigma is final after a cased character, with case-ignorable ones skipped on the way back.
    # Either kind is found in planes 0, 1 and 14; the others hold ideographs, private use or nothing.
    candidates = points[(points < 0x20000) | (points >> 16 == 14)]
    skipped_or_cased = candidates[_sigma_is_final("A", candidates)]
    cased = _sigma_is_final(" ", skipped_or_cased)
    properties[skipped_or_cased] |= np.where(cased, _CASED, _IGNORABLE).astype(np.uint8)
    return constant(properties), constant(lower[: changed[-1] + 1])


def _sigma_is_final(before: str, points: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether `str.lower()` makes a final sigma of the Σ in before + character + Σ, for each character."""
    probe = np.full((points.size, 4), ord(" "), np.uint32)
    probe[:, 0], probe[:, 1], probe[:, 2] = ord(before), points, ord("Σ")
    probe[points == 0x130, 1] = ord("I")  # stays one character, and is cased too
    return _points(_string(probe).lower())[2::4] == ord("ς")


def _string(points: NDArray[np.uint32]) -> str:
    return points.astype("<u4", copy=False).tobytes().decode("utf-32-le", "surrogatepass")


def _points(string: str) -> NDArray[np.uint32]:
    return np.frombuffer(string.encode("utf-32-le", "surrogatepass"), "<u4")


def folding_scratch(offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]:
    """Lower-cased bytes and the two bit strings of the longest text.

    A character's lower case takes at most 1.5 times its bytes (two bytes become three).
    """
    longest = int(np.diff(offsets).max(initial=0))
    capacity = longest + longest // 2 + 16
    blocks = capacity // 64 + 2
    return np.empty(capacity, np.uint8), np.empty(blocks, np.uint64), np.empty(blocks, np.uint64)


@numba.njit(nogil=True, cache=True)
def _load_tail(data: Any, position: Any) -> Any:
    """Up to eight bytes at the very end of the buffer, padded with zeros."""
    value = _U64(0)
    for i in range(data.size - position):
        value |= _U64(data[position + i]) << _U64(8 * i)
    return value


@numba.njit(nogil=True, cache=True)
def decode(data: Any, position: Any, end: Any) -> Any:
    """Code point and length of the non-ASCII character here; a truncated one counts as a question mark."""
    lead = np.int64(data[position])
    length = 2 if lead < 0xE0 else (3 if lead < 0xF0 else 4)
    if position + length > end:
        return 0x3F, end - position
    point = lead & (0x7F >> length)
    for i in range(1, length):
        point = point << 6 | (np.int64(data[position + i]) & 0x3F)
    return min(point, 0x10FFFF), length


@numba.njit(nogil=True, cache=True)
def _encode(point: Any, lowered: Any, position: Any) -> Any:
    """Write a code point as UTF-8 and return its length."""
    if point < 0x80:
        lowered[position] = point
        return 1
    if point < 0x800:
        lowered[position] = 0xC0 | point >> 6
        lowered[position + 1] = 0x80 | point & 0x3F
        return 2
    if point < 0x10000:
        lowered[position] = 0xE0 | point >> 12
        lowered[position + 1] = 0x80 | point >> 6 & 0x3F
        lowered[position + 2] = 0x80 | point & 0x3F
        return 3
    lowered[position] = 0xF0 | point >> 18
    lowered[position + 1] = 0x80 | point >> 12 & 0x3F
    lowered[position + 2] = 0x80 | point >> 6 & 0x3F
    lowered[position + 3] = 0x80 | point & 0x3F
    return 4


@numba.njit(nogil=True, cache=True)
def _lower_sigma(data: Any, start: Any, position: Any, end: Any, properties: Any) -> Any:
    """Lower case of the capital sigma at this position: final where a cased character precedes and none follows.

    Case-ignorable characters are skipped both ways, as in the condition Final_Sigma of the Unicode standard.
    """
    before = position
    flags = _IGNORABLE
    while flags & _IGNORABLE and before > start:
        before -= 1
        while before > start and data[before] & 0xC0 == 0x80:
            before -= 1
        point = np.int64(data[before]) if data[before] < 0x80 else decode(data, before, end)[0]
        flags = properties[point]
    if not flags & _CASED:
        return 0x3C3
    after = position + 2
    flags = _IGNORABLE
    while flags & _IGNORABLE and after < end:
        point, length = (np.int64(data[after]), 1) if data[after] < 0x80 else decode(data, after, end)
        flags = properties[point]
        after += length
    return 0x3C3 if flags & _CASED else 0x3C2


@numba.njit(nogil=True, cache=True)
def _append(bits: Any, count: Any, mask: Any, position: Any, block: Any) -> Any:
    """Append `count` low bits of `mask` to a bit string whose unfinished block is `block`; return that block."""
    shift = _U64(position & 63)
    block |= mask << shift
    if (position & 63) + count >= 64:
        bits[position >> 6] = block
        # Two shifts, since a shift by 64 is undefined.
        return mask >> _U64(1) >> (_U64(63) - shift)
    return block


@numba.njit(nogil=True, cache=True)
def _classify(value: Any) -> Any:
    """Lower-cased bytes, and one bit per byte for word characters and for marks, of eight ASCII bytes.

    Adding 0x80 - x to a 7-bit byte sets its high bit when the byte is at least x. Bytes after the first non-ASCII one
    come out wrong; the caller cuts them off.
    """
    upper = (value + _U64(0x3F3F3F3F3F3F3F3F)) & ~(value + _U64(0x2525252525252525)) & _HIGH_BITS
    lower = value | (upper >> _U64(2))
    word = (lower + _U64(0x1F1F1F1F1F1F1F1F)) & ~(lower + _U64(0x0505050505050505))  # a-z
    word |= (value + _U64(0x5050505050505050)) & ~(value + _U64(0x4646464646464646))  # 0-9
    word |= ~((value ^ _U64(0x5F5F5F5F5F5F5F5F)) + _U64(0x7F7F7F7F7F7F7F7F))  # _
    space = (value + _U64(0x7777777777777777)) & ~(value + _U64(0x7272727272727272))  # \t-\r
    space |= (value + _U64(0x6464646464646464)) & ~(value + _U64(0x5F5F5F5F5F5F5F5F))  # \x1c-\x1f and space
    marks = ~(word | space) & _HIGH_BITS
    word &= _HIGH_BITS
    words = ((word >> _U64(7)) * _GATHER_BITS) >> _U64(56)
    return lower, words, ((marks >> _U64(7)) * _GATHER_BITS) >> _U64(56)


@numba.njit(nogil=True, cache=True)
def _is_ascii(data: Any, position: Any) -> Any:
    """Whether the 64 bytes from here are ASCII."""
    found = load64(data, position)
    for i in range(8, 64, 8):
        found |= load64(data, position + i)
    return found & _HIGH_BITS == 0


@numba.njit(nogil=True, cache=True)
def _fold_block(data: Any, position: Any, lowered: Any, size: Any) -> Any:
    """Lower-case 64 ASCII bytes and return their word bits and mark bits."""
    words = marks = _U64(0)
    for i in range(0, 64, 8):
        value, word_bits, mark_bits = _classify(load64(data, position + i))
        store64(lowered, size + i, value)
        words |= word_bits << _U64(i)
        marks |= mark_bits << _U64(i)
    return words, marks


@numba.njit(nogil=True, cache=True)
def fold_text(
    data: Any, start: Any, end: Any, properties: Any, lower: Any, lowered: Any, words: Any, marks: Any
) -> Any:
    """Lower-case one text into `lowered`, fill its two bit strings (closed by a zero bit), return its new length."""
    position, size = start, 0
    word_block = mark_block = _U64(0)
    while position < end:
        while position + 64 <= end and _is_ascii(data, position):
            word_bits, mark_bits = _fold_block(data, position, lowered, size)
            shift = _U64(size & 63)
            words[size >> 6] = word_block | word_bits << shift
            marks[size >> 6] = mark_block | mark_bits << shift
            # Two shifts, since a shift by 64 is undefined.
            word_block = word_bits >> _U64(1) >> (_U64(63) - shift)
            mark_block = mark_bits >> _U64(1) >> (_U64(63) - shift)
            position += 64
            size += 64
        if position == end:
            break
        value = load64(data, position) if position + 8 <= data.size else _load_tail(data, position)
        count = min(end - position, 8)
        high = value & _HIGH_BITS
        if high:
            count = min(count, np.int64(trailing_zeros(high) >> _U64(3)))
        if count:
            value, word_bits, mark_bits = _classify(value)
            store64(lowered, size, value)
            kept = (_U64(1) << _U64(count)) - _U64(1)
            word_block = _append(words, count, word_bits & kept, size, word_block)
            mark_block = _append(marks, count, mark_bits & kept, size, mark_block)
            size += count
            position += count
        while position < end and data[position] >= 0x80:
            point, length = decode(data, position, end)
            flags = properties[point]
            if flags & _CHANGES:
                point = _lower_sigma(data, start, position, end, properties) if point == 0x3A3 else lower[point]
            position += length
            count = _encode(point, lowered, size)
            bits = (_U64(1) << _U64(count)) - _U64(1)
            word_block = _append(words, count, bits if flags & CLASS == _WORD else _U64(0), size, word_block)
            mark_block = _append(marks, count, bits if flags & CLASS == MARK else _U64(0), size, mark_block)
            size += count
            if flags & _CHANGES and point == 0x69:  # İ becomes i and U+0307, a mark
                size += _encode(0x307, lowered, size)
                word_block = _append(words, 2, _U64(0), size - 2, word_block)
                mark_block = _append(marks, 2, _U64(3), size - 2, mark_block)
    words[size >> 6] = word_block
    marks[size >> 6] = mark_block
    return size
