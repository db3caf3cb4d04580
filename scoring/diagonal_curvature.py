"""Curvature coordinate by coordinate: for features that hardly correlate, as those of `projection: pca`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .gradient_covariance import DAMPING, slices_of

Float64 = NDArray[np.float64]

_ROWS = 4096


def diagonal_queries(
    features: NDArray[np.floating], queries: NDArray[np.floating], blocks: Sequence[int], damping: float = DAMPING
) -> Float64:
    """Divide queries by the mean square of each coordinate, so that influence is the inner product with a feature.

    Coordinates of `projection: pca` are pairs of eigenvectors, of what a layer reads and of the derivatives by what it
    gives, and their mean squares are what EK-FAC (George et al. 2018, https://arxiv.org/abs/1806.03884) takes for
    eigenvalues; here for the coordinates that are kept. Needs far fewer features than a matrix for each block.

    Args:
        features: float[n, d], gradients of documents, n >= 1.
        queries: float[q, d], gradients of the loss that is to fall.
        blocks: sizes of the layers' blocks, adding up to d.
        damping: share of a block's mean that is added to all of it, above 0.

    Returns:
        float64[q, d].
    """
    means = np.zeros(features.shape[1])
    for begin in range(0, len(features), _ROWS):
        means += np.square(features[begin : begin + _ROWS].astype(np.float64)).sum(axis=0) / len(features)
    for block in slices_of(blocks):
        means[block] += damping * (means[block].mean() or 1.0)  # a layer without gradients has nothing to precondition
    return queries / means
