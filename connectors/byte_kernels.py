"""Finding and copying bytes in kernels, eight or more at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .keys import load64, trailing_zeros

_LOW_BITS, _HIGH_BITS, _NONE = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080), np.uint64(0)


@njit(nogil=True, cache=True, inline="always")
def _bytes_like(word: Any, wanted: Any) -> Any:
    """Set the top bit of the first of eight bytes that is `wanted`, and perhaps of bytes after it; else zero.

    Mycroft's test for a zero byte, on the difference of the bytes.
    """
    difference = word ^ (_LOW_BITS * np.uint64(wanted))
    return (difference - _LOW_BITS) & ~difference & _HIGH_BITS


@njit(nogil=True, cache=True)
def find_either(data: Any, position: Any, one: Any, other: Any) -> Any:
    """Return the position of the next byte that is one of two, or the length of data."""
    i = position
    size = len(data)
    while i + 8 <= size:
        word = load64(data, i)
        found = _bytes_like(word, one) | _bytes_like(word, other)
        if found != _NONE:
            return i + np.int64(trailing_zeros(found) >> 3)
        i += 8
    while i < size and data[i] != one and data[i] != other:
        i += 1
    return i


@njit(nogil=True, cache=True)
def copy_bytes(data: Any, start: Any, end: Any, out: Any, position: Any) -> Any:
    """Copy data[start:end] to out[position:]; returns the position after the copy.

    Unsigned indices cannot be negative, which lets the compiler use vector instructions.
    """
    source, target = np.uint64(start), np.uint64(position)
    for i in range(np.uint64(end) - source):
        out[target + np.uint64(i)] = data[source + np.uint64(i)]
    return position + (end - start)
