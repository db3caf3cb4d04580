"""Second moments of gradient features, layer by layer: the curvature that influence is preconditioned with.

The empirical Fisher of projected gradients, a matrix for each layer as in LoGra (Choe et al. 2024,
https://arxiv.org/abs/2405.13954), or one for all layers as in TRAK (Park et al. 2023, https://arxiv.org/abs/2303.14186).
Both the features and the query stay as they are stored; only the query is preconditioned.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

DAMPING = 0.1
"""Share of a block's mean eigenvalue that is added to all, as in LogIX. For a language model 1 foretold losses as well,
and found less of a hidden domain; for a softmax head it foretold better (tests/benchmarks/linear_datamodelling.py)."""

_ROWS = 4096
"""Features that are in float32 at a time."""


@dataclass
class GradientCovariance:
    """Sums of outer products of n features, over blocks of their coordinates: 8 bytes for each pair in a block.

    Merged by adding; sums of floats, so that a fixed order of merging gives the same bits.
    """

    sums: list[Float64]
    count: int = 0

    @classmethod
    def of(cls, features: NDArray[np.floating], blocks: Sequence[int]) -> Self:
        """Sum up features [n, d]. blocks: sizes of the blocks, adding up to d; [d]: all coordinates together."""
        found = cls([np.zeros((size, size)) for size in blocks])
        if features.shape[1] != sum(blocks):
            raise ValueError(f"blocks of {sum(blocks):,} numbers are not those of features of {features.shape[1]:,}")
        for begin in range(0, len(features), _ROWS):
            rows = features[begin : begin + _ROWS].astype(np.float64)
            for total, block in zip(found.sums, found._slices(), strict=True):
                total += rows[:, block].T @ rows[:, block]
        found.count = len(features)
        return found

    def merged(self, other: Self) -> Self:
        """Return the sums of both."""
        pairs = zip(self.sums, other.sums, strict=True)
        return type(self)([first + second for first, second in pairs], self.count + other.count)

    def damped(self, damping: float) -> list[Float64]:
        """Return each block's mean with `damping` times its mean eigenvalue on the diagonal.

        Raises:
            ValueError: there are no features, or damping is not above 0.
        """
        if not self.count or damping <= 0:
            raise ValueError("a covariance needs features, and a damping above 0")
        blocks = []
        for total in self.sums:
            mean = total / self.count
            level = float(np.trace(mean)) / len(mean) or 1.0  # a layer without gradients has nothing to precondition
            blocks.append(mean + damping * level * np.eye(len(mean)))
        return blocks

    def preconditioned(self, queries: NDArray[np.floating], damping: float = DAMPING) -> Float64:
        """Return (F + λ)⁻¹ q for each query, block by block.

        Args:
            queries: float[q, d].
            damping: λ as a share of the mean eigenvalue of each block's F.

        Returns:
            float64[q, d].
        """
        parts = [
            np.linalg.solve(matrix, queries[:, block].astype(np.float64).T).T
            for matrix, block in zip(self.damped(damping), self._slices(), strict=True)
        ]
        return np.concatenate(parts, axis=1)

    def whitening(self, damping: float = DAMPING) -> list[Float32]:
        """Return a matrix W for each block with W Wᵀ = (F + λ)⁻¹, so that |φ W|² is the self-influence of φ."""
        return [np.linalg.inv(np.linalg.cholesky(matrix)).T.astype(np.float32) for matrix in self.damped(damping)]

    def _slices(self) -> list[slice]:
        return slices_of([len(total) for total in self.sums])


def self_influence(features: NDArray[np.floating], whitening: Sequence[Float32]) -> Float32:
    """Return φᵀ (F + λ)⁻¹ φ: what training on a document does for its own loss.

    Args:
        features: float[n, d].
        whitening: of `GradientCovariance.whitening`.

    Returns:
        float32[n], nats per unit of step.
    """
    found = np.zeros(len(features), np.float32)
    for begin in range(0, len(features), _ROWS):
        rows = features[begin : begin + _ROWS].astype(np.float32)
        for block, matrix in zip(slices_of([len(m) for m in whitening]), whitening, strict=True):
            found[begin : begin + _ROWS] += np.square(rows[:, block] @ matrix).sum(axis=1)
    return found


def slices_of(sizes: Sequence[int]) -> list[slice]:
    """Return where blocks of these sizes are, one after another."""
    return [slice(begin, end) for begin, end in itertools.pairwise(np.cumsum([0, *sizes]).tolist())]
