"""N-grams that a text shares with a set of texts, exactly: the usual test of whether benchmarks leaked into a corpus.

Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C) look for 13-grams of lower-cased words; here the words are those
of the DSIR tokenizer, so that runs of punctuation are words too, and an n-gram is a 64-bit hash of its words' hashes.
For each n-gram of a corpus, the probability to share a hash with one of m stored ones that it is not is m / 2**64.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import constant, united

_U64 = np.uint64
_BASE = _U64(0x9E3779B97F4A7C15)
_MIX = _U64(0xD6E8FEB86659FD93)
_FILTER_BITS_PER_NGRAM = 16


def ngram_hashes(offsets: NDArray[np.int64], hashes: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Hash all n-grams of texts; a text of fewer than n tokens has none.

    Args:
        offsets: int64[texts + 1]; text i has the tokens hashes[offsets[i]:offsets[i + 1]].
        hashes: uint64, token hashes (see `tokenizer.Tokens`).
        n: tokens per n-gram, >= 1.

    Returns:
        uint64[m], sorted, each once.
    """
    return united(_ngrams(constant(offsets), constant(hashes), n))


def ngram_filter(ngrams: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits that tell most foreign n-grams apart without a search.

    Args:
        ngrams: uint64[m], hashes.

    Returns:
        uint64[2**k], at least 16 bits per n-gram: bit h >> s is set for each hash h.
    """
    words = max(1, 1 << max(0, (len(ngrams) * _FILTER_BITS_PER_NGRAM - 1).bit_length() - 6))
    bits = np.zeros(words, np.uint64)
    places = ngrams >> _U64(64 - (words * 64).bit_length() + 1)
    np.bitwise_or.at(bits, places >> _U64(6), _U64(1) << (places & _U64(63)))
    return bits


def covered_tokens(
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    n: int,
    ngrams: NDArray[np.uint64],
    filter_bits: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Count the tokens of each text that lie in an n-gram of a set.

    Args:
        offsets, hashes, n: as for `ngram_hashes`.
        ngrams: uint64[m], sorted.
        filter_bits: of `ngram_filter(ngrams)`.

    Returns:
        int64[texts].
    """
    return _covered(constant(offsets), constant(hashes), n, constant(ngrams), constant(filter_bits))


@numba.njit(nogil=True, cache=True)
def _final(rolled: Any) -> Any:
    """Spread the sum's bits, whose low ones depend on the low bits of the tokens only."""
    value = (rolled ^ (rolled >> _U64(32))) * _MIX
    return value ^ (value >> _U64(32))


@numba.njit(nogil=True, cache=True)
def _power(n: Any) -> Any:
    value = _U64(1)
    for _ in range(n):
        value *= _BASE
    return value


@numba.njit(nogil=True, cache=True)
def _ngrams(offsets: Any, hashes: Any, n: Any) -> Any:
    found = np.empty(hashes.size, np.uint64)
    count = 0
    leaving = _power(n)
    for i in range(offsets.size - 1):
        rolled = _U64(0)
        for place in range(offsets[i], offsets[i + 1]):
            rolled = rolled * _BASE + hashes[place]
            if place - n >= offsets[i]:
                rolled -= hashes[place - n] * leaving
            if place - n + 1 >= offsets[i]:
                found[count] = _final(rolled)
                count += 1
    return found[:count]


@numba.njit(nogil=True, cache=True)
def _contains(ngrams: Any, value: Any) -> Any:
    low, high = 0, ngrams.size
    while low < high:
        middle = (low + high) >> 1
        if ngrams[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < ngrams.size and ngrams[low] == value


@numba.njit(nogil=True, cache=True)
def _covered(offsets: Any, hashes: Any, n: Any, ngrams: Any, filter_bits: Any) -> Any:
    counts = np.zeros(offsets.size - 1, np.int64)
    leaving = _power(n)
    shift = _U64(58)
    size = filter_bits.size
    while size > 1:
        shift -= _U64(1)
        size >>= 1
    for i in range(offsets.size - 1):
        rolled = _U64(0)
        covered = offsets[i]  # tokens before this one are counted or free
        for place in range(offsets[i], offsets[i + 1]):
            rolled = rolled * _BASE + hashes[place]
            if place - n >= offsets[i]:
                rolled -= hashes[place - n] * leaving
            first = place - n + 1
            if first < offsets[i]:
                continue
            value = _final(rolled)
            bit = value >> shift
            if (filter_bits[bit >> _U64(6)] >> (bit & _U64(63))) & _U64(1) and _contains(ngrams, value):
                counts[i] += place + 1 - max(first, covered)
                covered = place + 1
    return counts
