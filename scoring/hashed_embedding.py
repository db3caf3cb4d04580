"""Embeddings without a model: hashed word n-grams, and a random projection of them.

A text is the vector of the square roots of its n-grams' shares, which has length one; the product of two such vectors
is the Bhattacharyya coefficient of their n-gram distributions (1: the same n-grams in the same shares, 0: none in
common). A projection by random signs (Achlioptas 2003, Database-friendly random projections) keeps these products, but
for an error of about 1 / sqrt(dimension). The signs are bits of the n-gram's hash, so that no matrix is held.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .token_sample import bucket_of, extended
from .tokenizer import Tokens

BUCKETS = 1 << 18
"""Into which n-grams are hashed, to be counted within a document; 4 bytes each while a batch is embedded."""

SIGNS_PER_HASH = 64

_U64 = np.uint64
_MIX_1 = _U64(0xBF58476D1CE4E5B9)
_MIX_2 = _U64(0x94D049BB133111EB)
_STEP = _U64(0x9E3779B97F4A7C15)

_BITS = np.array([1 << bit for bit in range(31)] + [-(1 << 31)], np.int64).astype(np.int32)
"""Each bit of an int32, int32[32]."""


def hashed_embeddings(tokens: Tokens, ngrams: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    """Embed texts. Bit-exact: sums run over the distinct n-grams of a text in the order of their first occurrence.

    Args:
        tokens: of n texts.
        ngrams: longest n-gram, >= 1; all orders up to it count.
        dimension: of the vectors, a multiple of 64.
        seed: of the projection.

    Returns:
        float32[n, dimension], rows of length one; zeros for a text without a token.

    Raises:
        ValueError: the dimension is no positive multiple of 64, or `ngrams` is below 1.
    """
    if dimension < 1 or dimension % SIGNS_PER_HASH or ngrams < 1:
        raise ValueError(f"dimension {dimension} is no multiple of {SIGNS_PER_HASH}, or ngrams {ngrams} is below 1")
    vectors = np.zeros((len(tokens.counts), dimension), np.float32)
    counts = np.zeros(BUCKETS, np.int32)
    _embed(tokens.offsets, tokens.hashes, ngrams, _U64(seed), counts, vectors)
    return vectors


@numba.njit(nogil=True, cache=True)
def _embed(offsets: Any, hashes: Any, ngrams: Any, seed: Any, counts: Any, vectors: Any) -> None:
    buckets = _U64(counts.size)
    for i in range(offsets.size - 1):
        first, last = offsets[i], offsets[i + 1]
        for place in range(first, last):
            ngram = seed
            for k in range(min(ngrams, place - first + 1)):
                ngram = extended(ngram, hashes[place - k])
                counts[bucket_of(ngram, buckets)] += 1
        vector = vectors[i]
        for place in range(first, last):
            ngram = seed
            for k in range(min(ngrams, place - first + 1)):
                ngram = extended(ngram, hashes[place - k])
                bucket = bucket_of(ngram, buckets)
                if counts[bucket] > 0:
                    _add_signs(ngram, np.float32(np.sqrt(float(counts[bucket]))), vector)
                    counts[bucket] = 0
        _to_length_one(vector)


@numba.njit(nogil=True, cache=True)
def _add_signs(ngram: Any, value: Any, vector: Any) -> None:
    """Add the projection of one n-gram: `value` with the signs of its hash. Written so that it is vectorised."""
    state = ngram
    for start in range(0, vector.size, SIGNS_PER_HASH):
        state += _STEP
        bits = (state ^ (state >> _U64(30))) * _MIX_1
        bits = (bits ^ (bits >> _U64(27))) * _MIX_2
        bits ^= bits >> _U64(31)
        for half in range(2):
            word = np.int32(np.uint32(bits >> _U64(32 * half)))
            part = vector[start + 32 * half : start + 32 * half + 32]
            for j in range(32):
                part[j] += value if np.int32(word & _BITS[j]) != 0 else -value


@numba.njit(nogil=True, cache=True)
def _to_length_one(vector: Any) -> None:
    total = 0.0
    for j in range(vector.size):
        total += float(vector[j]) * float(vector[j])
    if total > 0:
        scale = 1.0 / np.sqrt(total)
        for j in range(vector.size):
            vector[j] = np.float32(vector[j] * scale)
