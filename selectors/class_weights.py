"""Weights of classes from their sizes: inverse frequency, its root, effective number of samples.

Counts per class merge by addition. Clusters, topics, languages or groups may stand for classes.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Scale = Literal["documents", "classes"]


def inverse_frequency(counts: NDArray[np.int64], power: float = 1.0, scale: Scale = "documents") -> Float64:
    """Weigh classes by 1 / size**power.

    Args:
        counts: documents per class, int64[classes].
        power: 1 is N / (C n), the share that makes all classes count alike; 0.5 the milder inverse root; 0 equal.
        scale: "documents": mean one over documents; "classes": mean one over classes, so the sum is their number.

    Returns:
        float64[classes]; 0 for a class without documents, which is left out of the mean.

    Raises:
        ValueError: a count is negative, all are zero, or the power is negative or not finite.
    """
    if not 0 <= power < math.inf:
        raise ValueError(f"the power is at least 0, not {power}")
    filled, size = _filled(counts)
    return _scaled(filled, size, -power * np.log(size), scale)


def inverse_root(counts: NDArray[np.int64], scale: Scale = "documents") -> Float64:
    """Weigh classes by 1 / sqrt(size).

    Args:
        counts: documents per class, int64[classes].
        scale: see `inverse_frequency`.

    Returns:
        float64[classes].
    """
    return inverse_frequency(counts, 0.5, scale)


def effective_number(counts: NDArray[np.int64], beta: float, scale: Scale = "documents") -> Float64:
    """Weigh classes by one over their effective number of samples, (1 - β**n) / (1 - β).

    Args:
        counts: documents per class, int64[classes].
        beta: from 0 (equal weights) to 1 (inverse frequency). Beyond 1 / (1 - β) documents count no more. Published:
            0.9 to 0.9999; `natural_beta` needs no tuning.
        scale: see `inverse_frequency`; the paper scales over "classes".

    Returns:
        float64[classes]; 0 for a class without documents.

    Raises:
        ValueError: beta is not from 0 to 1, a count is negative, or all are zero.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is from 0 to 1, not {beta}")
    if beta in (0.0, 1.0):
        return inverse_frequency(counts, beta, scale)
    filled, size = _filled(counts)
    return _scaled(filled, size, -np.log(-np.expm1(size * math.log(beta))), scale)


def natural_beta(documents: int) -> float:
    """Give β = (N - 1) / N, for N documents: a class counts for less only as it nears the size of the corpus.

    Args:
        documents: N >= 1.

    Returns:
        From 0 to 1.
    """
    return (documents - 1) / documents


def deferred_beta(epoch: float, beta: float, start: float) -> float:
    """Defer reweighting: β = 0, equal weights, before an epoch, and β from it on.

    Args:
        epoch: from 0.
        beta: for `effective_number`; published: 0.9999.
        start: first epoch with weights; published: 160 of 200.

    Returns:
        0 or beta.

    Source: Cao et al., LDAM-DRW, NeurIPS 2019.
    """
    return beta if epoch >= start else 0.0


def _filled(counts: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Float64]:
    if not (counts >= 0).all() or not counts.any():
        raise ValueError("classes need counts of at least 0, and one document at the least")
    filled = counts > 0
    return filled, counts[filled].astype(np.float64)


def _scaled(filled: NDArray[np.bool_], size: Float64, log_weight: Float64, scale: Scale) -> Float64:
    weight = np.exp(log_weight - log_weight.max())
    mean = (size @ weight) / size.sum() if scale == "documents" else weight.mean()
    weights = np.zeros(filled.size)
    weights[filled] = weight / mean
    return weights
