"""Vectors in bytes: eight bits for each number, and a scale for each 64 of them.

A row of d numbers is stored as d whole numbers from -127 to 127 and, behind them, the two bytes of a float16 for each
GROUP of them: what its numbers are multiplied with. Groups, since the gradients of some layers are a tenth of those of
others, and as long where curvature weighs them: with one scale for a row those have three bits left.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

GROUP = 64
_MOST = 127
_LEAST_SCALE = np.float16(2.0**-24)
_LARGEST = np.uint32(0x7BFF)
"""Bits of the largest float16."""
_UNBIAS = np.float32(2.0**-112)
"""float32 counts its exponents from 127 and float16 from 15: so much smaller, a number's bits are in their places."""


def quantised(vectors: NDArray[np.floating]) -> NDArray[np.int8]:
    """Return vectors in bytes.

    A number changes by at most half of the largest one in its group over 127, and a little for the scale's rounding.

    Args:
        vectors: float[n, d], of magnitude at most that of float16.

    Returns:
        int8[n, d + 2 · ceil(d / GROUP)].
    """
    n, d = vectors.shape
    groups = -(-d // GROUP)
    padded = np.zeros((n, groups, GROUP), np.float32)
    padded.reshape(n, groups * GROUP)[:, :d] = vectors
    wanted = np.abs(padded).max(axis=2, initial=0) / np.float32(_MOST)
    scales = np.maximum(wanted.astype(np.float16), _LEAST_SCALE)
    scales = np.where(scales < wanted, np.nextafter(scales, np.float16(np.inf)), scales)  # so that the largest fits
    codes = np.rint(padded / scales.astype(np.float32)[:, :, None])
    whole = np.clip(codes, -_MOST, _MOST).astype(np.int8).reshape(n, groups * GROUP)[:, :d]
    return np.concatenate([whole, np.ascontiguousarray(scales, "<f2").view(np.int8)], axis=1)


def restored(stored: NDArray[np.int8]) -> NDArray[np.float16]:
    """Return stored vectors as float16[n, d], rounded as the products of whole numbers and scales are.

    stored: int8[n, d + 2 · ceil(d / GROUP)].
    """
    n, width = stored.shape
    d = width - 2 * -(-width // (GROUP + 2))
    scales = np.ascontiguousarray(stored[:, d:]).view("<f2").astype(np.float32)
    found = np.empty((n, d), np.float16)
    _restore(np.ascontiguousarray(stored[:, :d]), scales, found.view(np.uint16))
    return found


@numba.njit(nogil=True, cache=True)
def _restore(codes: Any, scales: Any, halves: Any) -> None:
    n, d = codes.shape
    moved = np.empty(d, np.uint32)
    values = moved.view(np.float32)
    for i in range(n):
        for j in range(d):
            values[j] = np.float32(codes[i, j]) * scales[i, j // GROUP] * _UNBIAS
        for j in range(d):
            bits = moved[j]
            sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
            even = (bits >> np.uint32(13)) & np.uint32(1)  # halves round to even
            rest = ((bits & np.uint32(0x7FFFFFFF)) + np.uint32(0xFFF) + even) >> np.uint32(13)
            halves[i, j] = np.uint16(sign | min(rest, _LARGEST))  # a scale that was rounded up may lead beyond
