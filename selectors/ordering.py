"""Order-preserving integer images of float64 scores, so that a selection compares and histograms integers only."""

import numpy as np
from numpy.typing import NDArray

_SIGN = np.uint64(1 << 63)


def ascending(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Map scores to integers that have the same order.

    A positive float's bits already grow with its value; a negative one's shrink. So positive numbers get the sign bit
    set and negative ones all bits flipped. -0.0 and 0.0 share one image; infinities take their place at the ends.

    Args:
        values: scores, float64[n], without NaN (a document without a score has no place in an order).

    Returns:
        uint64[n] with `a < b` exactly where `values[a] < values[b]`, and equal exactly where those are equal.

    Raises:
        ValueError: a value is NaN.

    Source: the usual radix-sort transform of IEEE 754 numbers.
    """
    if np.isnan(values).any():
        raise ValueError("NaN has no place in an order: drop documents without a score first")
    bits = (values + 0.0).view(np.uint64)  # adding zero turns -0.0 into 0.0
    negative = (bits.view(np.int64) >> 63).view(np.uint64)  # all ones where the sign bit is set
    bits ^= negative | _SIGN
    return bits


def descending(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Map scores to integers of the opposite order: the complement of `ascending`.

    Args:
        values: scores, float64[n], without NaN.

    Returns:
        uint64[n], small for high scores.

    Raises:
        ValueError: a value is NaN.

    Source: as `ascending`.
    """
    return ~ascending(values)


def inverse(image: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Give back the scores of `ascending` images, to report a cut as a score.

    Args:
        image: images from `ascending`, uint64[n] (of a `descending` image, pass the complement). An integer that is
            no image of a float64 (above that of +inf, below that of -inf) comes back as NaN.

    Returns:
        float64[n]; zeros are positive.

    Source: as `ascending`.
    """
    positive = (image & _SIGN) != 0
    return np.where(positive, image ^ _SIGN, ~image).view(np.float64)
