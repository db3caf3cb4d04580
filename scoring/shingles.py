r"""Texts as sets of word n-grams (shingles), and a sketch of each set that later comparisons need no text for.

A word is a match of ``\w+`` in the lower-cased text; a shingle is `length` words in a row, or all words of a text that
has fewer. A set's sketch holds its smallest hashes: all of them where they are few, so that small sets are compared
exactly, and beside them a MinHash signature where there are more. Sources: Broder 1997, "On the resemblance and
containment of documents" (shingles, smallest hashes); Li and König 2010, "b-bit minwise hashing" (16 bits per value).
"""

from typing import Any

import numba
import numpy as np
import pyarrow as pa

from ..connectors.keys import keyed_bits, text_buffers, trailing_zeros
from .lowercase import character_tables, fold_text, folding_scratch
from .tokenizer import edges, hash_token

PERMUTATIONS = 128
"""Values of a signature."""

SAMPLE = 256
"""Smallest hashes that a sketch holds at most; with so few hashes or less it is the whole set."""

SKETCH_BYTES = 4 * SAMPLE + 2 * PERMUTATIONS
"""Bytes of the largest sketch; a document of n shingles takes 4 n, and from SAMPLE + 1 on these."""

_U64 = np.uint64
_U32 = np.uint32
_CHAIN = _U64(0x9E3779B97F4A7C15)
_MIX = _U64(0xFF51AFD7ED558CCD)
_BITS = keyed_bits(0, "minhash permutations", np.arange(PERMUTATIONS, dtype=np.uint64))
SALTS = (_BITS >> _U64(32)).astype(np.uint32)
FACTORS = _BITS.astype(np.uint32) | _U32(1)


def sketches(text: pa.Array, length: int) -> pa.Array:
    """Sketch the shingles of each text.

    Memory: the sketches, and 30 bytes per word of the longest text for scratch; address space for twice the text.

    Args:
        text: n texts (string-like Arrow array) without nulls, valid UTF-8.
        length: words in a shingle, >= 1.

    Returns:
        large_binary[n], null for a text without words. Each holds little-endian uint32, ascending and distinct: the
        hashes of all shingles where there are at most SAMPLE, else the SAMPLE smallest ones and after them PERMUTATIONS
        values of uint16, the signature (see `signature_of`).

    Raises:
        TypeError: the array is not text.
        ValueError: the array has nulls.

    Source: see the module.
    """
    offsets, data = text_buffers(text)
    sizes = np.diff(offsets)
    bounds = np.minimum(2 * sizes + 4, SKETCH_BYTES)
    output = np.empty(int(bounds.sum()), np.uint8)
    ends = np.empty(offsets.size, np.int64)
    longest = int(sizes.max(initial=0)) // 2 + 2
    words, hashes, other = np.empty(longest, np.uint64), np.empty(longest, np.uint32), np.empty(longest, np.uint32)
    folding = folding_scratch(offsets)
    no_marks = np.zeros_like(folding[2])
    scratch = (*folding, no_marks, words, hashes, other, np.empty(longest + 1, np.int32))
    _sketch_texts(offsets, data, *character_tables(), *scratch, length, SALTS, FACTORS, ends, output)
    buffers = [pa.py_buffer(ends), pa.py_buffer(output[: ends[-1]].copy())]
    empty = np.diff(ends) == 0
    valid = pa.array(~empty).buffers()[1] if empty.any() else None
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(text), [valid, *buffers])


@numba.njit(nogil=True, cache=True)
def signature_of(hashes: Any, salts: Any, factors: Any, signature: Any) -> None:
    """MinHash signature of a set: two sets' values are equal with the probability of their Jaccard similarity, and else
    once in 65,536. hashes: uint32[m], m >= 1, random bits; signature: uint16[PERMUTATIONS], filled. For kernels.

    The permutation of each value is an exclusive or with a random salt and a multiplication by a random odd factor.
    """
    for j in range(salts.size):
        smallest = _U32(0xFFFFFFFF)
        salt, factor = salts[j], factors[j]
        for i in range(hashes.size):
            smallest = min(smallest, _U32((hashes[i] ^ salt) * factor))
        signature[j] = np.uint16(_U32(smallest * _U32(0x9E3779B1)) >> _U32(16))


