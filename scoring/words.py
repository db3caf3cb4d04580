"""Kernels that cut a text into words, by the rules of `word_rules`."""

from typing import Any

import numba
import numpy as np

from .addresses import holds_address
from .affixes import prefix_length, separator_length, suffix_length
from .text_bits import DOTS, SEPARATORS, next_bit, only_letters
from .word_rules import (
    DIGIT,
    ENDINGS_AT,
    EXCEPTIONS,
    FACES_AT,
    FILTER_AT,
    FILTER_BITS,
    LETTER,
    MAX_EXCEPTION,
    STEMS_AT,
    STOP_WORDS_AT,
    code_point,
    hash_bytes_at,
    token_kind,
)

_U64 = np.uint64


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _tokens_of(token: Any, rules: Any) -> Any:
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
def is_stem(token: Any, rules: Any) -> Any:
    """Whether ASCII letters with this hash may be an exception, alone or with one character behind them."""
    low = np.int64(token & _U64(FILTER_BITS - 1))
    return rules[STEMS_AT + (low >> 6)] >> _U64(low & 63) & _U64(1) > 0


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def stop_word(token: Any, rules: Any) -> Any:
    """Number of the stop word that has this hash, 0 for none; without a branch, since a fifth of all words is one."""
    place = STOP_WORDS_AT + 2 * np.int64(token >> _U64(56))
    return np.int64(rules[place + 1]) * (rules[place] == token)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _look_up(doc: Any, start: Any, end: Any, rules: Any) -> Any:
    return _tokens_of(hash_bytes_at(doc, start, end - start), rules)


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
    if next_bit(bits, DOTS, start, end) < end - 1 and holds_address(doc, start, end):
        cuts[pieces] = end
        return pieces + 1
    first = start
    position = next_bit(bits, SEPARATORS, start + 1, end)
    while position < end:
        point, length = code_point(doc, position)
        separator = 0
        if not classes[point] & (LETTER | DIGIT):
            separator = separator_length(doc, start, position, end, length, classes)
        if separator:
            if position > first:
                cuts[pieces] = position
                pieces += 1
            first = position + separator
            cuts[pieces] = first
            pieces += 1
        position = next_bit(bits, SEPARATORS, position + max(separator, length), end)
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
            known = 0
            for place in range(FACES_AT, FILTER_AT):
                known |= rules[place] == pair
            kept -= known
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
    pieces = suffixes = np.int64(0)
    lengths = _exception(doc, start, end, rules)
    while not lengths and start < end and not only_letters(bits, start, end):
        prefix = prefix_length(doc, start, end, classes)
        suffix = 0
        if prefix:
            lengths = _exception(doc, start + prefix, end, rules)
        if not lengths:
            suffix = suffix_length(doc, start + prefix, end, classes, rules)
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
    return characters << 8 | token_kind(any_class, all_classes, characters)
