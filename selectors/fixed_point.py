"""Exact sums of numbers from 0 to 1, the same on any cut into shards."""

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

FRACTION_BITS = 40
HALF = 20


def fixed_point_units(values: Float64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Round numbers to multiples of 2**-40, each in two halves, since 2**23 ones in one piece would overflow int64.

    Sums of parts add up to the sum of the whole, exactly. The error is at most n * 2**-41: a relative error of
    2**-41 / mean.

    Args:
        values: float64[n] from 0 to 1.

    Returns:
        int64[n] of 2**-20 and int64[n] of 2**-40, the latter below 2**20; they can be added up in any order.

    Raises:
        ValueError: a value is NaN or outside 0 to 1.
    """
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a value is not between 0 and 1")
    units = np.rint(np.ldexp(values, FRACTION_BITS)).astype(np.int64)
    return units >> HALF, units & ((1 << HALF) - 1)
