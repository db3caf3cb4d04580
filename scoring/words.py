"""Kernels that cut a text into words, by the rules of `word_rules`."""

from typing import Any

import numba
import numpy as np

from ..connectors.keys import load64
from .addresses import holds_address
from .text_bits import LETTERS, next_bit_not, only_letters
from .word_rules import (
    ALPHABETIC,
    CURRENCY,
    DIGIT,
    ENDINGS_AT,
    EXCEPTIONS,
    FACES_AT,
    FILTER_AT,
    FILTER_BITS,
    ICON,
    LETTER,
    LOWER,
    MAX_EXCEPTION,
    PREFIX,
    PUNCTUATION,
    PUNCTUATION_TOKEN,
    QUOTE,
    STOP,
    STOP_TOKEN,
    STOP_WORDS_AT,
    SUFFIX,
    SYMBOL,
    UNITS_AT,
    UPPER,
    WORD,
    code_point,
    hash_bytes_at,
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
_SMALL_A = 0x61
_UNDERSCORE = 0x5F
_QUESTION = 0x3F
_HASH = 0x23
_AT = 0x40


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _class_at(doc: Any, position: Any, classes: Any) -> Any:
    return np.int64(classes[code_point(doc, position)[0]])


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def before(doc: Any, position: Any) -> Any:
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
def _prefix(doc: Any, start: Any, end: Any, classes: Any) -> Any:
    """Bytes of the punctuation that the chunk begins with, 0 for none."""
    point, length = code_point(doc, start)
    if classes[point] & PREFIX:
        return length
    if point == _DOT:
        dots = _dots(doc, start, end)
        return dots if dots > 1 else 0
    if point == _PLUS:
        return 0 if start + 1 < end and _DIGIT_0 <= doc[start + 1] <= _DIGIT_9 else 1
    if (point == _LARGE_A or point == _LARGE_C) and start + 1 < end and doc[start + 1] == _DOLLAR:
        return 2
    if point == _LARGE_U and start + 2 < end and doc[start + 1] == _LARGE_S and doc[start + 2] == _DOLLAR:
        return 3
    return 0


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _unit(doc: Any, start: Any, end: Any, rules: Any) -> Any:
    """Bytes of the unit that ends a chunk, right after a digit; else 0."""
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
    position = before(doc, end - 1)
    kind = _class_at(doc, position, classes)
    if kind & (LOWER | DIGIT) or (kind & LETTER and not kind & UPPER):
        return True
    if (kind & SUFFIX and not kind & ICON) or doc[position] in (_PERCENT, _HYPHEN, _PLUS, _BAR):
        return True
    if not kind & LETTER or position == start:
        return False
    kind = _class_at(doc, before(doc, position), classes)
    return kind & LETTER and not kind & LOWER


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _suffix(doc: Any, start: Any, end: Any, classes: Any, rules: Any) -> Any:
    """Bytes of what is cut off at the end of the chunk, 0 for nothing."""
    if start >= end:
        return 0
    last = before(doc, end)
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
        position = before(doc, last)
        point, _ = code_point(doc, position)
        if point == _APOSTROPHE or point == 0x2019:
            return end - position
    if doc[last] == _PLUS or doc[last] == _PERCENT or kind & CURRENCY:
        return end - last if _DIGIT_0 <= doc[last - 1] <= _DIGIT_9 else 0
    return _unit(doc, start, end, rules) if kind & LETTER else 0


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _infix(doc: Any, start: Any, position: Any, end: Any, length: Any, classes: Any) -> Any:
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
    left = _class_at(doc, before(doc, position), classes)
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


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def tokens_of(token: Any, rules: Any) -> Any:
    """Byte lengths of the tokens that the exception with this hash becomes, 0 for what is none."""
    low = np.int64(token & _U64(FILTER_BITS - 1))
    if not rules[FILTER_AT + (low >> 6)] >> _U64(low & 63) & _U64(1):
        return 0
    place = np.int64(token >> _U64(20) & _U64(EXCEPTIONS - 1))
    while rules[2 * place]:
        if rules[2 * place] == token:
            return np.int64(rules[2 * place + 1])
        place = (place + 1) & (EXCEPTIONS - 1)
    return 0


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def stop_word(doc: Any, start: Any, end: Any, rules: Any) -> Any:
    """Number of the stop word that a token is, 0 for none; without a branch, since a fifth of all words is one."""
    value = load64(doc, start) & (~_U64(0) >> _U64(64 - 8 * min(end - start, 8)))
    number = 0
    for i in range(UNITS_AT - STOP_WORDS_AT):
        number |= (i + 1) * (rules[STOP_WORDS_AT + i] == value)
    return number


@numba.njit(nogil=True, cache=True, _nrt=False)
def _look_up(doc: Any, start: Any, end: Any, rules: Any) -> Any:
    return tokens_of(hash_bytes_at(doc, start, end - start), rules)


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _exception(doc: Any, start: Any, end: Any, rules: Any) -> Any:
    """Lengths of the tokens that an exception becomes, 0 for what is none."""
    if start >= end or end - start > MAX_EXCEPTION:
        return 0
    if not rules[ENDINGS_AT + np.int64(doc[end - 1] & 0x7F)] >> _U64(end - start) & _U64(1):
        return 0
    return _look_up(doc, start, end, rules)


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _cut_separators(doc: Any, start: Any, end: Any, bits: Any, classes: Any, cuts: Any, pieces: Any) -> Any:
    """Cut what affixes have been taken off, unless it is an address, around the separators between its words."""
    if holds_address(doc, start, end, bits):
        cuts[pieces] = end
        return pieces + 1
    first = start
    position = next_bit_not(bits, LETTERS, start, end)
    while position < end:
        point, length = code_point(doc, position)
        separator = 0
        if position > start and not classes[point] & (LETTER | DIGIT):
            separator = _infix(doc, start, position, end, length, classes)
        if separator:
            if position > first:
                cuts[pieces] = position
                pieces += 1
            first = position + separator
            cuts[pieces] = first
            pieces += 1
        position = next_bit_not(bits, LETTERS, position + max(separator, length), end)
    cuts[pieces] = end
    return pieces + (first < end)


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _join_faces(doc: Any, start: Any, rules: Any, cuts: Any, pieces: Any) -> Any:
    """Join two neighbouring marks where the rules know the pair; returns the new number of pieces."""
    kept, left = 0, start
    for i in range(pieces):
        end = cuts[i]
        if kept and end - cuts[kept - 1] == 1 and cuts[kept - 1] - left == 1:
            pair = _U64(doc[end - 1]) << _U64(8) | _U64(doc[end - 2])
            for place in range(FACES_AT, FILTER_AT):
                if rules[place] == pair:
                    kept -= 1
                    break
        if kept:
            left = cuts[kept - 1]
        cuts[kept] = end
        kept += 1
    return kept


@numba.njit(nogil=True, cache=True, _nrt=False)
def cut_chunk(doc: Any, start: Any, end: Any, bits: Any, classes: Any, rules: Any, cuts: Any) -> Any:
    """Cut a chunk without white space into tokens, and return their number.

    Args:
        doc: uint8[], the text and at least eight bytes more.
        start, end: the chunk, not empty.
        bits: of `text_bits`.
        classes, rules: of `word_rules`.
        cuts: int64[], at least as many as the chunk has bytes; filled with the end of each token.
    """
    whole_start = start
    pieces = suffixes = 0
    lengths = _exception(doc, start, end, rules)
    while not lengths and start < end and not only_letters(bits, start, end):
        prefix = _prefix(doc, start, end, classes)
        suffix = 0
        if prefix:
            lengths = _exception(doc, start + prefix, end, rules)
        if not lengths:
            suffix = _suffix(doc, start + prefix, end, classes, rules)
            if suffix:
                lengths = _exception(doc, start, end - suffix, rules)
        if not suffix and not prefix:
            pieces = _cut_separators(doc, start, end, bits, classes, cuts, pieces)
            start = end
        elif prefix and not (suffix and lengths):
            start += prefix
            cuts[pieces] = start
            pieces += 1
            if suffix:  # with only one of them cut off, what is left has been looked up already
                lengths = _exception(doc, start, end - suffix, rules)
        if suffix:
            suffixes += 1
            cuts[cuts.size - suffixes] = end  # from the far end, since what is inside comes before it
            end -= suffix
    while lengths:
        start += lengths & 0xFF
        lengths >>= 8
        cuts[pieces] = start
        pieces += 1
    if start < end:
        cuts[pieces] = end
        pieces += 1
    while suffixes:
        cuts[pieces] = cuts[cuts.size - suffixes]
        pieces += 1
        suffixes -= 1
    return _join_faces(doc, whole_start, rules, cuts, pieces) if pieces > 1 else pieces


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def token_mark(doc: Any, start: Any, end: Any, classes: Any) -> Any:
    """Characters of a token << 8 | its kind, without the stop words."""
    characters = 0
    any_class, all_classes = 0, 0xFFFF
    position = start
    while position < end and doc[position] < 0x80:
        any_class |= classes[doc[position]]
        all_classes &= classes[doc[position]]
        position += 1
        characters += 1
    while position < end:
        point, length = code_point(doc, position)
        any_class |= classes[point]
        all_classes &= classes[point]
        position += length
        characters += 1
    kind = ALPHABETIC if any_class & LETTER else 0
    kind |= (0 if all_classes & SYMBOL else WORD) | (PUNCTUATION_TOKEN if all_classes & PUNCTUATION else 0)
    kind |= STOP_TOKEN if characters == 1 and any_class & STOP else 0
    return characters << 8 | kind
