"""Gradients of a linear head on given features, in closed form: softmax regression, and logistic regression.

The gradient of a document's loss by the head's weights is the outer product of its residual p - y and its features, so
that nothing is differentiated, and its norm is the product of theirs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .gradient_projection import LayerProjection

Float32 = NDArray[np.float32]


def with_bias(inputs: NDArray[np.floating]) -> Float32:
    """Return features [n, d] with a column of ones, float32[n, d + 1], for heads with a bias as their last weight."""
    return np.append(inputs, np.ones((len(inputs), 1)), axis=1).astype(np.float32)


def softmax_residuals(inputs: Float32, labels: NDArray[np.integer], weights: NDArray[np.floating]) -> Float32:
    """Return softmax(W x) - onehot(y): the derivatives of each document's loss by its logits.

    Args:
        inputs: float32[n, d].
        labels: int[n], from 0 to c - 1.
        weights: float[c, d].

    Returns:
        float32[n, c].
    """
    logits = inputs.astype(np.float64) @ weights.T.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    residuals = exponentials / exponentials.sum(axis=1, keepdims=True)
    residuals[np.arange(len(labels)), labels] -= 1
    return residuals.astype(np.float32)


def logistic_residuals(inputs: Float32, labels: NDArray[np.integer], weights: NDArray[np.floating]) -> Float32:
    """Return the same for two classes and one logit, wᵀx of class 1.

    Args:
        inputs: float32[n, d].
        labels: int[n], 0 or 1.
        weights: float[d].

    Returns:
        float32[n, 1].
    """
    logits = inputs.astype(np.float64) @ weights.astype(np.float64)
    tail = np.exp(-np.abs(logits))
    probability = np.where(logits >= 0, 1.0, tail) / (1 + tail)
    return (probability - labels)[:, None].astype(np.float32)


def head_gradients(inputs: Float32, residuals: Float32, projection: LayerProjection | None = None) -> Float32:
    """Return each document's gradient by the head's weights [c, d], flattened, or a projection of it.

    Args:
        inputs: float32[n, d].
        residuals: float32[n, c].
        projection: of d inputs and c outputs; None: the whole gradient.

    Returns:
        float32[n, c · d], or [n, size of the projection].
    """
    if projection is not None:
        return projection.of_outer(inputs, residuals)
    return (residuals[:, :, None] * inputs[:, None]).reshape(len(inputs), -1)


def el2n(residuals: Float32) -> Float32:
    """Return |p - y| of each document, float32[n]: the error norm of Paul et al. 2021, to be averaged over early runs.

    Source: https://arxiv.org/abs/2107.07075. Large is hard, or wrongly labelled.
    """
    return np.linalg.norm(residuals, axis=1)


def grand(inputs: Float32, residuals: Float32) -> Float32:
    """Return the norm of each document's gradient, float32[n]: GraNd of the last layer alone, |p - y| · |x|.

    Source: Paul et al. 2021 (https://arxiv.org/abs/2107.07075), over all layers; of the last one as in DeepCore.
    """
    return el2n(residuals) * np.linalg.norm(inputs, axis=1)
