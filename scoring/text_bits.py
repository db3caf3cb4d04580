"""Bit strings of a text, one bit per byte, made 64 bytes at a time: where white space, letters and line breaks are.

Going from bit to bit spares the kernels that follow a branch per byte, of which the processor would guess every sixth
wrongly.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..connectors.keys import trailing_zeros
from .word_rules import BREAK, DIGIT, SPACE, UPPER, code_point

# Plain integers would be types of their own.
SPACES, LETTERS, BREAKS, NEWLINES, NEWLINE_PAIRS, DOTS, SEPARATORS, STRINGS = map(np.int64, range(8))
"""Bit string k has its bits of bytes 64 b to 64 b + 63 at place STRINGS * b + k. LETTERS are ASCII ones only; BREAKS
are where `str.splitlines()` cuts; NEWLINE_PAIRS are line feeds behind another; DOTS are full stops; SEPARATORS are
where a separator inside a chunk may begin: some ASCII marks, and all other characters."""

_U64 = np.uint64


def _bytes_between(typing_context: Any, data: Any, position: Any, case: Any, first: Any, last: Any) -> Any:
    """Bit i is set where byte i from a position on, or'ed with `case`, lies from `first` to `last`; kernels only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        lanes, byte = ir.VectorType(ir.IntType(8), 64), ir.IntType(8)
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), lanes.as_pointer())

        def spread(value: Any) -> Any:
            one = builder.insert_element(
                ir.Constant(lanes, ir.Undefined), builder.trunc(value, byte), ir.IntType(32)(0)
            )
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64))

        value = builder.or_(builder.load(pointer, align=1, typ=lanes), spread(arguments[2]))
        width = spread(builder.sub(arguments[4], arguments[3]))
        found = builder.icmp_unsigned("<=", builder.sub(value, spread(arguments[3])), width)
        return builder.bitcast(found, ir.IntType(64))

    return types.uint64(data, types.intp, types.intp, types.intp, types.intp), generate


def _bit_count(typing_context: Any, value: Any) -> Any:
    """Return the number of set bits of a uint64; kernels only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


# Typed as Any: type checkers take an intrinsic's typing context for an argument of the caller.
bytes_between: Any = intrinsic(_bytes_between)
_ones: Any = intrinsic(_bit_count)


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
    pairs = before = feed_before = _U64(0)
    for block in range(blocks):
        place = 64 * block
        upper = bytes_between(doc, place, 0, 0x41, 0x5A)
        feeds = bytes_between(doc, place, 0, 0x0A, 0x0A)
        dots = bytes_between(doc, place, 0, 0x2E, 0x2E)
        breaks = bytes_between(doc, place, 0, 0x0A, 0x0D) | bytes_between(doc, place, 0, 0x1C, 0x1E)
        spaces = bytes_between(doc, place, 0, 0x09, 0x0D) | bytes_between(doc, place, 0, 0x1C, 0x20)
        bits[STRINGS * block + SPACES] |= spaces
        bits[STRINGS * block + LETTERS] = upper | bytes_between(doc, place, 0, 0x61, 0x7A)
        bits[STRINGS * block + BREAKS] |= breaks
        bits[STRINGS * block + NEWLINES] = feeds
        bits[STRINGS * block + NEWLINE_PAIRS] = feeds & (feeds << _U64(1) | feed_before)
        bits[STRINGS * block + DOTS] = dots
        marks = bytes_between(doc, place, 0, 0x2A, 0x2F) | bytes_between(doc, place, 0, 0x3C, 0x3E)  # * + , - . / < = >
        marks |= bytes_between(doc, place, 0, 0x3A, 0x3A) | bytes_between(doc, place, 0, 0x5E, 0x5E)  # : ^
        marks |= bytes_between(doc, place, 0, 0x7E, 0x7E) | bytes_between(doc, place, 0, 0xC0, 0xFF)  # ~
        bits[STRINGS * block + SEPARATORS] = marks
        white += _ones(spaces)
        digits += _ones(bytes_between(doc, place, 0, 0x30, 0x39))
        capitals += _ones(upper)
        hashes += _ones(bytes_between(doc, place, 0, 0x23, 0x23))
        braces += _ones(bytes_between(doc, place, 0, 0x7B, 0x7B))
        newlines += _ones(feeds)
        pairs |= dots & (dots << _U64(1) | before)
        before, feed_before = dots >> _U64(63), feeds >> _U64(63)
        if bytes_between(doc, place, 0, 0x80, 0xFF):
            found = _set_wide(doc, place, place + 64, classes, bits)
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


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def all_letters(bits: Any, start: Any, length: Any) -> Any:
    """Whether all of a part, which may be empty, is ASCII letters; false from 64 bytes on. Branches on nothing else."""
    place, shift = STRINGS * (start >> 6) + LETTERS, _U64(start & 63)
    letters = bits[place] >> shift | bits[place + STRINGS] << _U64(1) << (_U64(63) - shift)
    return (length < 64) & (~letters & ((_U64(1) << _U64(length & 63)) - _U64(1)) == 0)


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
