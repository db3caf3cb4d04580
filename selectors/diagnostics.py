"""Numbers for reports and warnings: what weights are worth, what a score follows, what noise changes."""

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def effective_sample_size(sum_w: float, sum_w2: float) -> float:
    """Kish's effective sample size (Σw)² / Σw²: so many equally weighted documents say as much.

    Args:
        sum_w: sum of the weights.
        sum_w2: sum of their squares.

    Returns:
        From 0 (no weight at all) to the number of documents.

    Source: Kish, Survey Sampling, 1965.
    """
    return sum_w * sum_w / sum_w2 if sum_w2 > 0 else 0.0


def rank_correlation(x: Float64, y: Float64) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank.

    Args:
        x: values, float64[n].
        y: values of the same documents, float64[n]; documents with a NaN in either are left out.

    Returns:
        From -1 to 1; NaN where either is constant or fewer than two documents are left.

    Source: Spearman 1904; mid-ranks as in Kendall, Rank Correlation Methods.
    """
    known = ~(np.isnan(x) | np.isnan(y))
    a, b = _centred_ranks(x[known]), _centred_ranks(y[known])
    scale = float(np.sqrt(a @ a) * np.sqrt(b @ b))
    return float(np.clip(a @ b / scale, -1.0, 1.0)) if scale > 0 else float("nan")


def _centred_ranks(values: Float64) -> Float64:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2  # mean of the ranks 0, 1, … that equal values share
    return middle[place] - (values.size - 1) / 2


def topk_overlap(score: Float64, noisy: Float64, k: int) -> float:
    """Tell how much of a resampled top k is the plain top k: near 1, the noise decides nothing.

    Args:
        score: scores, float64[n], without NaN.
        noisy: the same with noise added, float64[n], without NaN.
        k: how many are kept; equal values are taken in the order of rows.

    Returns:
        Share of the top k by `noisy` that is in the top k by `score`; NaN where nothing is kept.
    """
    k = min(k, score.size)
    if k <= 0:
        return float("nan")
    plain = np.zeros(score.size, np.bool_)
    plain[np.argsort(-score, kind="stable")[:k]] = True
    return float(plain[np.argsort(-noisy, kind="stable")[:k]].mean())


def temperature_for_ess(counts: NDArray[np.int64], low: float, high: float, wanted: float) -> float:
    """Find the temperature T at which the weights exp(score / T) have a wanted effective sample size.

    The effective sample size grows with T, from the number of documents in the highest filled bin to all of them.
    It is computed from bin centres: a T well below the width of a bin is a guess.

    Args:
        counts: documents per bin of equal width, int64[bins]; integer counts merge exactly, so any sharding gives the
            same temperature. Infinite scores are left out by the caller.
        low: lower edge of the first bin.
        high: upper edge of the last bin, >= low.
        wanted: effective sample size, in documents.

    Returns:
        T from 1e-6 to 1e9 times (high - low), or of 1 where all scores are equal, rounded to 9 significant digits; the
        largest where `wanted` is at least the number of documents, the smallest where even that keeps more than wanted.

    Raises:
        ValueError: an edge is not finite, they are in the wrong order, or no document was counted.

    Source: bisection on log T; the effective sample size is monotone since the log-moments of the scores are convex.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"scores from {low} to {high} have no histogram")
    filled = np.flatnonzero(counts)
    if not filled.size:
        raise ValueError("no document was counted")
    extent = high - low if high > low else 1.0
    number = counts[filled].astype(np.float64)
    below = (filled - filled[-1]) * ((high - low) / counts.size)  # distance to the highest filled bin, <= 0
    cold, hot = np.log(1e-6 * extent), np.log(1e9 * extent)
    if wanted >= number.sum() or _ess_at(hot, number, below) <= wanted:
        return _rounded(hot)
    if _ess_at(cold, number, below) >= wanted:
        return _rounded(cold)
    for _ in range(80):
        middle = (cold + hot) / 2
        if _ess_at(middle, number, below) < wanted:
            cold = middle
        else:
            hot = middle
    return _rounded(hot)


def _ess_at(log_temperature: float, number: Float64, below: Float64) -> float:
    weights = np.exp(below / np.exp(log_temperature))
    return effective_sample_size(float((number * weights).sum()), float((number * weights**2).sum()))


def _rounded(log_temperature: float) -> float:
    return float(f"{np.exp(log_temperature):.8e}")
