"""Samples of vectors as sets of 64-bit numbers, which unite in any order.

Each number is one component: 34 bits of its document's keyed hash (the lowest is the fold), 14 bits of its place, and
its value as float16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits
from .token_sample import folds_of

LONGEST = 1 << 14
"""Dimensions that a vector may have."""

_PLACE, _DOCUMENT = np.uint64(16), np.uint64(30)  # lowest bits of place and of document

UInt64 = NDArray[np.uint64]


def sampled_vectors(vectors: NDArray[np.float16], keys: UInt64) -> UInt64:
    """Turn vectors into elements of a sample.

    Args:
        vectors: float16[n, d], d at most LONGEST.
        keys: uint64[n], of the documents.

    Returns:
        uint64[n * d], 8 bytes a component; `keys.united` unites such sets.
    """
    n, d = vectors.shape
    if d > LONGEST:
        raise ValueError(f"vectors of {d:,} dimensions, where at most {LONGEST:,} can be sampled")
    document = (keyed_bits(0, "vector sample", keys) >> np.uint64(31)) << np.uint64(1) | folds_of(keys)
    place = np.arange(d, dtype=np.uint64) << _PLACE
    values = np.ascontiguousarray(vectors).view(np.uint16).astype(np.uint64)
    return ((document << _DOCUMENT)[:, None] | place | values).reshape(n * d)


def trimmed_vectors(sample: UInt64, most: int) -> UInt64:
    """Keep the documents of the lowest hashes, whole ones, so that at most so many components remain.

    sample: uint64[m], sorted. Trimming parts and then their union is the same as trimming the union only.
    """
    if len(sample) <= most:
        return sample
    return sample[: np.searchsorted(sample, sample[most] >> _DOCUMENT << _DOCUMENT)]


def vectors_in(sample: UInt64, dimension: int) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
    """Take a sample apart.

    Where documents share their hash, as copies in batches of other shapes may with values that differ by their
    rounding, the lower value of each component counts.

    Args:
        sample: uint64[m], sorted, each number once.
        dimension: of the vectors.

    Returns:
        Folds bool[n] and vectors float16[n, d] of the n documents, by their hash.
    """
    places = sample >> _PLACE
    sample = sample[np.append(True, places[1:] != places[:-1])[: len(sample)]]
    documents = sample.reshape(-1, dimension)
    return documents[:, 0] >> _DOCUMENT & np.uint64(1) > 0, documents.astype(np.uint16).view(np.float16)
