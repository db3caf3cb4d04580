"""Bit strings of a text, one bit per byte, made 64 bytes at a time: where white space, letters and line breaks are.

Going from bit to bit spares the kernels that follow a branch per byte, of which the processor would guess every sixth
wrongly.
"""

from typing import Any

import numba
import numpy as np

from ..connectors.keys import load64, trailing_zeros
from .word_rules import BREAK, DIGIT, SPACE, UPPER, code_point

SPACES, LETTERS, BREAKS, NEWLINES, DOTS, STRINGS = map(np.int64, range(6))  # plain ones would be types of their own
"""Bit string k has its bits of bytes 64 b to 64 b + 63 at place STRINGS * b + k. LETTERS are ASCII ones only; BREAKS
are where `str.splitlines()` cuts; DOTS are full stops."""

_U64 = np.uint64
_HIGH = _U64(0x8080808080808080)
_LOW = _U64(0x7F7F7F7F7F7F7F7F)
_ONES = _U64(0x0101010101010101)
_GATHER = _U64(0x0102040810204080)  # times a 0/1 per byte, moves byte i's bit to bit 56 + i


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def between(value: Any, first: Any, last: Any) -> Any:
    """High bit of each byte of `value`, whose high bits must be zero, that lies from `first` to `last`."""
    return (value + _ONES * (_U64(0x80) - first)) & ~(value + _ONES * (_U64(0x7F) - last)) & _HIGH


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _gather(high: Any) -> Any:
    return ((high >> _U64(7)) * _GATHER) >> _U64(56)


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _lanes(value: Any) -> Any:
    """Sum of the eight bytes."""
    return np.int64((value * _ONES) >> _U64(56))


@numba.njit(nogil=True, cache=True, _nrt=False)
def _set_wide(doc: Any, position: Any, end: Any, classes: Any, bits: Any) -> Any:
    """Enter the non-ASCII characters of a block; returns spaces, digits, capitals, ellipses and continuation bytes."""
    spaces = digits = capitals = ellipses = continuations = 0
    while position < end:
        byte = doc[position]
        if byte < 0xC0:
            continuations += byte >= 0x80
            position += 1
            continue
        point, length = code_point(doc, position)
        kind = classes[point]
        digits += kind & DIGIT > 0
        capitals += kind & UPPER > 0
        ellipses += point == 0x2026
        if kind & SPACE:
            spaces += 1
            for place in range(position, position + length):
                bits[STRINGS * (place >> 6) + SPACES] |= _U64(1) << _U64(place & 63)
            if kind & BREAK:
                bits[STRINGS * (position >> 6) + BREAKS] |= _U64(1) << _U64(position & 63)
        position += 1
    return spaces, digits, capitals, ellipses, continuations


