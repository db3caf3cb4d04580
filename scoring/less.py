"""LESS: cosines of documents' steps with the gradients of a few examples, over checkpoints and subtasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def shares_of(rates: Sequence[float]) -> Float64:
    """Return learning rates of checkpoints as shares that add up to one; raises ValueError unless all are positive."""
    found = np.asarray(rates, np.float64)
    if not len(found) or (found <= 0).any() or not np.isfinite(found).all():
        raise ValueError("learning rates are positive numbers")
    return found / found.sum()


def unit_rows(features: NDArray[np.floating]) -> Float64:
    """Return features [n, d], each of length one; zeros stay zeros."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def less_scores(
    features: Sequence[NDArray[np.floating]],
    subtasks: Sequence[Sequence[NDArray[np.floating]]],
    rates: Sequence[float],
) -> Float64:
    """Score documents: the largest over subtasks of the mean over its examples of summed cosines.

    Without the lengths of one, short documents win, whose mean gradients are the largest.

    Source: Xia et al. 2024 (https://arxiv.org/abs/2402.04333). Subtasks may differ in their number of examples, which
    the authors' code does not allow.

    Args:
        features: for each checkpoint float[n, d]; in the paper Adam's steps, see `adam_direction`.
        subtasks: for each subtask and checkpoint float[m, d], plain gradients of its examples, in the same projection.
        rates: learning rate of each checkpoint.

    Returns:
        float64[n], from -1 to 1.
    """
    shares = shares_of(rates)
    by_subtask = [
        sum(
            share * (unit_rows(rows) @ unit_rows(examples).mean(axis=0))
            for share, rows, examples in zip(shares, features, checkpoints, strict=True)
        )
        for checkpoints in subtasks
    ]
    return np.max(by_subtask, axis=0)
