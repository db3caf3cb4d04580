"""TRAK: influence by a linear model of projected gradients of the model's output, averaged over several models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def trak_scores(
    features: Sequence[NDArray[np.floating]],
    queries: Sequence[NDArray[np.floating]],
    output_to_loss: Sequence[NDArray[np.floating]],
    regularisation: float = 0.0,
) -> Float64:
    """Score documents for queries: positive where a document raises the query's output.

    With K = ΦᵀΦ + regularisation, the score is the mean over models of φ K⁻¹ φ_q, times the mean over models of how
    far a document is from being learnt, 1 - p. Two means, each taken for itself, as in the authors' code.

    Source: Park et al. 2023 (https://arxiv.org/abs/2303.14186).

    Args:
        features: for each model float[n, d], projected gradients of documents' output, the margin log(p / (1 - p)).
        queries: for each model float[q, d], the same of queries.
        output_to_loss: for each model float[n], 1 - p of each document.
        regularisation: added to the diagonal of K; 0 needs at least d independent documents.

    Returns:
        float64[n, q].
    """
    products = np.zeros((len(features[0]), len(queries[0])))
    for documents, wanted in zip(features, queries, strict=True):
        rows = documents.astype(np.float64)
        kernel = rows.T @ rows + regularisation * np.eye(rows.shape[1])
        products += rows @ np.linalg.solve(kernel, wanted.astype(np.float64).T)
    unlearnt = np.mean([np.asarray(one, np.float64) for one in output_to_loss], axis=0)
    return products / len(features) * unlearnt[:, None]
