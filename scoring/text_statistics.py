"""Counts of a text that published quality filters use, in one pass over a batch.

Sources: Rae et al. 2021 (Gopher, https://arxiv.org/abs/2112.11446, A1.1 and table A1), Raffel et al. 2020 (C4,
https://jmlr.org/papers/v21/20-074.html, 2.2), and how DataTrove 0.10 implements both.
"""

from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import load64, store64, text_buffers
from .repetition import duplicate_ngrams, duplicate_pieces, list_longer, list_words, top_ngram
from .text_bits import (
    BREAKS,
    NEWLINE_PAIRS,
    NEWLINES,
    SPACES,
    STRINGS,
    all_letters,
    list_chunks,
    next_bit,
    next_bit_not,
    only_letters,
    text_bits,
)
from .text_counts import NGRAMS, PHRASES, PIECES, WORDS, Counts
from .text_lines import MAX_WORD, count_ellipses, count_line, line_sentences, longest_word, phrase_table, phrases_in
from .word_rules import (
    ALPHABETIC,
    CUT_OFF,
    MARKS_AT,
    WORD,
    character_classes,
    hash_bytes_at,
    word_rules,
)
from .words import cut_chunk, is_stem, stop_word, token_mark

C = Counts()
_U64 = np.uint64
_DOT, _LARGE_Z = 0x2E, 0x5A