@numba.njit(nogil=True, cache=True)
def _words_of(lowered: Any, size: Any, words: Any, nothing: Any, found: Any) -> Any:
    """Hash the words of a folded text into `found`; returns their number."""
    opened = closed = 0
    carried = _U64(0)
    for block in range((size >> 6) + 1):
        starts, ends, carried = edges(words, nothing, block, carried)
        while starts:
            found[opened] = _U64(block << 6) + trailing_zeros(starts)
            starts &= starts - _U64(1)
            opened += 1
        while ends:
            start = np.int64(found[closed])
            found[closed] = hash_token(lowered, start, (block << 6) + np.int64(trailing_zeros(ends)) - start)
            ends &= ends - _U64(1)
            closed += 1
    return closed


@numba.njit(nogil=True, cache=True)
def _shingle(words: Any, count: Any, length: Any, hashes: Any) -> Any:
    """Hash the shingles of a text of `count` words; returns their number."""
    if count == 0:
        return 0
    length = min(length, count)
    for i in range(count - length + 1):
        chain = _U64(length)
        for j in range(length):
            chain = (chain ^ words[i + j]) * _CHAIN
            chain ^= chain >> _U64(29)
        hashes[i] = _U32((chain * _MIX) >> _U64(32))
    return count - length + 1


@numba.njit(nogil=True, cache=True)
def _sort_distinct(hashes: Any, count: Any, other: Any, places: Any) -> Any:
    """Sort random hashes and drop repetitions, in linear time; returns how many are left.

    A hash first goes to the place that its share of the range says, and is then a few places off.
    """
    places[: count + 1] = 0
    wide = _U64(count)
    for i in range(count):
        places[np.int64(_U64(hashes[i]) * wide >> _U64(32)) + 1] += 1
    for i in range(count):
        places[i + 1] += places[i]
    for i in range(count):
        place = np.int64(_U64(hashes[i]) * wide >> _U64(32))
        other[places[place]] = hashes[i]
        places[place] += 1
    for i in range(1, count):
        value = other[i]
        j = i
        while j > 0 and other[j - 1] > value:
            other[j] = other[j - 1]
            j -= 1
        other[j] = value
    distinct = 0
    for i in range(count):
        if i == 0 or other[i] != other[i - 1]:
            hashes[distinct] = other[i]
            distinct += 1
    return distinct


@numba.njit(nogil=True, cache=True)
def _write(values: Any, size: Any, output: Any, end: Any) -> Any:
    """Append the low `size` bytes of each value, little end first; returns the new end."""
    for i in range(values.size):
        value = _U64(values[i])
        for j in range(size):
            output[end + j] = np.uint8(value >> _U64(8 * j))
        end += size
    return end


@numba.njit(nogil=True, cache=True)
def _sketch_texts(
    offsets: Any,
    data: Any,
    properties: Any,
    lower: Any,
    lowered: Any,
    word_bits: Any,
    mark_bits: Any,
    nothing: Any,
    words: Any,
    hashes: Any,
    other: Any,
    places: Any,
    length: Any,
    salts: Any,
    factors: Any,
    ends: Any,
    output: Any,
) -> None:
    signature = np.empty(salts.size, np.uint16)
    end = 0
    ends[0] = 0
    for i in range(offsets.size - 1):
        size = fold_text(data, offsets[i], offsets[i + 1], properties, lower, lowered, word_bits, mark_bits)
        count = _words_of(lowered, size, word_bits, nothing, words)
        count = _shingle(words, count, length, hashes)
        count = _sort_distinct(hashes, count, other, places)
        end = _write(hashes[: min(count, SAMPLE)], 4, output, end)
        if count > SAMPLE:
            signature_of(hashes[:count], salts, factors, signature)
            end = _write(signature, 2, output, end)
        ends[i + 1] = end
