"""How heavy the tail of weights is: Pareto k, Hill index, and the smoothed tail of PSIS."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_FEWEST = 5  # tail points, as in the R package loo
_HILL_FEWEST = 10


def tail_length(n: int, relative_efficiency: float = 1.0) -> int:
    """Say how many of the largest weights are the tail: ⌈min(n / 5, 3 sqrt(n / r))⌉.

    Args:
        n: weights.
        relative_efficiency: r, of a dependent sample; 1 where documents are independent.

    Returns:
        M, about 95,000 of 1e9. `fit_tail` wants M + 1 weights, so a top-k merge holds 8 bytes for each.

    Source: Vehtari et al., Pareto Smoothed Importance Sampling, JMLR 2024.
    """
    return math.ceil(min(n / 5, 3 * math.sqrt(n / relative_efficiency)))


def generalised_pareto(excess: Float64) -> tuple[float, float]:
    """Fit a generalised Pareto distribution, by the mean of a profile likelihood over a grid.

    Args:
        excess: how far values lie above a cut-off, float64[m], positive, ascending; m >= 5 and not all equal.

    Returns:
        Shape k, above 0 for a heavy tail, and scale above 0, both before any shrinkage. NaN where the fit fails.

    Source: Zhang and Stephens, Technometrics 2009.
    """
    m = excess.size
    quartile = excess[_quartile(m)]
    grid = np.arange(1, 30 + math.isqrt(m) + 1)
    b = 1 / excess[-1] + (1 - np.sqrt(grid.size / (grid - 0.5))) / (3 * quartile)
    with np.errstate(all="ignore"):  # a failing grid point is left out
        k = np.array([np.log1p(-one * excess).mean() for one in b])  # one row at a time: m may be 95,000
        likelihood = m * (np.log(-b / k) - k - 1)
        likelihood[~np.isfinite(likelihood)] = -np.inf
        weight = np.exp(likelihood - likelihood.max())
        mean_b = float(weight @ b / weight.sum())
        shape = float(np.log1p(-mean_b * excess).mean())
        return shape, -shape / mean_b if mean_b else float("nan")


def _quartile(m: int) -> int:
    return math.floor(m / 4 + 0.5) - 1


@dataclass(frozen=True)
class ParetoTail:
    """The tail of a set of weights and its fit; all in the caller's log scale.

    `shape` is k̂ shrunk towards 0.5 with the weight of 10 points: inf where the tail holds one value only, NaN where it
    is too short to fit. `smoothed` are the log weights to put in place of `raw`, both ascending and equally long; empty
    where nothing is to be smoothed.
    """

    shape: float
    cutoff: float
    raw: Float64
    smoothed: Float64


def fit_tail(largest: Float64) -> ParetoTail:
    """Fit the largest weights and compute what Pareto smoothing replaces them by.

    Args:
        largest: the `tail_length(n)` + 1 largest log weights, float64[m + 1] in any order, none NaN or +inf. The
            smallest is the cut-off; values equal to it are no tail, so order never matters.

    Returns:
        The fitted tail. Smoothed weights are quantiles of the fit at (j - ½) / m, at most the largest raw one; equal
        raw weights share the mean of theirs.

    Raises:
        ValueError: a log weight is NaN or +inf.

    Source: Vehtari et al., JMLR 2024; smoothing wherever the fit works, as in the R package loo.
    """
    if not (largest < np.inf).all():
        raise ValueError("a log weight is NaN or infinite")
    ordered = np.sort(largest)
    none = np.empty(0)
    if ordered.size <= _FEWEST:
        return ParetoTail(math.nan, float(ordered[0]) if ordered.size else -math.inf, none, none)
    cutoff, highest = float(ordered[0]), float(ordered[-1])
    raw = ordered[ordered > cutoff]
    if raw.size < _FEWEST:
        return ParetoTail(math.nan, cutoff, none, none)
    if raw[0] == highest:
        return ParetoTail(math.inf, cutoff, none, none)
    base = math.exp(cutoff - highest)
    excess = np.exp(raw - highest) - base
    if not excess[_quartile(raw.size)] > 0:  # the first quarter differs by less than rounding,
        unknown = math.nan if base > 0 else math.inf  # or lies more below the largest than float64 can hold
        return ParetoTail(unknown, cutoff, none, none)
    k, sigma = generalised_pareto(excess)
    if not (math.isfinite(k) and sigma > 0):
        return ParetoTail(math.nan, cutoff, none, none)
    m = raw.size
    shape = (m * k + 10 * 0.5) / (m + 10)
    probability = (np.arange(m) + 0.5) / m
    quantile = sigma * np.expm1(-shape * np.log1p(-probability)) / shape if shape else -sigma * np.log1p(-probability)
    value = np.minimum(base + quantile, 1.0)
    _, place, count = np.unique(raw, return_inverse=True, return_counts=True)
    shared = (np.bincount(place, value) / count)[place]
    return ParetoTail(shape, cutoff, raw, highest + np.log(shared))


def pareto_smooth(log_weights: Float64, tail: ParetoTail) -> Float64:
    """Replace the largest weights by the quantiles of the Pareto distribution fitted to them.

    Args:
        log_weights: of one shard, float64[m], in the log scale of the tail.
        tail: `fit_tail` of the corpus, whose M + 1 largest hold every weight above the cut-off.

    Returns:
        float64[m] log weights; the same where the tail was not fitted. Order is kept: weights at or below the cut-off
        stay, equal ones remain equal, none exceeds the largest.

    Source: Vehtari et al., Pareto Smoothed Importance Sampling, JMLR 2024.
    """
    if not tail.raw.size:
        return log_weights
    place = np.minimum(np.searchsorted(tail.raw, log_weights), tail.raw.size - 1)
    return np.where(log_weights > tail.cutoff, tail.smoothed[place], log_weights)


def reliable_shape(n: int) -> float:
    """Give the k̂ below which averages over n weighted documents can be relied on: min(1 - 1 / log10 n, 0.7).

    Args:
        n: weights, > 1.

    Returns:
        At most 0.7.

    Source: Vehtari et al., JMLR 2024.
    """
    return min(1 - 1 / math.log10(n), 0.7)


def hill_length(n: int) -> int:
    """Say how many of the largest weights the Hill index uses: 5 %, at least 10, at most 10 %.

    Args:
        n: weights.

    Returns:
        The number; 0 where 10 would be more than 10 %. `hill_index` wants one more.
    """
    return max(n // 20, _HILL_FEWEST) if n >= 10 * _HILL_FEWEST else 0


def hill_index(largest: Float64, counts: NDArray[np.int64] | None = None) -> float:
    """Estimate the tail index: moments of its order and above are infinite.

    Args:
        largest: the `hill_length(n)` + 1 largest log weights, float64, any order.
        counts: how many there are of each, int64, at least one; None: one each.

    Returns:
        Above 0; inf for a tail of equal weights; NaN, which is not healthy but unknown, for fewer than 11 weights or
        where one is not finite.

    Source: Hill, Annals of Statistics 1975.
    """
    number = np.ones(largest.size, np.int64) if counts is None else counts
    if number.sum() <= _HILL_FEWEST or not np.isfinite(largest).all():
        return math.nan
    distance = float((largest - largest.min()) @ number) / (int(number.sum()) - 1)
    return 1 / distance if distance > 0 else math.inf


def coefficient_of_variation(n: int, sum_w: float, sum_w2: float) -> float:
    """Divide the standard deviation of weights by their mean; n / (1 + CV²) is the effective sample size.

    Args:
        n: weights.
        sum_w: their sum.
        sum_w2: sum of their squares.

    Returns:
        At least 0; NaN where all weights are zero.
    """
    return math.sqrt(max(n * sum_w2 / (sum_w * sum_w) - 1.0, 0.0)) if sum_w > 0 else math.nan