def text_counts(text: pa.Array, parts: int = WORDS | NGRAMS | PIECES | PHRASES) -> NDArray[np.int64]:
    """Count what the columns of `Counts` name in each text.

    Memory beside the result: that of the longest text, at most 85 bytes for each of its bytes (15 for prose; address
    space is reserved for the worst case).

    Args:
        text: n texts (string-like Arrow array) without nulls, valid UTF-8.
        parts: sum of WORDS, NGRAMS, PIECES and PHRASES; the columns of other parts stay 0.

    Returns:
        int64[n, len(Counts())].

    Raises:
        TypeError: the array is not text.
        ValueError: the array has nulls.
    """
    offsets, data = text_buffers(text)
    counts = np.zeros((len(text), len(C)), np.int64)
    longest = int(np.diff(offsets).max(initial=0))
    if parts & NGRAMS:
        parts |= WORDS
    doc = np.empty(longest + 72, np.uint8)  # kernels read past the end of a text
    bits = np.empty(STRINGS * (longest // 64 + 2), np.uint64)
    tokens = [np.empty(longest + 1, np.int64) for _ in range(4)]
    hashes = np.empty(longest + 1, np.uint64)
    lists = [np.empty(longest + 1, np.int32) for _ in range(4)]
    table, keys = np.empty(4 * longest + 32, np.int32), np.empty(longest + 2, np.uint64)
    tables = character_classes(), word_rules(), phrase_table()
    _count_texts(offsets, data, doc, bits, *tables, hashes, *tokens, *lists, table, keys, parts, counts)
    return counts


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _append_chunk(
    doc: Any,
    start: Any,
    end: Any,
    bits: Any,
    classes: Any,
    rules: Any,
    hashes: Any,
    marks: Any,
    cuts: Any,
    count: Any,
) -> Any:
    """Append the tokens of a chunk and return the new number of tokens."""
    single = MARKS_AT + 2 * np.int64(doc[end - 1])
    ending = np.int64(rules[single])
    tail = np.int64(ending >= CUT_OFF or (ending > 0 and end - start == 1))
    letters = end - start - tail
    # Most chunks are letters with one mark behind them or none, or a mark alone. Nothing branches on which of these.
    if all_letters(bits, start, letters):
        token = hash_bytes_at(doc, start, letters)
        last = doc[start + max(letters, 1) - 1]
        stays = (letters == 1) & (tail > 0) | (doc[end - 1] == _DOT) & (last <= _LARGE_Z)
        if not (stays | is_stem(token, rules)):
            hashes[count] = token
            marks[count] = letters << 8 | ALPHABETIC | WORD | stop_word(token, rules) << 4
            count += letters > 0
            hashes[count] = rules[single + 1]
            marks[count] = ending & (CUT_OFF - 1)
            return count + tail
    for i in range(cut_chunk(doc, start, end, bits, classes, rules, cuts)):
        token = hash_bytes_at(doc, start, cuts[i] - start)
        hashes[count] = token
        if only_letters(bits, start, cuts[i]):
            marks[count] = (cuts[i] - start) << 8 | ALPHABETIC | WORD | stop_word(token, rules) << 4
        else:
            marks[count] = token_mark(doc, start, cuts[i], classes)
        count += 1
        start = cuts[i]
    return count


@numba.njit(nogil=True, cache=True, _nrt=False)
def _scan(
    doc: Any,
    size: Any,
    bits: Any,
    classes: Any,
    rules: Any,
    phrases: Any,
    hashes: Any,
    marks: Any,
    cuts: Any,
    starts: Any,
    ends: Any,
    parts: Any,
    row: Any,
) -> Any:
    """Count lines, cut the text into tokens, and return their number."""
    has_phrases = parts & PHRASES and phrases_in(doc, np.int64(0), size, phrases) > 0
    chunks = list_chunks(bits, size, starts, ends)
    line = count = chunk = np.int64(0)
    while line < size:
        line_end = next_bit(bits, BREAKS, line, size)
        line_chunk, line_tokens = chunk, count
        longest = np.int64(0)
        while chunk < chunks and starts[chunk] < line_end:
            start, end = starts[chunk], ends[chunk]
            longest = max(longest, end - start)
            if parts & WORDS:
                count = _append_chunk(doc, start, end, bits, classes, rules, hashes, marks, cuts, count)
            chunk += 1
        row[C.lines] += 1
        if chunk > line_chunk:
            first, last = starts[line_chunk], ends[chunk - 1]
            if longest > MAX_WORD:
                longest = longest_word(doc, bits, first, last)
            found = phrases_in(doc, first, last, phrases) if has_phrases else 0
            kept = count_line(doc, first, last, chunk - line_chunk, longest, found, row)
            if kept and parts & WORDS and parts & PHRASES:
                row[C.sentences] += line_sentences(marks, line_tokens, count)
        if line_end + 1 < size and doc[line_end] == 13 and doc[line_end + 1] == 10:
            line_end += 1
        line = _behind(doc, line_end)
    return count


@numba.njit(nogil=True, cache=True, _nrt=False)
def _behind(doc: Any, position: Any) -> Any:
    """Start of the character after the one here."""
    position += 1
    while doc[position] & 0xC0 == 0x80:
        position += 1
    return position


@numba.njit(nogil=True, cache=True, _nrt=False)
def _count_words(count: Any, marks: Any, row: Any) -> None:
    """Count words, their characters and stop words."""
    words = characters = alphabetic = stop_words = met = 0
    for i in range(count):
        mark = marks[i]
        is_word = mark & WORD > 0
        words += is_word
        characters += (mark >> 8) * is_word
        alphabetic += mark & ALPHABETIC > 0
        number = mark >> 4 & 15
        stop_words += number > 0
        met |= 1 << number
    row[C.tokens], row[C.words], row[C.word_characters], row[C.alphabetic] = count, words, characters, alphabetic
    row[C.stop_words] = stop_words
    for number in range(1, 9):
        row[C.distinct_stop_words] += met >> number & 1


@numba.njit(nogil=True, cache=True, _nrt=False)
def _count_ngrams(
    count: Any,
    hashes: Any,
    marks: Any,
    places: Any,
    first: Any,
    occurrences: Any,
    spare: Any,
    table: Any,
    keys: Any,
    row: Any,
) -> None:
    """Count distinct tokens, the most frequent n-grams of each short order, and the repeated ones of longer orders."""
    entries, row[C.distinct_tokens] = list_words(hashes, count, places, first, occurrences, spare, table, keys)
    for order in range(2, min(count, 10) + 1):
        if entries:
            entries = list_longer(entries, places, first, occurrences, spare, table, keys, hashes)
        if order < 5:
            row[C.top_2_gram + order - 2] = top_ngram(order, entries, places, occurrences, marks)
        elif entries:
            row[C.duplicate_5_grams + order - 5] = duplicate_ngrams(order, entries, places, first, spare, marks)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _count_pieces(doc: Any, size: Any, bits: Any, classes: Any, newlines: Any, table: Any, keys: Any, row: Any) -> None:
    """Count lines and paragraphs that occurred before.

    As in DataTrove, lines are cut at any number of line feeds here, and paragraphs at two or more of the stripped text.
    """
    found = duplicate_pieces(doc, bits, np.int64(0), size, NEWLINES, newlines, table, keys)
    row[C.newline_pieces], row[C.duplicate_lines], row[C.duplicate_line_characters] = found
    start = next_bit_not(bits, SPACES, np.int64(0), size)
    while size > start and bits[STRINGS * (size - 1 >> 6) + SPACES] >> _U64(size - 1 & 63) & _U64(1):
        size -= 1
    found = duplicate_pieces(doc, bits, start, size, NEWLINE_PAIRS, newlines, table, keys)
    row[C.paragraphs], row[C.duplicate_paragraphs], row[C.duplicate_paragraph_characters] = found


@numba.njit(nogil=True, cache=True, _nrt=False)
def _copy(data: Any, start: Any, doc: Any, size: Any) -> None:
    """Copy a text, and put spaces behind it."""
    whole = min(size, data.size - start - 8) // 8 * 8
    for j in range(0, whole, 8):
        store64(doc, j, load64(data, start + j))
    for j in range(max(whole, 0), size):
        doc[j] = data[start + j]
    for j in range(size, size + 72):
        doc[j] = 0x20


@numba.njit(nogil=True, cache=True, _nrt=False)
def _count_texts(
    offsets: Any,
    data: Any,
    doc: Any,
    bits: Any,
    classes: Any,
    rules: Any,
    phrases: Any,
    hashes: Any,
    marks: Any,
    cuts: Any,
    starts: Any,
    ends: Any,
    places: Any,
    first: Any,
    occurrences: Any,
    spare: Any,
    table: Any,
    keys: Any,
    parts: Any,
    counts: Any,
) -> None:
    for i in range(offsets.size - 1):
        size = offsets[i + 1] - offsets[i]
        _copy(data, offsets[i], doc, size)
        row = counts[i]
        found = text_bits(doc, size, classes, bits)
        row[C.characters], row[C.white_space], row[C.digits], row[C.upper_case] = found[0], found[1], found[2], found[3]
        row[C.hashes], row[C.curly_brackets], row[C.ellipses] = found[4], found[5], found[6]
        if found[8]:
            row[C.ellipses] += count_ellipses(doc, size)
        words = _scan(doc, size, bits, classes, rules, phrases, hashes, marks, cuts, starts, ends, parts, row)
        if parts & WORDS:
            _count_words(words, marks, row)
        if parts & NGRAMS:
            _count_ngrams(words, hashes, marks, places, first, occurrences, spare, table, keys, row)
        if parts & PIECES:
            _count_pieces(doc, size, bits, classes, found[7], table, keys, row)
