"""Kernels that measure how much a text repeats itself: lines, paragraphs and n-grams of words.

The measures are those of Rae et al. 2021 (https://arxiv.org/abs/2112.11446, table A1), counted as in DataTrove.

N-grams are told apart without hashing them: a word gets the number of its first occurrence, and an n-gram is the pair
of the (n-1)-grams that it is made of. Only those of which both halves occur twice can occur twice themselves. So only
these are kept, in a list that is short from four words on in ordinary text.
"""

from typing import Any

import numba
import numpy as np

from .text_bits import NEWLINE_PAIRS, next_bit
from .word_rules import hash_bytes_at

_U64 = np.uint64
_MIX = _U64(0x9E3779B97F4A7C15)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _cleared(table: Any, entries: Any) -> Any:
    """Empty the table for this many keys; returns the shift that turns a hash into a place."""
    size, shift = 16, 60
    while size < 2 * entries:
        size *= 2
        shift -= 1
    for i in range(size):
        table[i] = -1
    return shift


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _first(table: Any, keys: Any, shift: Any, key: Any, index: Any) -> Any:
    """Index under which the key was entered first; enters it under this one if it is new."""
    last = (1 << (64 - shift)) - 1
    place = np.int64(key * _MIX >> _U64(shift))
    keys[index] = key
    while True:
        found = np.int64(table[place])
        # Whether a key is new cannot be guessed, so nothing branches on it.
        found = index if found < 0 else found
        if keys[found] == key:
            table[place] = found
            return found
        place = (place + 1) & last


@numba.njit(nogil=True, cache=True, _nrt=False)
def _keep_repeated(entries: Any, places: Any, first: Any, counts: Any, renumbered: Any) -> Any:
    """Drop what occurs once from a list, in place, and return its new length.

    renumbered: int32[], scratch: new index of a first occurrence that is kept.
    """
    kept = 0
    for entry in range(entries):
        number, count = first[entry], counts[entry]
        renumbered[entry] = kept
        # Written in any case, so that nothing branches; what is not kept is overwritten.
        counts[kept] = count
        places[kept] = places[entry]
        first[kept] = renumbered[number]
        kept += int((number != entry) | (count > 1))
    return kept


@numba.njit(nogil=True, cache=True, _nrt=False)
def list_words(
    hashes: Any, words: Any, places: Any, first: Any, counts: Any, renumbered: Any, table: Any, keys: Any
) -> Any:
    """List the words that occur more than once.

    Args:
        hashes: uint64[words or more], hash of each word.
        words: their number.
        places: int32[], filled with the positions of those words, ascending.
        first: int32[], filled with the index in the list of the word's first occurrence.
        counts: int32[], filled with how often it occurs, at the index of the first occurrence; 0 at others.
        renumbered: int32[words], scratch.
        table, keys: int32[4 * words + 16], uint64[words], scratch.

    Returns:
        length of the list, number of distinct words.
    """
    shift = _cleared(table, words)
    distinct = 0
    for i in range(words):
        counts[i] = 0
        found = _first(table, keys, shift, hashes[i], i)
        places[i] = i
        first[i] = found
        counts[found] += 1
        distinct += found == i
    return _keep_repeated(words, places, first, counts, renumbered), distinct


@numba.njit(nogil=True, cache=True, _nrt=False)
def list_longer(
    entries: Any, places: Any, first: Any, counts: Any, renumbered: Any, table: Any, keys: Any, pairs: Any
) -> Any:
    """Turn the list of repeated (n-1)-grams into that of repeated n-grams, in place, and return its length.

    Arguments as in `list_words`; pairs: uint64[entries], scratch.
    """
    found = np.int64(0)
    for entry in range(entries - 1):
        pairs[found] = _U64(first[entry]) << _U64(32) | _U64(first[entry + 1])
        follows = places[entry + 1] == places[entry] + 1
        places[found] = places[entry]
        found += follows
    shift = _cleared(table, found)
    for entry in range(found):
        counts[entry] = 0
        number = _first(table, keys, shift, pairs[entry], entry)
        counts[number] += 1
        first[entry] = number
    return _keep_repeated(found, places, first, counts, renumbered)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _characters(marks: Any, start: Any, words: Any) -> Any:
    total = 0
    for i in range(start, start + words):
        total += marks[i] >> 8
    return total


@numba.njit(nogil=True, cache=True, _nrt=False)
def top_ngram(order: Any, entries: Any, places: Any, counts: Any, marks: Any) -> Any:
    """Characters in all occurrences of the most frequent n-gram, the earliest of equals, with a space between words.

    marks: int64[], characters of each word << 8; if nothing is repeated, the text's first n-gram counts.
    """
    place, count = np.int64(0), 1
    for entry in range(entries):
        if counts[entry] > count:
            place, count = np.int64(places[entry]), counts[entry]
    return (_characters(marks, place, order) + order - 1) * count


@numba.njit(nogil=True, cache=True, _nrt=False)
def duplicate_ngrams(order: Any, entries: Any, places: Any, first: Any, seen: Any, marks: Any) -> Any:
    """Characters in n-grams that occurred before, none counted twice.

    As in DataTrove: from left to right, and after a repeated n-gram on with the word behind it; n-grams that are passed
    over do not count as having occurred. (The paper says only that overlapping ones are not counted twice.)
    seen: int32[entries], scratch.
    """
    for entry in range(entries):
        seen[entry] = 0
    characters = passed = 0
    for entry in range(entries):
        if places[entry] < passed:
            continue
        if seen[first[entry]]:
            characters += _characters(marks, np.int64(places[entry]), order)
            passed = places[entry] + order
        else:
            seen[first[entry]] = 1
    return characters


@numba.njit(nogil=True, cache=True, _nrt=False)
def duplicate_pieces(doc: Any, bits: Any, start: Any, end: Any, kind: Any, newlines: Any, table: Any, keys: Any) -> Any:
    """Count the pieces between runs of line feeds, and those that occurred before.

    An empty piece before the first run, or behind the last one, counts too, as with Python's `re.split`.

    Args:
        doc, bits: the text and its `text_bits`.
        start, end: the part to cut up.
        kind: NEWLINES, or NEWLINE_PAIRS for runs of at least two; the part may then not begin with one.
        newlines: at least the number of line feeds.
        table, keys: int32[4 * newlines + 20], uint64[newlines + 1], scratch.

    Returns:
        pieces, repeated ones, characters in these.
    """
    shift = _cleared(table, newlines + 1)
    pieces = repeated = characters = np.int64(0)
    first = start
    while first <= end:
        position = next_bit(bits, kind, first, end)
        if position == end and not pieces:
            return 1, 0, 0
        run = position - (kind == NEWLINE_PAIRS and position < end)
        while position < end and doc[position] == 10:
            position += 1
        if _first(table, keys, shift, hash_bytes_at(doc, first, run - first), pieces) != pieces:
            repeated += 1
            for i in range(first, run):
                characters += doc[i] & 0xC0 != 0x80
        pieces += 1
        first = position if run < end else end + 1
    return pieces, repeated, characters
