"""Monotone calibration of weights: replace them by the best mixture of functions that rise or fall with a score.

Works on sums per bin of the score, which merge by addition: a corpus is read once for them, and once to apply the
result. With 10,000 bins and 5 folds the sums take 3.6 MB.

Source: SIMCal-W of causal judge evaluation (cimo-labs/cje, before its removal), with its influence function corrected.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_FLOOR = 1e-9
_RIDGE = 1e-8


def bin_moments(
    weights: Float64,
    bins: NDArray[np.int64],
    folds: NDArray[np.int64],
    shape: tuple[int, int],
    reward: Float64 | None = None,
) -> Float64:
    """Add up what calibration needs to know of one shard.

    Args:
        weights: raw weights, float64[n], at least 0.
        bins: bin of the score of each document, int64[n], ascending with the score.
        folds: fold of each document, int64[n], from a hash of its key, so that it depends on nothing else.
        shape: (folds, bins); at least 2 folds.
        reward: what the weights are used to average, float64[n], or None.

    Returns:
        Σ w**a · reward**r at [fold, bin, a, r], a and r from 0 to 2: float64[folds, bins, 3, 3]. Shards add.
    """
    place = folds * shape[1] + bins
    worth = np.ones_like(weights) if reward is None else reward
    total = np.empty((shape[0] * shape[1], 3, 3))
    for a in range(3):
        for r in range(3):
            total[:, a, r] = np.bincount(place, weights**a * worth**r, shape[0] * shape[1])
    return total.reshape(*shape, 3, 3)


@dataclass(frozen=True)
class MonotoneCalibration:
    """The calibrated weight of a document is `value` of its bin + `raw_share` times its raw weight; its mean is one.

    `mixture` says how much of each candidate went in (increasing, decreasing, raw if asked for) and `blend` how much of
    equal weights, to respect the ceiling of the variance.
    """

    value: Float64
    raw_share: float
    mixture: Float64
    blend: float

    def apply(self, weights: Float64, bins: NDArray[np.int64]) -> Float64:
        """Calibrate the weights of one shard.

        Args:
            weights: raw weights, float64[m].
            bins: bin of the score of each document, int64[m]; clip scores beyond the fitted ones to the outer bins.

        Returns:
            float64[m].
        """
        return self.value[bins] + self.raw_share * weights


def monotone(
    moments: Float64,
    rewarded: bool,
    include_raw: bool = False,
    smallest_share: float = 0.2,
    max_variance: float | None = 1.0,
) -> MonotoneCalibration:
    """Calibrate weights: mix the isotonic fits with the least out-of-fold variance, then limit the variance.

    Args:
        moments: sum of `bin_moments` over the shards, float64[folds, bins, 3, 3].
        rewarded: whether they have rewards. The variance is that of the weighted mean reward, whose influence function
            is w (reward - ψ) / mean w; the published code subtracts ψ (w - mean w) / mean w once more. Without
            rewards the fit that is nearer to the raw weights is taken, unmixed: a reward of one, as in the published
            code, leaves the variance of the weights to minimise, which the fit in the wrong direction wins: it is flat.
        include_raw: whether the raw weights are a candidate, too. Its default in the published code changed to False.
            Needs rewards.
        smallest_share: effective sample size wanted, as a share of the documents, above 0 to 1.
        max_variance: absolute limit of the variance of weights with mean one; 1, as published, asks for an effective
            sample size of a half and so overrules `smallest_share`. None: no such limit.

    Returns:
        The calibration.

    Raises:
        ValueError: all weights are zero, a limit is out of range, raw weights are to be a candidate without rewards,
            or fewer than 2 folds have documents and rewards.
    """
    if not 0 < smallest_share <= 1 or (max_variance is not None and not max_variance >= 0):
        raise ValueError("the smallest share is above 0 and at most 1, the largest variance at least 0")
    if include_raw and not rewarded:
        raise ValueError("without rewards nothing says how much of the raw weights to mix in")
    whole = moments.sum(0)
    n, total = float(whole[:, 0, 0].sum()), float(whole[:, 1, 0].sum())
    if not total > 0:
        raise ValueError("monotone calibration needs a weight above 0")
    fits = _candidates(whole[:, 0, 0], whole[:, 1, 0])
    if rewarded:
        mixture = least_variance(_influence_covariance(moments, include_raw))
    else:  # nearer to the weights is farther from flat, for projections of the same mean
        mixture = np.eye(2)[np.argmax(fits**2 @ whole[:, 0, 0])]
    value = mixture[0] * fits[0] + mixture[1] * fits[1]
    raw = float(mixture[2]) * n / total if include_raw else 0.0
    count, sums, squares = whole[:, 0, 0], whole[:, 1, 0], whole[:, 2, 0]
    variance = float((value**2) @ count + 2 * raw * (value @ sums) + raw**2 * squares.sum()) / n - 1.0
    ceiling = min(1 / smallest_share - 1, math.inf if max_variance is None else max_variance)
    blend = 1.0 - math.sqrt(ceiling / variance) if variance > ceiling else 0.0
    return MonotoneCalibration(value * (1 - blend) + blend, raw * (1 - blend), mixture, blend)


def isotonic(value: Float64, weight: Float64) -> Float64:
    """Find the ascending values that are nearest in weighted squares: pool adjacent violators.

    Args:
        value: float64[m].
        weight: of each, float64[m], above 0.

    Returns:
        float64[m], ascending, with the same weighted mean.
    """
    level, mass, length = [0.0] * value.size, [0.0] * value.size, [0] * value.size
    top = -1
    for v, w in zip(value.tolist(), weight.tolist(), strict=True):  # bins, not documents
        top += 1
        level[top], mass[top], length[top] = v, w, 1
        while top > 0 and level[top - 1] >= level[top]:
            joined = mass[top - 1] + mass[top]
            level[top - 1] += (level[top] - level[top - 1]) * (mass[top] / joined)
            mass[top - 1] = joined
            length[top - 1] += length[top]
            top -= 1
    return np.repeat(level[: top + 1], length[: top + 1])


def least_variance(covariance: Float64) -> Float64:
    """Find the mixture p on the simplex that makes pᵀ Σ p least, with a small ridge for candidates that are equal.

    The optimum is Σ⁻¹ 1 / 1ᵀ Σ⁻¹ 1 of some subset of the candidates. All are tried: dropping the most negative one
    again and again, as published, can miss it.

    Args:
        covariance: Σ, float64[k, k], symmetric and positive semi-definite; k of 2 or 3.

    Returns:
        float64[k], at least 0, sum one; equal shares where Σ is zero.
    """
    k = covariance.shape[0]
    ridged = covariance + np.eye(k) * (_RIDGE * np.trace(covariance) / k)
    best, least = np.full(k, 1 / k), math.inf
    for size in range(k, 0, -1):
        for subset in map(list, combinations(range(k), size)):
            try:
                direction = np.linalg.solve(ridged[np.ix_(subset, subset)], np.ones(size))
            except np.linalg.LinAlgError:
                continue
            if not (np.isfinite(direction).all() and direction.min() >= 0 and direction.sum() > 0):
                continue
            share = np.zeros(k)
            share[subset] = direction / direction.sum()
            variance = float(share @ ridged @ share)
            if variance < least:
                best, least = share, variance
    return best


def _candidates(count: Float64, sums: Float64) -> Float64:
    """Fit mean weights per bin, rising and falling: float64[2, bins] with mean one; empty bins are interpolated."""
    filled = np.flatnonzero(count)
    number = count[filled]
    means = sums[filled] / number
    fits = []
    for sign in (1.0, -1.0):
        fit = np.maximum(sign * isotonic(sign * means, number), _FLOOR * means.max())
        fits.append(np.interp(np.arange(count.size), filled, fit * (number.sum() / (fit @ number))))
    return np.array(fits)


def _influence_covariance(moments: Float64, include_raw: bool) -> Float64:
    """Covariance of the candidates' influence functions, each fold judged by fits from the others."""
    moments = moments[moments[:, :, 0, 0].sum(1) > 0]
    if len(moments) < 2:
        raise ValueError("monotone calibration with rewards needs documents in at least 2 folds")
    k = 2 + include_raw
    products, sums = np.zeros((k, k)), np.zeros(k)
    whole = moments.sum(0)
    for held in moments:
        train = whole - held
        n, total = float(train[:, 0, 0].sum()), float(train[:, 1, 0].sum())
        if not total > 0:
            continue
        fits = _candidates(np.maximum(train[:, 0, 0], 0.0), np.maximum(train[:, 1, 0], 0.0))
        # a candidate's weight is fixed[i] per bin + times[i] · raw weight; its mean over the training folds is one
        fixed = np.vstack([fits, np.zeros((1, fits.shape[1]))])[:k]
        times = np.array([0.0, 0.0, n / total])[:k]
        target = (fixed @ train[:, 0, 1] + times * train[:, 1, 1].sum()) / n
        first, second = _held_moments(held, fixed, times, target)
        sums += first
        products += second
    n = float(moments[..., 0, 0].sum())
    return products / n - np.outer(sums, sums) / n**2


def _held_moments(held: Float64, fixed: Float64, times: Float64, target: Float64) -> tuple[Float64, Float64]:
    """Sums and sums of products of w (reward - ψ) over one fold."""
    first = fixed @ held[:, 0, 1] + times * held[:, 1, 1].sum()
    first -= target * (fixed @ held[:, 0, 0] + times * held[:, 1, 0].sum())
    plain, once, twice = (_products(held[:, :, r], fixed, times) for r in range(3))
    return first, twice - np.add.outer(target, target) * once + np.outer(target, target) * plain


def _products(flat: Float64, fixed: Float64, times: Float64) -> Float64:
    """Σ w_i w_j · reward**r for all pairs of candidates; flat is Σ w**a · reward**r per bin, [bins, 3]."""
    cross = np.outer(fixed @ flat[:, 1], times)
    return (fixed * flat[:, 0]) @ fixed.T + cross + cross.T + np.outer(times, times) * flat[:, 2].sum()
