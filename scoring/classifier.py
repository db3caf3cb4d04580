"""A linear classifier of hashed word n-grams: how much a text is like a target, and unlike the corpus.

This is the quality filter of GPT-3 (Brown et al. 2020, appendix A) and DCLM (Li et al. 2024, arXiv 2406.11794: fastText
on words and pairs of words): logistic regression of documents of a target against documents of the corpus. Of
fastText's two layers only the linear function of the n-grams is kept, which the two amount to. A document's feature of
a bucket is the square root of the bucket's share in its n-grams, so that documents of any length have norm one and
frequent words do not drown the others (fastText: the share itself).

The objective is the mean logistic loss, in which both classes weigh one half, plus l2 / 2 · |weights|²; the bias is
free. It is minimised with L-BFGS (Liu and Nocedal 1989) on all documents, with sums in a fixed order: the result is a
pure function of the documents in their order, and swapping the classes changes signs only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .token_sample import bucket_of, extended

MEMORY = 10
"""Pairs of steps and changes of the gradient that L-BFGS keeps, 16 bytes per bucket each."""

TOLERANCE = 1e-5
"""Norm of the gradient at which it stops."""

_U64 = np.uint64


@dataclass
class Features:
    """Features of n documents, those of document i from starts[i] to starts[i + 1].

    starts: int64[n + 1]; buckets: int32[m], each at most once in a document; values: float32[m], of norm one.
    """

    starts: NDArray[np.int64]
    buckets: NDArray[np.int32]
    values: NDArray[np.float32]


def document_features(offsets: NDArray[np.int64], words: NDArray[np.uint64], ngrams: int, buckets: int) -> Features:
    """Count the hashed n-grams of documents.

    Args:
        offsets: int64[n + 1]; the tokens of document i are words[offsets[i]:offsets[i + 1]].
        words: uint64[offsets[n]], see `token_sample.words_of`.
        ngrams: longest order, >= 1; all orders from 1 on count.
        buckets: their number, 1 to 2**31.

    Returns:
        Features; 8 bytes for each bucket of a document, at most `ngrams` for every token.
    """
    most = ngrams * len(words)
    features = Features(np.zeros(len(offsets), np.int64), np.empty(most, np.int32), np.empty(most, np.float32))
    counts = np.zeros(buckets, np.int32)
    _count(offsets, words, ngrams, counts, features.starts, features.buckets, features.values)
    used = int(features.starts[-1])
    return Features(features.starts, features.buckets[:used].copy(), features.values[:used].copy())


def train(
    features: Features, positive: NDArray[np.bool_], buckets: int, l2: float, iterations: int
) -> NDArray[np.float64]:
    """Fit the weights of the n-grams.

    Args:
        features: of n documents.
        positive: bool[n], the class; both must occur.
        buckets: their number.
        l2: strength of the regularisation, > 0.
        iterations: at most so many steps.

    Returns:
        float64[buckets + 1]: weights, and the bias.

    Raises:
        ValueError: a class has no documents.
    """
    signs, shares = class_shares(positive)

    def objective(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        gradient = np.empty(buckets + 1)
        loss = _objective(features.starts, features.buckets, features.values, signs, shares, l2, weights, gradient)
        return loss, gradient

    return minimum(objective, np.zeros(buckets + 1), iterations)


def log_odds(
    offsets: NDArray[np.int64],
    words: NDArray[np.uint64],
    rows: NDArray[np.bool_],
    weights: NDArray[np.float64],
    ngrams: int,
) -> NDArray[np.float64]:
    """Log-odds that documents are of the positive class, were both classes as likely.

    Args:
        offsets: int64[n + 1]; the tokens of document i are words[offsets[i]:offsets[i + 1]].
        words: uint64[offsets[n]], see `token_sample.words_of`.
        rows: bool[n], documents to score.
        weights: float64[buckets + 1], of `train`.
        ngrams: longest order.

    Returns:
        float64[n], nats; 0 for other documents, the bias for those without tokens.
    """
    odds = np.zeros(len(rows))
    _score(offsets, words, np.ascontiguousarray(rows), ngrams, np.zeros(len(weights) - 1, np.int32), weights, odds)
    return odds


def area_under_curve(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Probability that a positive has the higher score of the two, ties counted half (Hanley and McNeil 1982).

    Args:
        positive: float64[n], scores, n >= 1.
        negative: float64[m], scores, m >= 1.
    """
    ascending = np.sort(negative)
    below = np.searchsorted(ascending, positive, "left") + np.searchsorted(ascending, positive, "right")
    return float(below.sum() / (2 * len(positive) * len(negative)))


