"""Importance weights from log-ratio scores, and an exact sum that makes their mean one on any sharding."""

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_FRACTION_BITS = 40
_HALF = 20


def importance_weights(score: Float64, maximum: float, temperature: float) -> Float64:
    """Turn scores that are log weights into weights relative to the largest: exp((score - maximum) / temperature).

    Args:
        score: float64[n], at most `maximum`; -inf gives the weight 0.
        maximum: the largest score of the corpus, finite.
        temperature: > 0; above 1 flattens the weights.

    Returns:
        float64[n] from 0 to 1.

    Raises:
        ValueError: the maximum is not finite, the temperature not above 0, or a score is NaN or above the maximum. So
            +inf is an error: it would take all weight from every other document, which nobody asks for.

    Source: importance weights as in DSIR (arXiv 2302.03169), tempered.
    """
    if not np.isfinite(maximum):
        raise ValueError(f"weights need a finite largest score, not {maximum}")
    if not temperature > 0:
        raise ValueError(f"weights need a temperature above 0, not {temperature}")
    if not (score <= maximum).all():
        raise ValueError(f"a score is NaN or above the largest score {maximum}")
    return np.exp((score - maximum) / temperature)


def fixed_point_sum(values: Float64) -> int:
    """Add up numbers without regard to their order: each is rounded to a multiple of 2**-40 and added as an integer.

    Sums of parts add up to the sum of the whole, exactly. The error is at most n * 2**-41: a relative error of
    2**-41 / mean. Where the largest value is 1, as in `importance_weights`, the sum is never below 1.

    Args:
        values: float64[n] from 0 to 1, n below 2**42.

    Returns:
        The sum in units of 2**-40.

    Raises:
        ValueError: a value is NaN or outside 0 to 1.
    """
    high, low = fixed_point_units(values)
    return (int(high.sum()) << _HALF) + int(low.sum())


def fixed_point_units(values: Float64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Round numbers to multiples of 2**-40, each in two halves, since 2**23 ones in one piece would overflow int64.

    Args:
        values: float64[n] from 0 to 1.

    Returns:
        int64[n] of 2**-20 and int64[n] of 2**-40, the latter below 2**20; they can be added up in any order.

    Raises:
        ValueError: a value is NaN or outside 0 to 1.
    """
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a value is not between 0 and 1")
    units = np.rint(np.ldexp(values, _FRACTION_BITS)).astype(np.int64)
    return units >> _HALF, units & ((1 << _HALF) - 1)


def mean_one(values: Float64, total_fixed_point: float, n: int) -> NDArray[np.float32]:
    """Scale weights so that their mean over the corpus is one.

    Args:
        values: weights of one shard, float64[m].
        total_fixed_point: `fixed_point_sum` over the corpus.
        n: documents of the corpus.

    Returns:
        float32[m]; the mean over the corpus is one within the error of the sum and of float32 (2**-24 per weight).

    Raises:
        ValueError: all weights of the corpus are zero.
    """
    if total_fixed_point <= 0:
        raise ValueError("the weights of the corpus add up to zero")
    return (values * ((n << _FRACTION_BITS) / total_fixed_point)).astype(np.float32)