@numba.njit(nogil=True, cache=True, _nrt=False)
def text_bits(doc: Any, size: Any, classes: Any, bits: Any) -> Any:
    """Fill the bit strings of a text and count its characters.

    Args:
        doc: uint8[], `size` bytes of text and at least 64 spaces more.
        classes: of `word_rules`.
        bits: uint64[STRINGS * (size // 64 + 2) or more], filled; what lies behind the text is white space.

    Returns:
        characters, white space, digits, capitals, `#`, `{`, ellipses in one character, line feeds, and whether two full
        stops follow each other.
    """
    blocks = size // 64 + 1
    for place in range(STRINGS * (blocks + 1)):
        bits[place] = 0
    white = digits = capitals = hashes = braces = ellipses = continuations = newlines = 0
    pairs, before = _U64(0), _U64(0)
    for block in range(blocks):
        high = dots = spaces = letters = breaks = feeds = _U64(0)
        digit_lanes = capital_lanes = hash_lanes = brace_lanes = space_lanes = feed_lanes = _U64(0)
        for i in range(0, 64, 8):
            value = load64(doc, 64 * block + i)
            ascii_bytes = ~value & _HIGH
            low = value & _LOW
            high |= value & _HIGH
            capital = between(low, _U64(0x41), _U64(0x5A)) & ascii_bytes
            letter = between(low | _ONES * _U64(0x20), _U64(0x61), _U64(0x7A)) & ascii_bytes
            space = (between(low, _U64(0x09), _U64(0x0D)) | between(low, _U64(0x1C), _U64(0x20))) & ascii_bytes
            feed = between(low, _U64(0x0A), _U64(0x0A)) & ascii_bytes
            breaks |= _gather(
                (between(low, _U64(0x0A), _U64(0x0D)) | between(low, _U64(0x1C), _U64(0x1E))) & ascii_bytes
            ) << _U64(i)
            letters |= _gather(letter) << _U64(i)
            spaces |= _gather(space) << _U64(i)
            feeds |= _gather(feed) << _U64(i)
            dots |= _gather(between(low, _U64(0x2E), _U64(0x2E)) & ascii_bytes) << _U64(i)
            capital_lanes += capital >> _U64(7)
            space_lanes += space >> _U64(7)
            feed_lanes += feed >> _U64(7)
            digit_lanes += (between(low, _U64(0x30), _U64(0x39)) & ascii_bytes) >> _U64(7)
            hash_lanes += (between(low, _U64(0x23), _U64(0x23)) & ascii_bytes) >> _U64(7)
            brace_lanes += (between(low, _U64(0x7B), _U64(0x7B)) & ascii_bytes) >> _U64(7)
        bits[STRINGS * block + SPACES] |= spaces
        bits[STRINGS * block + LETTERS] = letters
        bits[STRINGS * block + BREAKS] |= breaks
        bits[STRINGS * block + NEWLINES] = feeds
        bits[STRINGS * block + DOTS] = dots
        white += _lanes(space_lanes)
        digits += _lanes(digit_lanes)
        capitals += _lanes(capital_lanes)
        hashes += _lanes(hash_lanes)
        braces += _lanes(brace_lanes)
        newlines += _lanes(feed_lanes)
        pairs |= dots & (dots << _U64(1) | before)
        before = dots >> _U64(63)
        if high:
            found = _set_wide(doc, 64 * block, 64 * block + 64, classes, bits)
            white += found[0]
            digits += found[1]
            capitals += found[2]
            ellipses += found[3]
            continuations += found[4]
    white -= 64 * blocks - size  # the spaces behind the text
    return size - continuations, white, digits, capitals, hashes, braces, ellipses, newlines, pairs != 0


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _search(bits: Any, kind: Any, position: Any, end: Any, flip: Any) -> Any:
    block = position >> 6
    left = (bits[STRINGS * block + kind] ^ flip) >> _U64(position & 63) << _U64(position & 63)
    while not left:
        block += 1
        if block << 6 >= end:
            return end
        left = bits[STRINGS * block + kind] ^ flip
    return min((block << 6) + np.int64(trailing_zeros(left)), end)


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def next_bit(bits: Any, kind: Any, position: Any, end: Any) -> Any:
    """Place of the first bit of a bit string from this position on, `end` if there is none before."""
    return _search(bits, kind, position, end, _U64(0))


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def next_bit_not(bits: Any, kind: Any, position: Any, end: Any) -> Any:
    """Place of the first zero bit of a bit string from this position on, `end` if there is none before."""
    return _search(bits, kind, position, end, ~_U64(0))


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def only_letters(bits: Any, start: Any, end: Any) -> Any:
    """Whether all of a part that is not empty is ASCII letters."""
    left = ~bits[STRINGS * (start >> 6) + LETTERS] >> _U64(start & 63)
    if end - start < 64 - (start & 63):
        return left << _U64(64 - (end - start)) == 0
    return left == 0 and next_bit_not(bits, LETTERS, start, end) == end


@numba.njit(nogil=True, cache=True, _nrt=False)
def list_chunks(bits: Any, size: Any, starts: Any, ends: Any) -> Any:
    """Fill in where the parts without white space start and end, int64[size + 1]; returns their number."""
    opened = closed = 0
    carried = _U64(1)
    for block in range(size // 64 + 1):
        spaces = bits[STRINGS * block + SPACES]
        before = spaces << _U64(1) | carried
        carried = spaces >> _U64(63)
        edges = ~spaces & before
        while edges:
            starts[opened] = (block << 6) + np.int64(trailing_zeros(edges))
            edges &= edges - _U64(1)
            opened += 1
        edges = spaces & ~before
        while edges:
            ends[closed] = (block << 6) + np.int64(trailing_zeros(edges))
            edges &= edges - _U64(1)
            closed += 1
    return closed
