"""DSIR: data selection with importance resampling (Xie, Santurkar, Ma and Liang, NeurIPS 2023, arXiv 2302.03169).

A text's log importance weight is the sum, over its hashed n-grams (`ngrams`), of the log ratio between the n-gram
distribution of a target and that of the raw corpus. Weights are not divided by the length of the text.
"""

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-8
"""Added to every probability before its logarithm, as in the published code."""


def log_ratio(
    target_counts: NDArray[np.int64] | NDArray[np.float64],
    raw_counts: NDArray[np.int64],
    smoothing: float = 0.0,
    epsilon: float = EPSILON,
) -> NDArray[np.float64]:
    """Log ratio of target to raw per bucket, ln(p + epsilon) - ln(q + epsilon).

    As published, only the target is smoothed: p = (count + smoothing) / (total + smoothing · buckets).

    Args:
        target_counts: n-gram counts of the target [buckets], or its probabilities (see `pooled_target`).
        raw_counts: int64[buckets], n-gram counts of the raw corpus.
        smoothing: Laplace smoothing of the target, >= 0.
        epsilon: added to both probabilities, > 0 where a bucket may be empty.

    Returns:
        float64[buckets], in nats.

    Raises:
        ValueError: the target or the raw corpus has no n-grams, or the numbers of buckets differ.
    """
    if target_counts.shape != raw_counts.shape:
        raise ValueError(f"target and raw corpus need the same buckets, not {target_counts.size} and {raw_counts.size}")
    target = _probabilities(target_counts, "target", smoothing)
    raw = _probabilities(raw_counts, "raw corpus")
    return np.log(target + epsilon) - np.log(raw + epsilon)


def pooled_target(
    counts_by_target: list[NDArray[np.int64]], proportions: list[float] | None = None, smoothing: float = 0.0
) -> NDArray[np.float64]:
    """One n-gram distribution for several targets.

    Args:
        counts_by_target: for each target, int64[buckets].
        proportions: share of each target, >= 0, normalised to sum 1: the mixture of the targets' distributions, each
            smoothed by itself. None adds the counts up (the published pooling), so that larger targets weigh more.
        smoothing: Laplace smoothing, >= 0.

    Returns:
        float64[buckets], sum 1.

    Raises:
        ValueError: a target has no n-grams, or the proportions do not fit the targets.
    """
    if not counts_by_target:
        raise ValueError("at least one target is needed")
    if proportions is None:
        return _probabilities(np.sum(counts_by_target, axis=0), "target", smoothing)
    shares = np.asarray(proportions, np.float64)
    if shares.shape != (len(counts_by_target),):
        raise ValueError(f"{len(counts_by_target)} targets need as many proportions, not {shares.size}")
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise ValueError(f"proportions must be finite, not negative, and not all zero: {proportions}")
    each = [_probabilities(counts, f"target {i + 1}", smoothing) for i, counts in enumerate(counts_by_target)]
    return (shares / shares.sum()) @ np.stack(each)


def kl_reduction(
    target: NDArray[np.int64] | NDArray[np.float64], raw: NDArray[np.int64], selected: NDArray[np.int64]
) -> float:
    """How much closer to the target the selected texts are than the raw corpus: KL(target‖raw) - KL(target‖selected).

    With n-gram distributions p of the target, q of the raw corpus and s of the selected texts, each KL divergence is
    Σ p · (ln(p + 1e-8) - ln(q + 1e-8)). The paper (its KL reduction, for one target) states no constant for empty
    buckets; using the one of the log ratio is our choice. The terms in ln(p + 1e-8) cancel.

    Args:
        target: n-gram counts of the target [buckets], or its probabilities (see `pooled_target`).
        raw: int64[buckets], n-gram counts of the raw corpus.
        selected: int64[buckets], n-gram counts of the selected texts.

    Returns:
        Nats per n-gram of the target; larger is better, 0 if nothing was gained.

    Raises:
        ValueError: one of the three has no n-grams.
    """
    share = _probabilities(target, "target")
    before = np.log(_probabilities(raw, "raw corpus") + EPSILON)
    after = np.log(_probabilities(selected, "selection") + EPSILON)
    return float(share @ (after - before))


def _probabilities(
    counts: NDArray[np.int64] | NDArray[np.float64], what: str, smoothing: float = 0.0
) -> NDArray[np.float64]:
    """Counts divided by their sum, after adding `smoothing` to each."""
    if smoothing < 0:
        raise ValueError(f"smoothing must not be negative, not {smoothing}")
    if counts.sum() <= 0:
        raise ValueError(f"the {what} has no n-grams: it is empty, or its texts hold nothing but white space")
    smoothed = counts + smoothing
    return smoothed / smoothed.sum()
