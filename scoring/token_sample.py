"""Samples of documents as sets of tokens, which unite in any order; what models of words are fitted on.

A sample is a set of 64-bit numbers. Each number is one token: 26 bits of its document's keyed hash (the lowest is the
fold), 14 bits of its position (a longer document counts as several), and the upper 24 bits of its word's hash, which
are all that models see of words.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits, keyed_sample
from .tokenizer import Tokens

LONGEST = 1 << 14
"""Tokens of one document in a sample; longer documents count as several."""

_U64 = np.uint64
_WORD, _PLACE = _U64(24), _U64(38)  # lowest bits of position and of document in a sampled token
_MIX_1 = _U64(0xFF51AFD7ED558CCD)
_MIX_2 = _U64(0xC4CEB9FE1A85EC53)


def words_of(tokens: Tokens) -> NDArray[np.uint64]:
    """Return the upper 24 bits of each token's hash, uint64[tokens]."""
    return tokens.hashes >> _U64(40)


def folds_of(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which half of all documents each one is in. keys: uint64[n]. Returns bool[n]."""
    return keyed_sample(0, "fold", keys, 0.5)


def sampled_tokens(tokens: Tokens, keys: NDArray[np.uint64], rows: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Turn documents into elements of a sample.

    Args:
        tokens: of n documents.
        keys: uint64[n], of the documents.
        rows: bool[n], documents to take.

    Returns:
        uint64[m], one per token, 8 bytes each; `keys.united` unites such sets.
    """
    sample = np.empty(int(tokens.counts[rows].sum()), np.uint64)
    _pack(tokens.offsets, words_of(tokens), keyed_bits(0, "token sample", keys), folds_of(keys), rows, sample)
    return sample


def trimmed(sample: NDArray[np.uint64], most: int) -> NDArray[np.uint64]:
    """Keep the documents of the lowest hashes, whole ones, so that at most so many tokens remain.

    Trimming parts and then their union is the same as trimming the union only.

    Args:
        sample: uint64[m], sorted.
        most: tokens, >= LONGEST.
    """
    if len(sample) <= most:
        return sample
    first_out = sample[most] >> _PLACE << _PLACE
    return sample[: np.searchsorted(sample, first_out)]


def documents_of(sample: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.bool_]]:
    """Take a sample apart; documents of the same hash but other words, which mix, are left out.

    Args:
        sample: uint64[m], sorted, each number once.

    Returns:
        Offsets int64[n + 1], words uint64[offsets[n]], and folds bool[n] of the n documents.
    """
    mixed = sample[1:][(sample[1:] ^ sample[:-1]) >> _WORD == 0] >> _PLACE
    if len(mixed):
        sample = sample[~np.isin(sample >> _PLACE, mixed)]
    documents = sample >> _PLACE
    starts = np.flatnonzero(np.append(True, documents[1:] != documents[:-1])[: len(sample)])
    offsets = np.append(starts, len(sample)).astype(np.int64)
    return offsets, sample & _U64((1 << 24) - 1), documents[starts] & _U64(1) > 0


@numba.njit(nogil=True, cache=True)
def extended(ngram: Any, token: Any) -> Any:
    """Hash of an n-gram with one more token before it; begins with 0. For kernels."""
    mixed = ngram * _MIX_1 + token
    mixed ^= mixed >> _U64(32)
    return mixed * _MIX_2


@numba.njit(nogil=True, cache=True)
def bucket_of(ngram: Any, buckets: Any) -> Any:
    """Bucket of a hash, 0 to buckets - 1, buckets a uint64. For kernels."""
    return ((ngram >> _U64(32)) * buckets) >> _U64(32)


@numba.njit(nogil=True, cache=True)
def _pack(offsets: Any, words: Any, bits: Any, folds: Any, rows: Any, sample: Any) -> None:
    at = 0
    for i in range(rows.size):
        if not rows[i]:
            continue
        document = _U64(0)
        for position in range(offsets[i + 1] - offsets[i]):
            if position % LONGEST == 0:
                piece = extended(bits[i], _U64(position // LONGEST))
                document = (piece >> _U64(39)) << _U64(1) | _U64(folds[i])
            place = _U64(position % LONGEST)
            sample[at] = document << _PLACE | place << _WORD | words[offsets[i] + position]
            at += 1
