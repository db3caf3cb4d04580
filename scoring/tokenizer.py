r"""The DSIR word tokenizer: all matches of ``\w+|[^\w\s]+`` in the lower-cased text.

This is the "wordpunct" tokenizer of Xie et al. 2023 (NLTK's WordPunctTokenizer on `str.lower()`), with the meaning that
CPython's `re` and `str.lower()` give it, in one pass over UTF-8 bytes. `lowercase` turns a text into its lower-cased
bytes and two bit strings (word characters, marks; neither is white space); where a bit string changes, a token starts
or ends. The result follows the Unicode version of the running interpreter, which `TOKENIZER_VERSION` names.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import load64, text_buffers, trailing_zeros
from .lowercase import character_tables, fold_text, folding_scratch

TOKENIZER_VERSION: str = f"wordpunct-1-unicode-{unicodedata.unidata_version}"
"""Changes whenever a token or its hash may change."""

_U64 = np.uint64
_HASH_1 = _U64(0x9E3779B97F4A7C15)
_HASH_2 = _U64(0xD6E8FEB86659FD93)
_HASH_3 = _U64(0xBF58476D1CE4E5B9)


@dataclass
class Tokens:
    """Hashed tokens of n texts.

    offsets: int64[n + 1]; the tokens of text i are hashes[offsets[i]:offsets[i + 1]], in text order.
    hashes: uint64[offsets[n]], hash of each lower-cased token.
    """

    offsets: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64[n]: tokens per text."""
        return np.diff(self.offsets)


@dataclass
class TokenSpans:
    """Tokens of n texts as spans of their lower-cased bytes.

    offsets: int64[n + 1]; the tokens of text i are numbers offsets[i] to offsets[i + 1] - 1, in text order.
    data: uint8[], lower-cased UTF-8 of all texts.
    starts, ends: int64[offsets[n]]; token j is data[starts[j]:ends[j]].
    """

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def tokenize(text: pa.Array) -> Tokens:
    """Hash every token of every text.

    A token's hash is a 64-bit multiply-xorshift hash of its length and its lower-cased UTF-8 bytes, eight at a time;
    tokens of at most eight bytes and equal length never collide.

    Memory: 8 bytes per token (about 2 per byte of prose, 8 at worst; address space is reserved for the worst case),
    and 2 bytes per byte of the longest text for scratch.

    Args:
        text: n texts (string-like Arrow array) without nulls, valid UTF-8.

    Returns:
        Tokens of the n texts; `hashes` is a view of the larger reserved buffer.

    Raises:
        TypeError: the array is not text.
        ValueError: the array has nulls.
    """
    offsets, data = text_buffers(text)
    token_offsets = np.empty(offsets.size, np.int64)
    hashes = np.empty(int(offsets[-1] - offsets[0]), np.uint64)
    _tokenize(offsets, data, *character_tables(), *folding_scratch(offsets), token_offsets, hashes)
    return Tokens(token_offsets, hashes[: token_offsets[-1]])


def token_spans(text: pa.Array) -> TokenSpans:
    """Lower-cased bytes of the texts and the span of every token in them.

    Memory: 16 bytes per token and 1.5 per byte of text, and 2 bytes per byte of the longest text for scratch.

    Args:
        text: n texts (string-like Arrow array) without nulls, valid UTF-8.

    Returns:
        TokenSpans of the n texts.

    Raises:
        TypeError: the array is not text.
        ValueError: the array has nulls.
    """
    offsets, data = text_buffers(text)
    size = int(offsets[-1] - offsets[0])
    token_offsets = np.empty(offsets.size, np.int64)
    starts, ends = np.empty(size, np.int64), np.empty(size, np.int64)
    lowered = np.empty(size + size // 2 + 16, np.uint8)
    lowered_size = _span_tokens(
        offsets, data, *character_tables(), *folding_scratch(offsets), token_offsets, starts, ends, lowered
    )
    total = token_offsets[-1]
    return TokenSpans(token_offsets, lowered[:lowered_size], starts[:total], ends[:total])


@numba.njit(nogil=True, cache=True)
def hash_token(data: Any, position: Any, length: Any) -> Any:
    """Hash of data[position:position + length], length >= 1; reads up to seven bytes more. For kernels."""
    value = _U64(length) * _HASH_1
    while length > 8:
        value = (value ^ load64(data, position)) * _HASH_2
        value ^= value >> _U64(32)
        position += 8
        length -= 8
    last = load64(data, position) & (~_U64(0) >> _U64(64 - 8 * length))
    value = (value ^ last) * _HASH_2
    value = (value ^ (value >> _U64(32))) * _HASH_3
    return value ^ (value >> _U64(29))


@numba.njit(nogil=True, cache=True)
def edges(words: Any, marks: Any, block: Any, carried: Any) -> Any:
    """Bits where tokens start, just after where they end, and the classes of the last character. For kernels."""
    word, mark = words[block], marks[block]
    before_word = word << _U64(1) | carried & _U64(1)
    before_mark = mark << _U64(1) | carried >> _U64(1)
    starts = (word & ~before_word) | (mark & ~before_mark)
    ends = (before_word & ~word) | (before_mark & ~mark)
    return starts, ends, word >> _U64(63) | mark >> _U64(63) << _U64(1)


@numba.njit(nogil=True, cache=True)
def _tokenize(
    offsets: Any, data: Any, properties: Any, lower: Any, lowered: Any, words: Any, marks: Any, found: Any, hashes: Any
) -> None:
    """Fill `found` (token offsets) and `hashes`; a token's slot of `hashes` holds its start until it is hashed."""
    opened = closed = 0
    found[0] = 0
    for i in range(offsets.size - 1):
        size = fold_text(data, offsets[i], offsets[i + 1], properties, lower, lowered, words, marks)
        carried = _U64(0)
        for block in range((size >> 6) + 1):
            starts, ends, carried = edges(words, marks, block, carried)
            while starts:
                hashes[opened] = _U64(block << 6) + trailing_zeros(starts)
                starts &= starts - _U64(1)
                opened += 1
            while ends:
                start = np.int64(hashes[closed])
                hashes[closed] = hash_token(lowered, start, (block << 6) + np.int64(trailing_zeros(ends)) - start)
                ends &= ends - _U64(1)
                closed += 1
        found[i + 1] = closed


@numba.njit(nogil=True, cache=True)
def _span_tokens(
    offsets: Any,
    data: Any,
    properties: Any,
    lower: Any,
    lowered: Any,
    words: Any,
    marks: Any,
    found: Any,
    token_starts: Any,
    token_ends: Any,
    output: Any,
) -> Any:
    """Fill `found` (token offsets), the spans and the lower-cased bytes, whose number is returned."""
    opened = closed = written = 0
    found[0] = 0
    for i in range(offsets.size - 1):
        size = fold_text(data, offsets[i], offsets[i + 1], properties, lower, lowered, words, marks)
        carried = _U64(0)
        for block in range((size >> 6) + 1):
            starts, ends, carried = edges(words, marks, block, carried)
            while starts:
                token_starts[opened] = written + (block << 6) + np.int64(trailing_zeros(starts))
                starts &= starts - _U64(1)
                opened += 1
            while ends:
                token_ends[closed] = written + (block << 6) + np.int64(trailing_zeros(ends))
                ends &= ends - _U64(1)
                closed += 1
        output[written : written + size] = lowered[:size]
        written += size
        found[i + 1] = closed
    return written
