"""The linear head of `classifier` on vectors that are given, instead of on n-grams.

The objective is that of `classifier`: the mean logistic loss, in which both classes weigh one half, plus l2 / 2 ·
|weights|², the bias being free; minimised with L-BFGS, with sums in a fixed order.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import constant
from .classifier import class_shares, minimum


def train_on_vectors(
    vectors: NDArray[np.float32], positive: NDArray[np.bool_], l2: float, iterations: int
) -> NDArray[np.float64]:
    """Fit the weights of the dimensions.

    Args:
        vectors: float32[n, d].
        positive: bool[n], the class; both must occur.
        l2: strength of the regularisation, > 0.
        iterations: at most so many steps.

    Returns:
        float64[d + 1]: weights, and the bias.

    Raises:
        ValueError: a class has no documents.
    """
    signs, shares = class_shares(positive)
    rows = constant(np.ascontiguousarray(vectors, np.float32))

    def objective(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        gradient = np.empty(len(weights))
        return _objective(rows, signs, shares, l2, weights, gradient), gradient

    return minimum(objective, np.zeros(vectors.shape[1] + 1), iterations)


@numba.njit(nogil=True, cache=True)
def vector_log_odds(vectors: Any, weights: Any) -> Any:
    """Log-odds that documents are of the positive class, were both classes as likely, in a fixed order of sums.

    vectors: float32[n, d]; weights: float64[d + 1], of `train_on_vectors`. Returns float64[n], nats.
    """
    odds = np.empty(vectors.shape[0])
    for i in range(vectors.shape[0]):
        total = 0.0
        for j in range(vectors.shape[1]):
            total += vectors[i, j] * weights[j]
        odds[i] = total + weights[vectors.shape[1]]
    return odds


@numba.njit(nogil=True, cache=True)
def _objective(vectors: Any, signs: Any, shares: Any, l2: Any, weights: Any, gradient: Any) -> Any:
    """Return the loss and fill its gradient."""
    bias = gradient.size - 1
    loss = 0.0
    for j in range(bias):
        gradient[j] = l2 * weights[j]
        loss += 0.5 * l2 * weights[j] * weights[j]
    gradient[bias] = 0.0
    for i in range(signs.size):
        odds = 0.0
        for j in range(bias):
            odds += vectors[i, j] * weights[j]
        margin = signs[i] * (odds + weights[bias])
        tail = np.exp(-abs(margin))
        loss += shares[i] * (np.log1p(tail) + max(-margin, 0.0))
        slope = -shares[i] * signs[i] * (tail if margin > 0 else 1.0) / (1.0 + tail)
        for j in range(bias):
            gradient[j] += slope * vectors[i, j]
        gradient[bias] += slope
    return loss
