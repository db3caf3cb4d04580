"""How much the distribution of a score changed between two corpora."""

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

BINS = 10

MODERATE, LARGE = 0.1, 0.25
"""By convention, a stability index below the first means no change worth a look, above the second a large one."""


def quantile_edges(values: Float64, bins: int = BINS) -> Float64:
    """Cut values into bins of about equal size; a value that fills a bin alone gets one of its own.

    Args:
        values: float64[n] without NaN, n > 0; infinities are allowed.
        bins: how many are wanted; there are fewer where values repeat.

    Returns:
        float64[m], ascending and distinct: bin i holds what is at least edge i - 1 and below edge i, the outer two
        bins being open.
    """
    # an order statistic, for interpolating between infinities gives NaN
    edges = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    distinct, times = np.unique(edges, return_counts=True)
    alone = distinct[times > 1]
    return np.unique(np.concatenate([distinct, np.nextafter(alone, np.inf)]))


def population_stability_index(old: Float64, new: Float64, bins: int = BINS) -> float:
    """Measure how far the shares of the quantile bins of `old` moved: Σ (q - p) ln(q / p), p of old and q of new.

    Half a document is added to each bin, so that an empty one has a logarithm. Not symmetric: the bins are those of
    `old`. Read by convention: below 0.1 stable, 0.1 to 0.25 moderate, above 0.25 large.

    Args:
        old: scores, float64[n]; NaN is left out.
        new: scores, float64[m]; NaN is left out.
        bins: quantile bins of old.

    Returns:
        From 0 (the same shares) upwards; NaN where either has no score.

    Source: Siddiqi, Credit Risk Scorecards, 2006 (index and convention); as a divergence, Jeffreys 1946.
    """
    old, new = _known(old), _known(new)
    if not old.size or not new.size:
        return float("nan")
    edges = quantile_edges(old, bins)
    p, q = (_shares(np.searchsorted(edges, values, side="right"), edges.size + 1) for values in (old, new))
    return float(np.sum((q - p) * np.log(q / p)))


def _shares(places: NDArray[np.intp], bins: int) -> Float64:
    counts = np.bincount(places, minlength=bins).astype(np.float64)
    return (counts + 0.5) / (places.size + 0.5 * bins)


def stability_by_chance(old: int, new: int, bins: int = BINS) -> float:
    """Expect this stability index of two independent samples of one distribution, which grows as samples shrink.

    Args:
        old: documents with a score.
        new: documents with a score.
        bins: that the index was computed with.

    Returns:
        (bins - 1)(1 / old + 1 / new); infinite where either is 0.

    Source: Yurdakul and Naranjo, Statistical properties of the population stability index, 2020 (the index is about
    (1 / old + 1 / new) times a chi-squared variable of bins - 1 degrees of freedom).
    """
    return (bins - 1) * (1 / old + 1 / new) if old and new else float("inf")


def kolmogorov_smirnov(old: Float64, new: Float64) -> float:
    """Largest difference between the empirical distribution functions of two samples.

    Args:
        old: scores, float64[n]; NaN is left out.
        new: scores, float64[m]; NaN is left out.

    Returns:
        From 0 to 1, symmetric; NaN where either has no score.

    Source: Smirnov 1939, the two-sample form of Kolmogorov 1933.
    """
    old, new = np.sort(_known(old)), np.sort(_known(new))
    if not old.size or not new.size:
        return float("nan")
    steps = np.concatenate([old, new])
    below_old, below_new = (np.searchsorted(values, steps, side="right") / values.size for values in (old, new))
    return float(np.abs(below_old - below_new).max())


def reading(index: float) -> str:
    """Name a stability index by the convention: `stable`, `moderate` or `large`; `unknown` for NaN."""
    if np.isnan(index):
        return "unknown"
    return "stable" if index < MODERATE else "moderate" if index <= LARGE else "large"


def _known(values: Float64) -> Float64:
    return values[~np.isnan(values)]


def cut_drift(candidates: int, kept: int, cut_share: float | None) -> float:
    """Return how far a frozen cut has drifted: the change of the share that it keeps, relative to that share.

    Args:
        candidates: documents that the step chooses from now.
        kept: how many of them the cut keeps.
        cut_share: share that it kept of those it was made for, None or 0 where there is nothing to compare with.

    Returns:
        0 for the same share, 1 for twice the share or nothing.
    """
    return abs(kept / candidates / cut_share - 1) if candidates and cut_share else 0.0
