"""Kernels that find what is cut off a chunk of text, or cuts it: punctuation, units and separators."""

from typing import Any

import numba
import numpy as np

from ..connectors.keys import load64
from .word_rules import (
    CURRENCY,
    DIGIT,
    FACES_AT,
    ICON,
    LETTER,
    LOWER,
    PREFIX,
    QUOTE,
    SUFFIX,
    UNITS_AT,
    UPPER,
    code_point,
)

_U64 = np.uint64
_DOT = 0x2E
_PLUS = 0x2B
_DIGIT_0 = 0x30
_DIGIT_9 = 0x39
_LARGE_A = 0x41
_LARGE_C = 0x43
_DOLLAR = 0x24
_LARGE_U = 0x55
_LARGE_S = 0x53
_SMALL_Z = 0x7A
_PERCENT = 0x25
_HYPHEN = 0x2D
_BAR = 0x7C
_SMALL_S = 0x73
_APOSTROPHE = 0x27
_STAR = 0x2A
_CARET = 0x5E
_COMMA = 0x2C
_COLON = 0x3A
_LESS = 0x3C
_GREATER = 0x3E
_EQUALS = 0x3D
_SLASH = 0x2F
_TILDE = 0x7E


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _class_at(doc: Any, position: Any, classes: Any) -> Any:
    return np.int64(classes[code_point(doc, position)[0]])


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def previous(doc: Any, position: Any) -> Any:
    """Start of the character that ends here."""
    position -= 1
    while doc[position] & 0xC0 == 0x80:
        position -= 1
    return position


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _dots(doc: Any, start: Any, end: Any) -> Any:
    """Number of full stops from here."""
    position = start
    while position < end and doc[position] == _DOT:
        position += 1
    return position - start


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def prefix_length(doc: Any, start: Any, end: Any, classes: Any) -> Any:
    """Bytes of the punctuation that the chunk begins with, 0 for none."""
    point, length = code_point(doc, start)
    if classes[point] & PREFIX:
        return length
    if point == _DOT:
        dots = _dots(doc, start, end)
        return dots if dots > 1 else 0
    if point == _PLUS:
        return 0 if start + 1 < end and _DIGIT_0 <= doc[start + 1] <= _DIGIT_9 else 1
    if point in (_LARGE_A, _LARGE_C) and start + 1 < end and doc[start + 1] == _DOLLAR:
        return 2
    if point == _LARGE_U and start + 2 < end and doc[start + 1] == _LARGE_S and doc[start + 2] == _DOLLAR:
        return 3
    return 0


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _unit(doc: Any, start: Any, end: Any, rules: Any) -> Any:
    """Bytes of the unit that ends a chunk, right after a digit, if the rules know it; else 0."""
    position = end
    while position > start and end - position <= 4 and _LARGE_A <= doc[position - 1] <= _SMALL_Z:
        position -= 1
    length = end - position
    if not 1 <= length <= 4 or position == start or not _DIGIT_0 <= doc[position - 1] <= _DIGIT_9:
        return 0
    letters = load64(doc, position) & ((_U64(1) << _U64(8 * length)) - _U64(1))
    for place in range(UNITS_AT, FACES_AT):
        if rules[place] == letters:
            return length
    return 0


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _final_dot(doc: Any, start: Any, end: Any, classes: Any) -> Any:
    """Whether the full stop that ends a chunk is cut off: not after a capital, unless after two."""
    if end - 1 == start:
        return False
    position = previous(doc, end - 1)
    kind = _class_at(doc, position, classes)
    if kind & (LOWER | DIGIT) or (kind & LETTER and not kind & UPPER):
        return True
    if (kind & SUFFIX and not kind & ICON) or doc[position] in (_PERCENT, _HYPHEN, _PLUS, _BAR):
        return True
    if not kind & LETTER or position == start:
        return False
    kind = _class_at(doc, previous(doc, position), classes)
    return kind & LETTER and not kind & LOWER


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def suffix_length(doc: Any, start: Any, end: Any, classes: Any, rules: Any) -> Any:
    """Bytes of what is cut off at the end of the chunk, 0 for nothing."""
    if start >= end:
        return 0
    last = previous(doc, end)
    kind = _class_at(doc, last, classes)
    if kind & SUFFIX:
        return end - last
    if doc[last] == _DOT:
        dots = 1
        while last - dots >= start and doc[last - dots] == _DOT:
            dots += 1
        return dots if dots > 1 else np.int64(_final_dot(doc, start, end, classes))
    if last == start:
        return 0
    if doc[last] == _SMALL_S or doc[last] == _LARGE_S:
        position = previous(doc, last)
        point, _ = code_point(doc, position)
        if point == _APOSTROPHE or point == 0x2019:
            return end - position
    if doc[last] == _PLUS or doc[last] == _PERCENT or kind & CURRENCY:
        return end - last if _DIGIT_0 <= doc[last - 1] <= _DIGIT_9 else 0
    return _unit(doc, start, end, rules) if kind & LETTER else 0


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def separator_length(doc: Any, start: Any, position: Any, end: Any, length: Any, classes: Any) -> Any:
    """Bytes of the separator inside a chunk at this position, where the character has `length` bytes; 0 for none."""
    byte = doc[position]
    if byte == _DOT:
        dots = _dots(doc, position, end)
        if dots > 1:
            return dots
    elif _class_at(doc, position, classes) & ICON or (length == 3 and code_point(doc, position)[0] == 0x2026):
        return length
    if position == start or position + length >= end:
        return 0
    left = _class_at(doc, previous(doc, position), classes)
    after = position + length
    right = _class_at(doc, after, classes)
    if byte == _DOT:
        left_fits = left & QUOTE or (left & LETTER and not left & UPPER)
        return np.int64(left_fits and (right & QUOTE or (right & LETTER and not right & LOWER)) > 0)
    if byte in (_PLUS, _HYPHEN, _STAR, _CARET) and left & DIGIT and (right & DIGIT or doc[after] == _HYPHEN):
        return 1
    if byte == _COMMA:
        return np.int64(left & LETTER and right & LETTER > 0)
    if not left & (LETTER | DIGIT):
        return 0
    if byte in (_COLON, _LESS, _GREATER, _EQUALS, _SLASH, _TILDE):
        return np.int64(right & LETTER > 0)
    while after + length < end and after - position < 3 and (byte == _HYPHEN and doc[after] == byte):
        after += 1
    is_hyphen = byte == _HYPHEN or (length == 3 and 0x2013 <= code_point(doc, position)[0] <= 0x2014)
    return after - position if is_hyphen and _class_at(doc, after, classes) & LETTER else 0
