"""The linear datamodelling score: how well sums of influences foretell what training on other documents does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits, keyed_uniform

Float64 = NDArray[np.float64]

RESAMPLES = 1000
_TOGETHER = 1 << 23
"""Numbers of resamples that are in memory at a time: 64 MB."""


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def random_halves(keys: NDArray[np.uint64], subsets: int, seed: int) -> NDArray[np.bool_]:
    """Return random halves of documents: bool[subsets, n], each of n // 2, apart from each other.

    A function of seed and keys, whatever the order of these. keys: uint64[n], no two alike.
    """
    taken = np.zeros((subsets, len(keys)), np.bool_)
    for number in range(subsets):
        order = np.argsort(keyed_bits(seed, f"datamodelling/{number}", keys), kind="stable")
        taken[number, order[: len(keys) // 2]] = True
    return taken


def datamodelling_score(taken: NDArray[np.bool_], influences: Float64, losses: Float64) -> Interval:
    """Score influences by how well they foretell the losses of models that were trained on subsets of the documents.

    For each example, the sum of the influences of a subset's documents is compared with the negative loss of the model
    trained on these, over the subsets, by Spearman's rank correlation; the mean over examples is the score. Positive
    influence is helpful and no sign is lost: what is below zero foretells the wrong way.

    The interval is that of a bootstrap which draws subsets and examples anew (percentiles). The same draws serve all
    scores over the same subsets. It knows nothing of the chance in one training, which lowers the score of any method.

    Source: Ilyas et al. 2022 (https://arxiv.org/abs/2202.00622); as a measure of influence Park et al. 2023, TRAK
    (https://arxiv.org/abs/2303.14186).

    Args:
        taken: bool[s, n], which documents each of s >= 3 models was trained on.
        influences: float64[n, m] on each of m examples, or [n, 1]: the same on all.
        losses: float64[s, m], of each model on each example.

    Returns:
        From -1 to 1; 0 for influences that say nothing, as those that are all the same.
    """
    foretold = np.broadcast_to(taken.astype(np.float64) @ influences, losses.shape)
    return mean_rank_correlation(foretold, -losses)


def mean_rank_correlation(first: Float64, second: Float64) -> Interval:
    """Return the mean over columns of Spearman's correlation over rows, with its bootstrap interval over both.

    first, second: float64[s, m]. Equal values share their ranks; a column that is constant in one of the two counts 0.
    """
    rows, columns = first.shape
    tables = [_rank_table(one) for one in (first, second)]
    value = float(_weighted_correlations(tables, np.ones((1, rows))).mean())
    means, together = [], max(1, _TOGETHER // (rows * columns))
    of_rows, of_columns = (_draws(name, count) for name, count in (("subsets", rows), ("examples", columns)))
    for begin in range(0, RESAMPLES, together):
        found = _weighted_correlations(tables, of_rows[begin : begin + together])
        means.append((found * of_columns[begin : begin + together]).sum(axis=1) / columns)
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _draws(name: str, count: int) -> Float64:
    """Return how often each of `count` things is drawn, with replacement, float64[RESAMPLES, count]; keyed."""
    keys = np.arange(RESAMPLES * count, dtype=np.uint64)
    drawn = (keyed_uniform(0, f"bootstrap {name}", keys) * count).astype(np.int64).reshape(RESAMPLES, count)
    flat = (drawn + count * np.arange(RESAMPLES)[:, None]).ravel()
    return np.bincount(flat, minlength=RESAMPLES * count).reshape(RESAMPLES, count).astype(np.float64)


def _rank_table(values: Float64) -> Float64:
    """Return for each column, and row i of it, what each row j adds to the rank of i: float64[m, i, j]."""
    columns = np.ascontiguousarray(values.T)
    below, equal = (compare(columns[:, None, :], columns[:, :, None]) for compare in (np.less, np.equal))
    return below + 0.5 * equal


def _weighted_correlations(tables: list[Float64], weights: Float64) -> Float64:
    """Return the rank correlation of each column where rows count so often: [b, m] of weights [b, s]."""
    total = weights.sum(axis=1)[:, None, None]
    # the ranks of what is drawn are sums over what is drawn
    ranks = [np.tensordot(weights, table, axes=([1], [2])) for table in tables]
    shares = weights[:, None, :] / total
    centred = [one - (one * shares).sum(axis=2, keepdims=True) for one in ranks]
    first, second = ((one * one * shares).sum(axis=2) for one in centred)
    scale = np.sqrt(first * second)
    products = (centred[0] * centred[1] * shares).sum(axis=2)
    return np.asarray(products / np.where(scale > 1e-12, scale, np.inf), np.float64)
