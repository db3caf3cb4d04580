"""How heavy the tail of weights is, and what that means for whoever trains with them, in plain words."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .diagnostics import effective_sample_size

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


def hill_index(largest: Float64) -> float:
    """Estimate the tail index: moments of its order and above are infinite.

    Args:
        largest: the `hill_length(n)` + 1 largest log weights, float64, any order.

    Returns:
        Above 0; inf for a tail of equal weights; NaN, which is not healthy but unknown, for fewer than 11 weights or
        where one is not finite.

    Source: Hill, Annals of Statistics 1975.
    """
    if largest.size <= _HILL_FEWEST or not np.isfinite(largest).all():
        return math.nan
    ordered = np.sort(largest)
    distance = float((ordered[1:] - ordered[0]).mean())
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


def affinity(first: Float64, second: Float64) -> float:
    """Measure how far two histograms overlap: the Bhattacharyya coefficient, Σ sqrt(p q).

    Args:
        first: counts or weights per bin, float64[bins], not all zero.
        second: the same bins.

    Returns:
        From 0 (disjoint) to 1 (proportional). Of the unweighted and the weighted score it is the mean of sqrt(w), for
        weights of mean one that depend on the score.
    """
    return float(np.sqrt(first / first.sum() * (second / second.sum())).sum())


@dataclass(frozen=True)
class WeightSummary:
    """What is known of the weights of a run; None is not measured, NaN could not be.

    Shares are from 0 to 1: `top_5_percent_share` of the weight is on the top 5 % of documents; `near_zero_share` of
    documents have next to no weight; `affinity` between unweighted and weighted scores; `typical_coverage` of the
    corpus lies where 90 % of the target does; `out_of_range_share` of scores lie beyond the calibrated ones.
    """

    n: int
    sum_w: float
    sum_w2: float
    pareto_k: float | None = None
    hill: float | None = None
    top_5_percent_share: float | None = None
    near_zero_share: float | None = None
    affinity: float | None = None
    typical_coverage: float | None = None
    out_of_range_share: float | None = None


def warnings(weights: WeightSummary) -> list[str]:
    """Say in plain words what is wrong with weights, the gravest of each kind only.

    Args:
        weights: what was measured.

    Returns:
        One line per finding, "critical: …" or "warning: …"; empty where all gates are passed.

    Source: gates of causal judge evaluation (cimo-labs/cje, its diagnostics); k̂ as in Vehtari et al., JMLR 2024.
    """
    if weights.n < 2:
        return []
    if not weights.sum_w > 0:
        return ["critical: all weights are zero"]
    found = [_effective(weights)]
    variation = coefficient_of_variation(weights.n, weights.sum_w, weights.sum_w2)
    if variation > 0:  # equal weights have no tail to speak of
        found += [_pareto(weights), _hill(weights)]
    if variation > 2:
        found.append(f"warning: weights vary widely: their standard deviation is {variation:.1f} times their mean")
    found += _shares(weights)
    return [line for line in found if line]


def _effective(weights: WeightSummary) -> str:
    size = effective_sample_size(weights.sum_w, weights.sum_w2)
    says = f"{weights.n} weighted documents say as much as {size:.0f} equally weighted ones ({size / weights.n:.1%})"
    return _graded(size / weights.n, 0.10, 0.30, says)


def _pareto(weights: WeightSummary) -> str:
    k = weights.pareto_k
    if k is None or k < reliable_shape(weights.n):
        return ""
    if math.isnan(k):
        return "warning: the tail of the weights could not be fitted, so how heavy it is remains unknown"
    if k >= 1:
        return f"critical: the tail of the weights is so heavy (k = {k:.2f}) that averages need not settle at all"
    return f"warning: the tail of the weights is heavy (k = {k:.2f}): averages are biased by the few largest"


def _hill(weights: WeightSummary) -> str:
    alpha = weights.hill
    if alpha is None or alpha >= 2:
        return ""
    if math.isnan(alpha):
        return "warning: the tail index of the weights could not be estimated, so how heavy it is remains unknown"
    missing = "mean" if alpha < 1 else "variance"
    grade = "critical" if alpha < 1 else "warning"
    return f"{grade}: the weights may have no finite {missing} (tail index {alpha:.2f})"


def _shares(weights: WeightSummary) -> list[str]:
    found = []
    if (top := weights.top_5_percent_share) is not None and top > 0.30:
        found.append(f"warning: 5 % of the documents hold {top:.0%} of the weight")
    if (idle := weights.near_zero_share) is not None and idle > 0.85:
        found.append(f"warning: {idle:.0%} of the documents have next to no weight")
    if (both := weights.affinity) is not None:
        found.append(_graded(both, 0.5, 0.85, f"scores with and without weights overlap by only {both:.0%}"))
    if (seen := weights.typical_coverage) is not None:
        says = f"only {seen:.0%} of the corpus lies where most of the target does; no weighting can mend that"
        found.append(_graded(seen, 0.30, 0.70, says))
    if (beyond := weights.out_of_range_share) is not None and beyond >= 0.05:
        found.append(f"warning: {beyond:.0%} of the scores lie outside the range that was calibrated")
    return found


def _graded(value: float, critical: float, good: float, says: str) -> str:
    if value >= good:
        return ""
    return f"warning: {says}" if value >= critical else f"critical: {says}"
