"""Kernels that measure how much a text repeats itself: lines, paragraphs and n-grams of words.

The measures are those of Rae et al. 2021 (https://arxiv.org/abs/2112.11446, table A1), counted as DataTrove counts them.

N-grams are told apart without hashing them: words get the number of their first occurrence, and an n-gram is a pair of
neighbouring (n-1)-grams, by their numbers. Only pairs of which both halves occur twice can occur twice themselves, so
that for ordinary text hardly anything is left to look up from four words on.
"""

from typing import Any

import numba
import numpy as np

from .word_rules import hash_bytes_at

_U64 = np.uint64
_MIX = _U64(0x9E3779B97F4A7C15)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _cleared(table: Any, keys: Any, entries: Any) -> Any:
    """Empty a table for this many keys; returns the shift that turns a hash into a place."""
    size, shift = 16, 60
    while size < 2 * entries:
        size *= 2
        shift -= 1
    for i in range(size):
        table[i] = -1
    return shift


@numba.njit(nogil=True, cache=True, _nrt=False)
def _first(table: Any, keys: Any, shift: Any, key: Any, index: Any) -> Any:
    """Index under which the key was entered first; enters it under this one if it is new."""
    last = (1 << (64 - shift)) - 1
    place = np.int64(key * _MIX >> _U64(shift))
    while True:
        found = table[place]
        if found < 0:
            table[place] = index
            keys[index] = key
            return index
        if keys[found] == key:
            return np.int64(found)
        place = (place + 1) & last


@numba.njit(nogil=True, cache=True, _nrt=False)
def number_words(hashes: Any, words: Any, first: Any, counts: Any, table: Any, keys: Any) -> Any:
    """Give each word the index of its first occurrence, count it there, and return the number of distinct words.

    Args:
        hashes: uint64[words or more], hash of each word.
        words: their number.
        first: int32[], filled with the first occurrences.
        counts: int32[], filled with occurrences, at the index of the first one.
        table, keys: int32[4 * words + 16], uint64[words], scratch.
    """
    shift = _cleared(table, keys, words)
    distinct = 0
    for i in range(words):
        counts[i] = 0
        found = _first(table, keys, shift, hashes[i], i)
        first[i] = found
        counts[found] += 1
        distinct += found == i
    return distinct


@numba.njit(nogil=True, cache=True, _nrt=False)
def extend_ngrams(ngrams: Any, first: Any, counts: Any, table: Any, keys: Any) -> Any:
    """Turn the numbers of (n-1)-grams into those of n-grams, in place, and return whether one occurs twice.

    Args:
        ngrams: number of n-grams; there is one (n-1)-gram more.
        first, counts, table, keys: as in `number_words`.
    """
    candidates = 0
    for i in range(ngrams):
        candidates += counts[first[i]] > 1 and counts[first[i + 1]] > 1
    shift = _cleared(table, keys, candidates)
    repeated = False
    again = counts[first[0]] > 1
    for i in range(ngrams):
        # All of `counts` is still needed to the right: a first occurrence lies to the left of what is looked at.
        next_again = counts[first[i + 1]] > 1
        if again and next_again:
            key = _U64(first[i]) << _U64(32) | _U64(first[i + 1])
            first[i] = _first(table, keys, shift, key, i)
        else:
            first[i] = i
        again = next_again
    for i in range(ngrams):
        counts[i] = 0
    for i in range(ngrams):
        counts[first[i]] += 1
        repeated |= first[i] != i
    return repeated


@numba.njit(nogil=True, cache=True, _nrt=False)
def top_ngram(order: Any, ngrams: Any, first: Any, counts: Any, marks: Any) -> Any:
    """Characters in all occurrences of the most frequent n-gram, the earliest of equals, with a space between words."""
    best = 0
    for i in range(1, ngrams):
        if first[i] == i and counts[i] > counts[best]:
            best = i
    characters = order - 1
    for i in range(best, best + order):
        characters += marks[i] >> 8
    return characters * counts[best]


@numba.njit(nogil=True, cache=True, _nrt=False)
def duplicate_ngrams(order: Any, ngrams: Any, first: Any, seen: Any, marks: Any) -> Any:
    """Characters in n-grams that occurred before, none counted twice.

    As in DataTrove: from left to right, behind a repeated n-gram the search goes on after its last word. (The paper says
    only that characters in overlapping n-grams are not counted twice.) Those it passes over do not count as having
    occurred. seen: int32[], scratch.
    """
    for i in range(ngrams):
        seen[i] = 0
    characters = 0
    i = 0
    while i < ngrams:
        if seen[first[i]]:
            for j in range(i, i + order):
                characters += marks[j] >> 8
            i += order
        else:
            seen[first[i]] = 1
            i += 1
    return characters


@numba.njit(nogil=True, cache=True, _nrt=False)
def duplicate_pieces(doc: Any, start: Any, end: Any, breaks: Any, table: Any, keys: Any) -> Any:
    """Pieces of a text between runs of at least `breaks` line feeds; those that occurred before; characters in these.

    An empty piece before the first run, or behind the last one, counts too, as with Python's `re.split`.
    """
    pieces = 1
    position = start
    while position < end:
        run = position
        while position < end and doc[position] == 10:
            position += 1
        pieces += position - run >= breaks
        position += 1
    shift = _cleared(table, keys, pieces)
    repeated = characters = index = 0
    first = position = start
    while position <= end:
        run = position
        while position < end and doc[position] == 10:
            position += 1
        if position - run >= breaks or run == end:
            found = _first(table, keys, shift, hash_bytes_at(doc, first, run - first), index)
            if found != index:
                repeated += 1
                for i in range(first, run):
                    characters += doc[i] & 0xC0 != 0x80
            index += 1
            first = position
            if run == end:
                break
        position = max(position, run + 1)
    return pieces, repeated, characters
