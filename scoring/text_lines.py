"""Kernels for single lines: what Gopher's rules ask of their ends, and C4's of the whole line."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import constant, trailing_zeros
from .text_bits import SPACES, STRINGS, bytes_between
from .text_counts import Counts
from .word_rules import PUNCTUATION_TOKEN, STOP_TOKEN

C = Counts()
_U64 = np.uint64
MAX_WORD = 1000
"""Characters of a word above which C4 drops its line."""
MIN_LINE_WORDS = 3
_JAVASCRIPT, _POLICY, _LOREM = 1, 2, 4
_PHRASES = (
    (b"javascript", 0, _JAVASCRIPT),
    (b"lorem ipsum", 6, _LOREM),
    (b"terms of use", 3, _POLICY),
    (b"privacy policy", 2, _POLICY),
    (b"cookie policy", 0, _POLICY),
    (b"uses cookies", 5, _POLICY),
    (b"use of cookies", 7, _POLICY),
    (b"use cookies", 4, _POLICY),
)
"""What C4 looks for in lower-cased lines: phrase, position of a rare part (ja.a, ip.u, ms.o, iv.c or co.k), meaning."""

_LARGE_A, _LARGE_Z, _DIGIT_0, _DIGIT_9 = 0x41, 0x5A, 0x30, 0x39
_OPEN, _CLOSE, _HYPHEN, _DOT, _BANG, _QUESTION, _DOUBLE, _APOSTROPHE = 0x5B, 0x5D, 0x2D, 0x2E, 0x21, 0x3F, 0x22, 0x27

_EDIT = np.frombuffer(b"[edit]", np.uint8)
_CITATION_NEEDED = np.frombuffer(b"[citation needed]", np.uint8)


def phrase_table() -> NDArray[np.uint8]:
    """The phrases, each with its length, position of the rare part and meaning; uint8[phrases, 19]."""
    phrases = np.zeros((len(_PHRASES), 19), np.uint8)
    for i, (phrase, pair, meaning) in enumerate(_PHRASES):
        phrases[i, : len(phrase)] = np.frombuffer(phrase, np.uint8)
        phrases[i, 16:] = len(phrase), pair, meaning
    return constant(phrases)


@numba.njit(nogil=True, cache=True, _nrt=False)
def _phrase_at(doc: Any, position: Any, start: Any, end: Any, phrases: Any) -> Any:
    """Meanings of the phrases whose rare part is here, whatever the case of their ASCII letters."""
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
def _parts(doc: Any, position: Any, part: Any) -> Any:
    """Bit i is set where three letters stand at i, i + 1 and i + 3 from a position on, in either case."""
    found = bytes_between(doc, position, 0x20, part[0], part[0])
    found &= bytes_between(doc, position + 1, 0x20, part[1], part[1])
    return found & bytes_between(doc, position + 3, 0x20, part[2], part[2])


@numba.njit(nogil=True, cache=True, _nrt=False)
def phrases_in(doc: Any, start: Any, end: Any, phrases: Any) -> Any:
    """Meanings of the phrases in a part of a text, behind which 66 bytes more can be read."""
    found = 0
    for block in range(start, end, 64):
        hits = _parts(doc, block, b"jaa") | _parts(doc, block, b"ipu") | _parts(doc, block, b"mso")
        hits |= _parts(doc, block, b"ivc") | _parts(doc, block, b"cok")
        while hits:
            found |= _phrase_at(doc, block + np.int64(trailing_zeros(hits)), start, end, phrases)
            hits &= hits - _U64(1)
    return found


@numba.njit(nogil=True, cache=True, _nrt=False)
def _without_citations(doc: Any, start: Any, end: Any) -> Any:
    """End of a line without the citations that close it, as in Wikipedia: [1], [], [edit], [citation needed]."""
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


@numba.njit(nogil=True, cache=True, _nrt=False)
def _ends_with(doc: Any, end: Any, ending: Any) -> Any:
    for i in range(ending.size):  # noqa: SIM110 (a generator is slow in numba)
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
def line_sentences(marks: Any, first: Any, last: Any) -> Any:
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
def count_line(doc: Any, start: Any, end: Any, words: Any, longest: Any, found: Any, row: Any) -> Any:
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
def longest_word(doc: Any, bits: Any, start: Any, end: Any) -> Any:
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
def count_ellipses(doc: Any, size: Any) -> Any:
    """Number of three full stops in a row, without overlap."""
    ellipses = dots = 0
    for position in range(size):
        dots = dots + 1 if doc[position] == _DOT else 0
        if dots == 3:
            ellipses += 1
            dots = 0
    return ellipses
