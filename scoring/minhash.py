"""Similarity of texts from their sketches (see `shingles`): band hashes that bring similar ones together, and Jaccard.

Locality-sensitive hashing: a signature of b * r values is cut into b bands of r; two sets of Jaccard similarity J share
at least one band with probability 1 - (1 - J**r)**b. Pairs that share a band are candidates; the similarity of each is
then measured. Source: Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3.4.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import constant, text_buffers
from .shingles import FACTORS, PERMUTATIONS, SALTS, SAMPLE, signature_of

RECALL = 0.98
"""Share of the pairs exactly at the threshold that come to be candidates; of more similar ones it is larger."""

_U64 = np.uint64
_MIX_1 = _U64(0x9E3779B97F4A7C15)
_MIX_2 = _U64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Bands:
    """How a signature is cut. count: bands; rows: values in each."""

    count: int
    rows: int

    def probability(self, jaccard: float) -> float:
        """Return the probability that two sets of this similarity share a band."""
        return float(1 - (1 - jaccard**self.rows) ** self.count)

    @classmethod
    def for_threshold(cls, threshold: float) -> "Bands":
        """Return the most selective bands that find RECALL of the pairs at a threshold, 0 < threshold <= 1.

        Below a similarity of 0.03 no bands do, and single values are the best there is.
        """
        cuts = [cls(PERMUTATIONS // rows, rows) for rows in range(PERMUTATIONS // 2, 0, -1)]
        return next((bands for bands in cuts if bands.probability(threshold) >= RECALL), cuts[-1])


@dataclass(frozen=True)
class Sketches:
    """Sketches of n texts as kernels read them: sketch i is data[offsets[i]:offsets[i + 1]], empty for no words.

    offsets: int64[n + 1]; data: uint8[].
    """

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, column: pa.Array) -> "Sketches":
        """Return the sketches of a column as `shingles.sketches` gives it."""
        return cls(*text_buffers(column.fill_null(b"")))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> "Sketches":
        """Return the sketches of some rows, copied. rows: int64[m]."""
        offsets = np.concatenate([[0], np.cumsum(self.offsets[rows + 1] - self.offsets[rows])])
        data = np.empty(int(offsets[-1]), np.uint8)
        _gather(constant(self.offsets), constant(self.data), np.ascontiguousarray(rows, np.int64), offsets, data)
        return Sketches(offsets, data)

    def checked(self, source: str) -> "Sketches":
        """Return itself; raises ValueError, naming the source, for sizes that no sketch has."""
        sizes = np.diff(self.offsets)
        whole = (sizes <= 4 * SAMPLE) & (sizes % 4 == 0) | (sizes == 4 * SAMPLE + 2 * PERMUTATIONS)
        if not whole.all() or (len(sizes) and (self.offsets[0] < 0 or self.offsets[-1] > len(self.data))):
            raise ValueError(f"{source} holds what is no sketch")
        return self


def band_hashes(sketches: Sketches, bands: Bands) -> NDArray[np.uint64]:
    """Hash each band of each signature; signatures that a sketch does not hold are made of its hashes.

    Args:
        sketches: of n texts.
        bands: at most PERMUTATIONS values in all.

    Returns:
        uint64[n, bands.count], where equal values mean equal bands at the same place; of a text without words zeros.
    """
    found = np.zeros((len(sketches), bands.count), np.uint64)
    _band_hashes(constant(sketches.offsets), constant(sketches.data), SALTS, FACTORS, bands.rows, found)
    return found


def jaccard(sketches: Sketches, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the Jaccard similarity of pairs of texts.

    Args:
        sketches: of n texts.
        first, second: int64[pairs], rows; each pair in any order.

    Returns:
        float64[pairs]: exact (but for hashes that collide: 2**-32 for each pair of shingles) where both texts have at
        most SAMPLE shingles; else the share among the smallest hashes of the union, of which there are at least SAMPLE,
        with a standard error of at most sqrt(J (1 - J) / SAMPLE), 0.03. 0 where a text has no words.

    Source: Broder 1997; see `shingles`.
    """
    arrays = constant(sketches.offsets), constant(sketches.data)
    return np.asarray(_jaccard(*arrays, constant(np.asarray(first)), constant(np.asarray(second))))


@numba.njit(nogil=True, cache=True)
def _load(data: Any, position: Any, size: Any) -> Any:
    """Little-endian number of `size` bytes."""
    value = _U64(0)
    for j in range(size):
        value |= _U64(data[position + j]) << _U64(8 * j)
    return value


@numba.njit(nogil=True, cache=True)
def _gather(offsets: Any, data: Any, rows: Any, taken: Any, output: Any) -> None:
    for i in range(rows.size):
        start = offsets[rows[i]]
        output[taken[i] : taken[i + 1]] = data[start : start + taken[i + 1] - taken[i]]


@numba.njit(nogil=True, cache=True)
def _read_signature(data: Any, start: Any, end: Any, salts: Any, factors: Any, hashes: Any, signature: Any) -> None:
    """Fill the signature of a sketch."""
    if end - start > 4 * SAMPLE:
        for j in range(salts.size):
            signature[j] = np.uint16(_load(data, start + 4 * SAMPLE + 2 * j, 2))
        return
    count = (end - start) // 4
    for i in range(count):
        hashes[i] = np.uint32(_load(data, start + 4 * i, 4))
    signature_of(hashes[:count], salts, factors, signature)


@numba.njit(nogil=True, cache=True)
def _band_hashes(offsets: Any, data: Any, salts: Any, factors: Any, rows: Any, found: Any) -> None:
    signature, hashes = np.empty(salts.size, np.uint16), np.empty(SAMPLE, np.uint32)
    for i in range(found.shape[0]):
        if offsets[i] == offsets[i + 1]:
            continue
        _read_signature(data, offsets[i], offsets[i + 1], salts, factors, hashes, signature)
        for band in range(found.shape[1]):
            value = _U64(band + 1) * _MIX_1
            for j in range(band * rows, (band + 1) * rows):
                value = (value ^ _U64(signature[j])) * _MIX_2
                value ^= value >> _U64(32)
            found[i, band] = value * _MIX_1


@numba.njit(nogil=True, cache=True)
def _hashes_of(data: Any, start: Any, end: Any, hashes: Any) -> Any:
    """Fill the hashes of a sketch; returns their number and the largest hash that it would not leave out."""
    count = min(end - start, 4 * SAMPLE) // 4
    for i in range(count):
        hashes[i] = np.uint32(_load(data, start + 4 * i, 4))
    whole = end - start <= 4 * SAMPLE
    return count, np.uint32(0xFFFFFFFF) if whole else hashes[count - 1]


@numba.njit(nogil=True, cache=True)
def _jaccard(offsets: Any, data: Any, first: Any, second: Any) -> Any:
    result = np.zeros(first.size)
    a, b = np.empty(SAMPLE, np.uint32), np.empty(SAMPLE, np.uint32)
    for pair in range(first.size):
        one, two = first[pair], second[pair]
        count_a, most_a = _hashes_of(data, offsets[one], offsets[one + 1], a)
        count_b, most_b = _hashes_of(data, offsets[two], offsets[two + 1], b)
        most = min(most_a, most_b)
        i, j, both, union = 0, 0, 0, 0
        while i < count_a or j < count_b:
            x = np.int64(a[i]) if i < count_a else np.int64(1) << 32
            y = np.int64(b[j]) if j < count_b else np.int64(1) << 32
            if min(x, y) > most:
                break
            both += int(x == y)
            union += 1
            i += int(x <= y)
            j += int(y <= x)
        if union:
            result[pair] = both / union
    return result
