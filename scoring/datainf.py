"""DataInf: curvature from the average of the inverses of single gradients' outer products, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .gradient_covariance import slices_of

Float64 = NDArray[np.float64]

DAMPING = 0.1
"""As in the authors' code."""

_ROWS = 4096


def datainf_queries(
    features: NDArray[np.floating], queries: NDArray[np.floating], blocks: Sequence[int], damping: float = DAMPING
) -> Float64:
    """Precondition queries, so that a document's influence is the inner product with its feature.

    For each block, with λ = damping · mean of g²: h(q) = mean over i of (q - g_i <q, g_i> / (λ + |g_i|²)) / λ, which is
    the mean of (g_i g_iᵀ + λ)⁻¹ q (Sherman-Morrison). The inverse of a mean is replaced by the mean of inverses; the
    error grows with the size of a block.

    A positive product is helpful, as everywhere in Tamis: the authors' code returns its negative.

    Source: Kwon et al. 2024 (https://arxiv.org/abs/2310.00902).

    Args:
        features: float[n, d], gradients of documents, n >= 1.
        queries: float[q, d], gradients of the loss that is to fall.
        blocks: sizes of the layers' blocks, adding up to d.
        damping: above 0.

    Returns:
        float64[q, d].
    """
    found = np.zeros(queries.shape)
    level = [np.finfo(np.float64).tiny] * len(blocks)
    slices, count = slices_of(blocks), len(features)
    for begin in range(0, count, _ROWS):
        squares = np.square(features[begin : begin + _ROWS].astype(np.float64)).sum(axis=0)
        level = [old + damping * squares[block].mean() / count for old, block in zip(level, slices, strict=True)]
    for begin in range(0, count, _ROWS):
        rows = features[begin : begin + _ROWS].astype(np.float64)
        for shift, block in zip(level, slices, strict=True):
            part = rows[:, block]
            shares = (queries[:, block] @ part.T) / (shift + np.square(part).sum(axis=1))
            found[:, block] -= shares @ part / (count * shift)
    for shift, block in zip(level, slices, strict=True):
        found[:, block] += queries[:, block] / shift
    return found
