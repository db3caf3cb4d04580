"""Guards for weights of any origin: clip, mix with uniform, temper to an effective sample size, smooth the tail.

The first three work on NumPy arrays and torch tensors. Weights come out unnormalised: make their mean one afterwards.
"""

import math

import numpy as np
from numpy.typing import NDArray

from .array_namespace import Array, as_floats, namespace
from .diagnostics import temperature_for_ess
from .tail import ParetoTail

Float64 = NDArray[np.float64]

_BINS = 1 << 16


def clip(weights: Array, ceiling: float) -> Array:
    """Truncate weights: min(w, ceiling). Biases averages towards the unweighted one.

    Args:
        weights: [n], at least 0.
        ceiling: > 0, in the unit of the weights: `clip_ceiling` or a quantile of the corpus.

    Returns:
        [n].

    Raises:
        ValueError: the ceiling is not above 0.
    """
    if not ceiling > 0:
        raise ValueError(f"a ceiling of weights is above 0, not {ceiling}")
    weights = as_floats(weights)
    return namespace(weights).clip(weights, None, ceiling)


def clip_ceiling(sum_w: float, n: int) -> float:
    """Give the ceiling mean · sqrt(n), which costs no consistency as n grows.

    Args:
        sum_w: sum of the weights of the corpus.
        n: their number, > 0.

    Returns:
        The ceiling, in the unit of the weights.

    Source: Ionides, Truncated Importance Sampling, 2008.
    """
    return sum_w / math.sqrt(n)


def mix_uniform(weights: Array, share: float, mean: float = 1.0) -> Array:
    """Mix weights with equal ones: (1 - share) w + share · mean. No document falls below the share.

    Args:
        weights: [n], at least 0.
        share: from 0 to 1.
        mean: of the weights of the corpus; it stays the same.

    Returns:
        [n].

    Raises:
        ValueError: the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is from 0 to 1, not {share}")
    return as_floats(weights) * (1.0 - share) + share * mean


def uniform_share(n: int, sum_w: float, sum_w2: float, wanted: float) -> float:
    """Find the share for `mix_uniform` at which weights have a wanted effective sample size: exact, from sums alone.

    Args:
        n: weights.
        sum_w: their sum, > 0.
        sum_w2: sum of their squares.
        wanted: effective sample size in documents, above 0 to n.

    Returns:
        0, where they have it already, to 1, where `wanted` is n.

    Raises:
        ValueError: all weights are zero, or `wanted` is out of range.

    Source: ESS = n / (1 + Var w) for weights of mean one, whose variance the mixture shrinks by (1 - share)².
    """
    if not (sum_w > 0 and 0 < wanted <= n):
        raise ValueError(f"no mixture of {n} weights of sum {sum_w} has an effective sample size of {wanted}")
    variance = n * sum_w2 / (sum_w * sum_w) - 1.0
    ceiling = n / wanted - 1.0
    return 1.0 - math.sqrt(ceiling / variance) if variance > ceiling else 0.0


def temper(weights: Array, temperature: float) -> Array:
    """Flatten weights by a power: w**(1 / T). Keeps their order, and zeros.

    Args:
        weights: [n], at least 0.
        temperature: T > 0; above 1 flattens, infinity makes all but zeros equal. For a wanted effective sample size
            over a corpus: `diagnostics.temperature_for_ess` of a histogram of the logarithms of what is not zero.

    Returns:
        [n].

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, not {temperature}")
    weights = as_floats(weights)
    xp = namespace(weights)
    return xp.where(weights > 0, weights ** (1.0 / temperature), xp.zeros_like(weights))


def temper_to(weights: Float64, wanted: float) -> Float64:
    """Temper weights in memory to a wanted effective sample size; they are never sharpened.

    Args:
        weights: float64[n], finite, at least 0, one above 0.
        wanted: in documents; documents of weight 0 cannot be won back, so at most the others are reached.

    Returns:
        float64[n]; the size is met within the resolution of 65,536 bins of the logarithm.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """
    if not ((weights >= 0) & (weights < np.inf)).all():
        raise ValueError("a weight is negative or not finite")
    logs = np.log(weights[weights > 0])
    if not logs.size:
        raise ValueError("all weights are zero")
    low, high = float(logs.min()), float(logs.max())
    counts, _ = np.histogram(logs, _BINS, (low, high))
    return temper(weights, max(temperature_for_ess(counts, low, high, wanted), 1.0))


def pareto_smooth(log_weights: Float64, tail: ParetoTail) -> Float64:
    """Replace the largest weights by the quantiles of the Pareto distribution fitted to them.

    Args:
        log_weights: of one shard, float64[m], in the log scale of the tail.
        tail: `tail.fit_tail` of the corpus, whose M + 1 largest hold every weight above the cut-off.

    Returns:
        float64[m] log weights; the same where the tail was not fitted. Order is kept: weights at or below the cut-off
        stay, equal ones remain equal, none exceeds the largest.

    Source: Vehtari et al., Pareto Smoothed Importance Sampling, JMLR 2024.
    """
    if not tail.raw.size:
        return log_weights
    place = np.minimum(np.searchsorted(tail.raw, log_weights), tail.raw.size - 1)
    return np.where(log_weights > tail.cutoff, tail.smoothed[place], log_weights)
