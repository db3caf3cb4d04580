"""Counts of a text that published quality filters use, in one pass over a batch.

Sources: Rae et al. 2021 (Gopher, https://arxiv.org/abs/2112.11446, A1.1 and table A1), Raffel et al. 2020 (C4,
https://jmlr.org/papers/v21/20-074.html, 2.2), and how DataTrove 0.10 implements both.
"""

import unicodedata
from typing import Any, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import constant, load64, store64, text_buffers, trailing_zeros
from .repetition import duplicate_ngrams, duplicate_pieces, list_longer, list_words, top_ngram
from .text_bits import BREAKS, SPACES, STRINGS, list_chunks, next_bit, next_bit_not, only_letters, text_bits
from .word_rules import (
    STOP_WORDS as STOP_WORDS,
    ALPHABETIC,
    PUNCTUATION_TOKEN,
    STOP_TOKEN,
    WORD,
    character_classes,
    hash_bytes_at,
    word_rules,
)
from .words import cut_chunk, stop_word, token_mark, tokens_of

_U64 = np.uint64
COUNTS_VERSION = f"counts-1-unicode-{unicodedata.unidata_version}"
"""Changes whenever a count may change."""

MAX_WORD = 1000
"""Characters of a word above which C4 drops its line."""
MIN_LINE_WORDS = 3


class Counts(NamedTuple):
    """Columns of `text_counts`; all are counts, of characters where the name says so."""

    characters: int = 0
    white_space: int = 1
    digits: int = 2
    upper_case: int = 3
    tokens: int = 4
    words: int = 5
    word_characters: int = 6
    alphabetic: int = 7
    stop_words: int = 8
    distinct_stop_words: int = 9
    hashes: int = 10
    ellipses: int = 11
    lines: int = 12
    bullet_lines: int = 13
    ellipsis_lines: int = 14
    filled_lines: int = 15
    terminal_lines: int = 16
    javascript_lines: int = 17
    sentences: int = 18
    curly_brackets: int = 19
    lorem_ipsum: int = 20
    newline_pieces: int = 21
    duplicate_lines: int = 22
    duplicate_line_characters: int = 23
    paragraphs: int = 24
    duplicate_paragraphs: int = 25
    duplicate_paragraph_characters: int = 26
    distinct_tokens: int = 27
    top_2_gram: int = 28
    top_3_gram: int = 29
    top_4_gram: int = 30
    duplicate_5_grams: int = 31
    duplicate_6_grams: int = 32
    duplicate_7_grams: int = 33
    duplicate_8_grams: int = 34
    duplicate_9_grams: int = 35
    duplicate_10_grams: int = 36


C = Counts()
_JAVASCRIPT, _POLICY, _LOREM = 1, 2, 4
_PHRASES = (
    (b"javascript", 0, _JAVASCRIPT),
    (b"lorem ipsum", 7, _LOREM),
    (b"terms of use", 3, _POLICY),
    (b"privacy policy", 2, _POLICY),
    (b"cookie policy", 2, _POLICY),
    (b"uses cookies", 7, _POLICY),
    (b"use of cookies", 9, _POLICY),
    (b"use cookies", 6, _POLICY),
)
"""What C4 looks for in lower-cased lines: phrase, position of two letters that are rare together, meaning."""
_ONES, _LOW, _CASE = _U64(0x0101010101010101), _U64(0x7F7F7F7F7F7F7F7F), _U64(0x2020202020202020)
_JA, _PS, _MS, _IV, _OK = b"ja", b"ps", b"ms", b"iv", b"ok"

_LARGE_A, _LARGE_Z, _DIGIT_0, _DIGIT_9 = 0x41, 0x5A, 0x30, 0x39
_OPEN, _CLOSE, _HYPHEN, _DOT, _BANG, _QUESTION, _DOUBLE, _APOSTROPHE = 0x5B, 0x5D, 0x2D, 0x2E, 0x21, 0x3F, 0x22, 0x27

WORDS, NGRAMS, PIECES, PHRASES = 1, 2, 4, 8
"""Parts of the work, to be added: words and what is counted in them (n-grams and sentences need it), n-grams, duplicate
lines and paragraphs, C4's phrases. Characters and lines are always counted."""


