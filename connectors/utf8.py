"""Validation of UTF-8 in Arrow buffers, as strict as Python's own decoder.

Parquet and JSON readers hand over "string" columns that may hold any bytes; what is not valid UTF-8 becomes a dead
letter here, so that kernels further on can rely on it.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .keys import constant, load64

_HIGH_BITS = np.uint64(0x8080808080808080)
_U64 = np.uint64


def first_invalid(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where each value stops being UTF-8.

    Overlong forms, surrogates, code points above U+10FFFF and truncated sequences are invalid (Unicode standard,
    table 3-7), which is what `bytes.decode("utf-8", "strict")` rejects.

    Args:
        offsets: int64[n + 1], positions in data.
        data: uint8 bytes; value i is data[offsets[i]:offsets[i + 1]].

    Returns:
        int64[n]: byte position, within the value, of the first byte of the first invalid sequence
        (`UnicodeDecodeError.start`), or -1 where the value is valid.
    """
    return _first_invalid(constant(offsets), constant(data))


@numba.njit(nogil=True, cache=True)
def _sequence_length(data: Any, position: Any, end: Any) -> Any:
    """Bytes of the valid multi-byte sequence at this position, or 0 if it is invalid."""
    lead = data[position]
    if lead < 0xC2 or lead > 0xF4:
        return 0
    length = 2 if lead < 0xE0 else (3 if lead < 0xF0 else 4)
    if position + length > end:
        return 0
    # The second byte alone rules out overlong forms, surrogates and code points that are too large.
    lowest, highest = np.uint8(0x80), np.uint8(0xBF)
    if lead == 0xE0:
        lowest = np.uint8(0xA0)
    elif lead == 0xED:
        highest = np.uint8(0x9F)
    elif lead == 0xF0:
        lowest = np.uint8(0x90)
    elif lead == 0xF4:
        highest = np.uint8(0x8F)
    second = data[position + 1]
    if second < lowest or second > highest:
        return 0
    for i in range(2, length):
        if data[position + i] & 0xC0 != 0x80:
            return 0
    return length


@numba.njit(nogil=True, cache=True)
def _first_invalid_in(data: Any, start: Any, end: Any) -> Any:
    position = start
    while position < end:
        while position + 32 <= end:
            block = load64(data, position) | load64(data, position + 8)
            block |= load64(data, position + 16) | load64(data, position + 24)
            if block & _HIGH_BITS:
                break
            position += 32
        while position + 8 <= end and load64(data, position) & _HIGH_BITS == _U64(0):
            position += 8
        while position < end and data[position] < 0x80:
            position += 1
        while position < end and data[position] >= 0x80:
            length = _sequence_length(data, position, end)
            if length == 0:
                return position - start
            position += length
    return -1


@numba.njit(nogil=True, cache=True)
def _first_invalid(offsets: Any, data: Any) -> Any:
    result = np.empty(offsets.size - 1, np.int64)
    for i in range(result.size):
        result[i] = _first_invalid_in(data, offsets[i], offsets[i + 1])
    return result