def class_shares(positive: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sign of each document's class, and its share in the mean loss, in which both classes weigh one half.

    positive: bool[n]. Returns float64[n] twice. Raises ValueError where a class has no documents.
    """
    positives = int(np.count_nonzero(positive))
    if positives in (0, len(positive)):
        raise ValueError("both classes need documents")
    return np.where(positive, 1.0, -1.0), np.where(positive, 0.5 / positives, 0.5 / (len(positive) - positives))


def minimum(
    objective: Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]],
    point: NDArray[np.float64],
    iterations: int,
) -> NDArray[np.float64]:
    """Minimise a smooth convex function with L-BFGS, halving steps until they gain enough (Armijo).

    objective: value and gradient at a point, float64[n]; point: float64[n], where to begin; iterations: at most.
    """
    loss, gradient = objective(point)
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for _ in range(iterations):
        if _dot(gradient, gradient) < TOLERANCE**2:
            break
        direction = _quasi_newton(gradient, pairs)
        slope = _dot(gradient, direction)
        step = 1.0
        while step > 1e-10:
            moved = point + step * direction
            new_loss, new_gradient = objective(moved)
            if new_loss <= loss + 1e-4 * step * slope:
                break
            step /= 2
        else:
            break
        change = (moved - point, new_gradient - gradient)
        if _dot(*change) > 0:
            pairs = [*pairs[1 - MEMORY :], change]
        point, loss, gradient = moved, new_loss, new_gradient
    return point


def _quasi_newton(
    gradient: NDArray[np.float64], pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> NDArray[np.float64]:
    """Direction of descent: the two loops of L-BFGS over pairs of (step, change of the gradient)."""
    direction = -gradient
    projections = []
    for step, change in reversed(pairs):
        projection = _dot(step, direction) / _dot(step, change)
        direction -= projection * change
        projections.append(projection)
    if pairs:
        step, change = pairs[-1]
        direction *= _dot(step, change) / _dot(change, change)
    for (step, change), projection in zip(pairs, reversed(projections), strict=True):
        direction += (projection - _dot(change, direction) / _dot(step, change)) * step
    return direction


@numba.njit(nogil=True, cache=True)
def _dot(first: Any, second: Any) -> Any:
    """Inner product in one order; that of NumPy depends on the number of threads."""
    total = 0.0
    for i in range(first.size):
        total += first[i] * second[i]
    return total


@numba.njit(nogil=True, cache=True)
def _add(words: Any, start: Any, stop: Any, ngrams: Any, counts: Any) -> Any:
    """Count the n-grams of one document; returns how many there are."""
    buckets = _U64(counts.size)
    total = 0
    for place in range(start, stop):
        ngram = _U64(0)
        for k in range(min(ngrams, place - start + 1)):
            ngram = extended(ngram, words[place - k])
            counts[bucket_of(ngram, buckets)] += 1
            total += 1
    return total


@numba.njit(nogil=True, cache=True)
def _count(
    offsets: Any, words: Any, ngrams: Any, counts: Any, starts: Any, found_buckets: Any, found_values: Any
) -> None:
    """Fill features, buckets in the order of their first n-gram; counts are zero before and after."""
    buckets = _U64(counts.size)
    at = 0
    for i in range(offsets.size - 1):
        total = _add(words, offsets[i], offsets[i + 1], ngrams, counts)
        for place in range(offsets[i], offsets[i + 1]):
            ngram = _U64(0)
            for k in range(min(ngrams, place - offsets[i] + 1)):
                ngram = extended(ngram, words[place - k])
                bucket = bucket_of(ngram, buckets)
                if counts[bucket] > 0:
                    found_buckets[at] = bucket
                    found_values[at] = np.sqrt(counts[bucket] / total)
                    counts[bucket] = 0
                    at += 1
        starts[i + 1] = at


@numba.njit(nogil=True, cache=True)
def _score(offsets: Any, words: Any, rows: Any, ngrams: Any, counts: Any, weights: Any, odds: Any) -> None:
    buckets = _U64(counts.size)
    for i in range(rows.size):
        if not rows[i]:
            continue
        total = _add(words, offsets[i], offsets[i + 1], ngrams, counts)
        product = 0.0
        for place in range(offsets[i], offsets[i + 1]):
            ngram = _U64(0)
            for k in range(min(ngrams, place - offsets[i] + 1)):
                ngram = extended(ngram, words[place - k])
                bucket = bucket_of(ngram, buckets)
                if counts[bucket] > 0:
                    product += np.sqrt(float(counts[bucket])) * weights[bucket]
                    counts[bucket] = 0
        odds[i] = weights[counts.size] + product / np.sqrt(max(total, 1))


@numba.njit(nogil=True, cache=True)
def _objective(
    starts: Any, buckets: Any, values: Any, signs: Any, shares: Any, l2: Any, weights: Any, gradient: Any
) -> Any:
    """Return the loss and fill its gradient."""
    bias = gradient.size - 1
    loss = 0.0
    for j in range(bias):
        gradient[j] = l2 * weights[j]
        loss += 0.5 * l2 * weights[j] * weights[j]
    gradient[bias] = 0.0
    for i in range(signs.size):
        odds = weights[bias]
        for at in range(starts[i], starts[i + 1]):
            odds += values[at] * weights[buckets[at]]
        margin = signs[i] * odds
        tail = np.exp(-abs(margin))
        loss += shares[i] * (np.log1p(tail) + max(-margin, 0.0))
        slope = -shares[i] * signs[i] * (tail if margin > 0 else 1.0) / (1.0 + tail)
        for at in range(starts[i], starts[i + 1]):
            gradient[buckets[at]] += slope * values[at]
        gradient[bias] += slope
    return loss