def text_counts(text: pa.Array, parts: int = WORDS | NGRAMS | PIECES | PHRASES) -> NDArray[np.int64]:
    """Count what the columns of `Counts` name in each text.

    Memory beside the result: that of the longest text, at most 50 bytes for each of its bytes (10 for prose).

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
    tables = character_classes(), word_rules(), _phrase_table()
    _count_texts(offsets, data, doc, bits, *tables, hashes, *tokens, *lists, table, keys, parts, counts)
    return counts


def _phrase_table() -> NDArray[np.uint8]:
    """The phrases, each with its length, position of the rare pair and meaning; uint8[phrases, 19]."""
    phrases = np.zeros((len(_PHRASES), 19), np.uint8)
    for i, (phrase, pair, meaning) in enumerate(_PHRASES):
        phrases[i, : len(phrase)] = np.frombuffer(phrase, np.uint8)
        phrases[i, 16:] = len(phrase), pair, meaning
    return constant(phrases)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _phrase_at(doc: Any, position: Any, start: Any, end: Any, phrases: Any) -> Any:
    """Meanings of the phrases whose rare pair is here, whatever the case of their ASCII letters."""
    found = 0
    for i in range(phrases.shape[0]):
        length = np.int64(phrases[i, 16])
        first = position - np.int64(phrases[i, 17])
        if first < start or first + length > end:
            continue
        same = 0
        while same < length:
            byte = doc[first + same]
            if _LARGE_A <= byte <= _LARGE_Z:
                byte |= 0x20
            if byte != phrases[i, same]:
                break
            same += 1
        if same == length:
            found |= phrases[i, 18]
    return found


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _not_pair(first: Any, second: Any, pair: Any) -> Any:
    """High bit of each byte where the two bytes are not the pair; all high bits must be zero."""
    return ((first ^ _ONES * _U64(pair[0])) + _LOW) | ((second ^ _ONES * _U64(pair[1])) + _LOW)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _phrases_in(doc: Any, start: Any, end: Any, phrases: Any) -> Any:
    """Meanings of the phrases in a part of a text."""
    found = 0
    for block in range(start, end, 8):
        first, second = (load64(doc, block) | _CASE) & _LOW, (load64(doc, block + 1) | _CASE) & _LOW
        missed = _not_pair(first, second, _JA) & _not_pair(first, second, _PS) & _not_pair(first, second, _MS)
        missed &= _not_pair(first, second, _IV) & _not_pair(first, second, _OK)
        hits = ~missed & ~_LOW
        while hits:
            found |= _phrase_at(doc, block + np.int64(trailing_zeros(hits) >> _U64(3)), start, end, phrases)
            hits &= hits - _U64(1)
    return found


@numba.njit(nogil=True, cache=True, _nrt=False)
def _without_citations(doc: Any, start: Any, end: Any) -> Any:
    """End of a line without the citations in the style of Wikipedia that close it: [1], [], [edit], [citation needed]."""
    while end - start >= 2 and doc[end - 1] == _CLOSE:
        position = end - 2
        while position >= start and _DIGIT_0 <= doc[position] <= _DIGIT_9:
            position -= 1
        if position >= start and doc[position] == _OPEN:
            end = position
        elif end - start >= 6 and _ends_with(doc, end, _EDIT):
            end -= 6
        elif end - start >= 17 and _ends_with(doc, end, _CITATION_NEEDED):
            end -= 17
        else:
            break
    return end


_EDIT = np.frombuffer(b"[edit]", np.uint8)
_CITATION_NEEDED = np.frombuffer(b"[citation needed]", np.uint8)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _ends_with(doc: Any, end: Any, ending: Any) -> Any:
    for i in range(ending.size):
        if doc[end - ending.size + i] != ending[i]:
            return False
    return True


@numba.njit(nogil=True, cache=True, _nrt=False)
def _ends_in_ellipsis(doc: Any, start: Any, end: Any) -> Any:
    """Whether the line ends with three full stops (1), or with their single character (2); 0 for neither."""
    if end - start < 3:
        return 0
    a, b, c = doc[end - 3], doc[end - 2], doc[end - 1]
    return 1 if a == 0x2E and b == 0x2E and c == 0x2E else 2 if a == 0xE2 and b == 0x80 and c == 0xA6 else 0


@numba.njit(nogil=True, cache=True, _nrt=False)
def _sentences(marks: Any, first: Any, last: Any) -> Any:
    """Sentences in a line of tokens: a new one begins at what is no punctuation after a token that ends one."""
    sentences, ended = 1, False
    for i in range(first, last):
        if marks[i] & STOP_TOKEN:
            ended = True
        elif ended and not marks[i] & PUNCTUATION_TOKEN:
            sentences += 1
            ended = False
    return sentences


@numba.njit(nogil=True, cache=True, _nrt=False)
def _close_line(doc: Any, start: Any, end: Any, words: Any, longest: Any, found: Any, row: Any) -> Any:
    """Count a line with words, from its first word to the end of its last one; returns whether C4 would keep it.

    As in C4's code, which DataTrove follows, the words are those between white space, and a line is judged before its
    page: `javascript` and terminal punctuation drop lines, while the phrases of policies are not in the paper.
    """
    row[C.filled_lines] += 1
    is_bullet = doc[start] == _HYPHEN or (doc[start] == 0xE2 and doc[start + 1] == 0x80 and doc[start + 2] == 0xA2)
    ellipsis = _ends_in_ellipsis(doc, start, end)
    row[C.bullet_lines] += is_bullet
    row[C.ellipsis_lines] += ellipsis > 0
    closed = _without_citations(doc, start, end)
    last = doc[closed - 1] if closed > start else 0
    terminal = last in (_DOT, _BANG, _QUESTION, _DOUBLE, _APOSTROPHE) and _ends_in_ellipsis(doc, start, closed) != 1
    row[C.terminal_lines] += terminal
    row[C.javascript_lines] += found & _JAVASCRIPT > 0
    row[C.lorem_ipsum] += found & _LOREM > 0
    return terminal and longest <= MAX_WORD and words >= MIN_LINE_WORDS and not found & (_JAVASCRIPT | _POLICY)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _count_ellipses(doc: Any, size: Any) -> Any:
    """Number of three full stops in a row, without overlap."""
    ellipses = dots = 0
    for position in range(size):
        dots = dots + 1 if doc[position] == _DOT else 0
        if dots == 3:
            ellipses += 1
            dots = 0
    return ellipses


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
    if only_letters(bits, start, end):
        token = hash_bytes_at(doc, start, end - start)
        if not tokens_of(token, rules):
            hashes[count] = token
            marks[count] = (end - start) << 8 | ALPHABETIC | WORD | stop_word(doc, start, end, rules) << 4
            return count + 1
    for i in range(cut_chunk(doc, start, end, bits, classes, rules, cuts)):
        token = hash_bytes_at(doc, start, cuts[i] - start)
        hashes[count] = token
        if only_letters(bits, start, cuts[i]):
            marks[count] = (cuts[i] - start) << 8 | ALPHABETIC | WORD | stop_word(doc, start, cuts[i], rules) << 4
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
    has_phrases = parts & PHRASES and _phrases_in(doc, 0, size, phrases) > 0
    chunks = list_chunks(bits, size, starts, ends)
    line = count = chunk = 0
    while line < size:
        line_end = next_bit(bits, BREAKS, line, size)
        line_chunk, line_tokens = chunk, count
        longest = 0
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
                longest = _longest_word(doc, bits, first, last)
            found = _phrases_in(doc, first, last, phrases) if has_phrases else 0
            kept = _close_line(doc, first, last, chunk - line_chunk, longest, found, row)
            if kept and parts & WORDS and parts & PHRASES:
                row[C.sentences] += _sentences(marks, line_tokens, count)
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
def _longest_word(doc: Any, bits: Any, start: Any, end: Any) -> Any:
    """Characters of the longest word of a line."""
    longest = characters = 0
    for position in range(start, end):
        if bits[STRINGS * (position >> 6) + SPACES] >> _U64(position & 63) & _U64(1):
            characters = 0
        else:
            characters += doc[position] & 0xC0 != 0x80
            longest = max(longest, characters)
    return longest


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
            row[C.top_2_gram + order - 2] = top_ngram(order, entries, places, first, occurrences, marks)
        elif entries:
            row[C.duplicate_5_grams + order - 5] = duplicate_ngrams(order, entries, places, first, spare, marks)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _count_pieces(
    doc: Any, size: Any, bits: Any, classes: Any, newlines: Any, table: Any, keys: Any, row: Any
) -> None:
    """Count lines and paragraphs that occurred before.

    As in DataTrove, lines are cut at any number of line feeds here, and paragraphs at two or more of the stripped text.
    """
    found = duplicate_pieces(doc, bits, 0, size, 1, newlines, table, keys)
    row[C.newline_pieces], row[C.duplicate_lines], row[C.duplicate_line_characters] = found
    start = next_bit_not(bits, SPACES, 0, size)
    while size > start and bits[STRINGS * (size - 1 >> 6) + SPACES] >> _U64(size - 1 & 63) & _U64(1):
        size -= 1
    found = duplicate_pieces(doc, bits, start, size, 2, newlines, table, keys)
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
            row[C.ellipses] += _count_ellipses(doc, size)
        words = _scan(doc, size, bits, classes, rules, phrases, hashes, marks, cuts, starts, ends, parts, row)
        if parts & WORDS:
            _count_words(words, marks, row)
        if parts & NGRAMS:
            _count_ngrams(words, hashes, marks, places, first, occurrences, spare, table, keys, row)
        if parts & PIECES:
            _count_pieces(doc, size, bits, classes, found[7], table, keys, row)
