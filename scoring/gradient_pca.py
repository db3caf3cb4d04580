"""Projections of gradients on what gradients of a sample have most of: PCA in place of LoGra's random start.

LoGra (Choe et al. 2024, https://arxiv.org/abs/2405.13954) takes the first eigenvectors of the covariances of what a
layer reads and of the derivatives by what it gives, over tokens. Here they are those of GᵀG and GGᵀ, with G a window's
gradient, of length one: tokens whose parts cancel do not count, and every window counts the same. Of the products of
both sides those are kept whose eigenvalues have the largest product, instead of a rectangle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .causal_model import CausalModel
from .gradient_model import differentiate
from .gradient_projection import LayerProjection, Side
from .gradient_recorder import Recorder, hook_once
from .token_batches import one_library_thread
from .token_sequences import TokenSequences
from .windows import Windows, gather_batch, rows_within

if TYPE_CHECKING:
    import torch

Float64 = NDArray[np.float64]

_BATCH_TOKENS = 1024
"""Tokens whose windows' gradients are whole at a time."""


class _SideRecorder(Recorder):
    """Adds up GᵀG and GGᵀ of windows' gradients of length one: two matrices in float64 for each layer."""

    def __init__(
        self, names: set[str], shape: tuple[int, int], sums: dict[str, tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        super().__init__(names, shape)
        self.sums = sums

    def prepared(self, name: str, read: torch.Tensor) -> torch.Tensor:
        return read

    def add(self, name: str, inputs: torch.Tensor, slope: torch.Tensor) -> None:
        gradients = slope.float().transpose(1, 2) @ inputs.float()
        squares = gradients.square().sum((1, 2), keepdim=True)
        gradients = gradients / squares.clamp_min(1e-30).sqrt()
        flat, across = gradients.flatten(0, 1), gradients.transpose(0, 1).flatten(1)
        found = (flat.T @ flat).double(), (across @ across.T).double()
        known = self.sums.get(name)
        self.sums[name] = found if known is None else (known[0] + found[0], known[1] + found[1])


def gradient_sides(
    model: CausalModel, layers: Mapping[str, tuple[int, int]], sequences: TokenSequences, windows: Windows
) -> dict[str, tuple[Float64, Float64]]:
    """Return the mean of GᵀG and of GGᵀ over windows, for each layer.

    Holds both, and the gradients of _BATCH_TOKENS' windows by one layer.

    Args:
        model: on its device.
        layers: numbers read and given, by name; not the head.
        sequences: documents.
        windows: of these, at least one.

    Returns:
        By layer float64[inputs, inputs] and [outputs, outputs], both of trace one where there is a gradient.
    """
    hook_once(model.module)
    sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    rows = rows_within(int(windows.inputs.max()), _BATCH_TOKENS)
    with one_library_thread(model.device):
        for begin in range(0, len(windows), rows):
            chosen = np.arange(begin, min(begin + rows, len(windows)))
            batch = gather_batch(sequences.tokens, sequences.offsets, windows, chosen)
            height, width = batch.inputs.shape
            differentiate(model, batch, _SideRecorder(set(layers), (height, width), sums))
    n = len(windows)
    return {name: (sums[name][0].cpu().numpy() / n, sums[name][1].cpu().numpy() / n) for name in layers}


def pca_projection(inputs: Float64, outputs: Float64, size: int) -> LayerProjection:
    """Return the projection of a layer's gradient on `size` products of eigenvectors, or fewer where it is smaller.

    Args:
        inputs: float64[n, n], mean of GᵀG.
        outputs: float64[m, m], mean of GGᵀ.
        size: numbers that are kept, those with the largest products of eigenvalues.
    """
    (of_inputs, first), (of_outputs, second) = _eigenvectors(inputs), _eigenvectors(outputs)
    energy = np.outer(of_outputs, of_inputs).ravel()
    chosen = np.argsort(-energy, kind="stable")[:size]
    rows, columns = np.divmod(chosen, len(of_inputs))
    height, width = int(rows.max()) + 1, int(columns.max()) + 1
    sides = [
        Side(len(vectors), kept, np.ascontiguousarray(vectors[:, :kept], np.float32))
        for vectors, kept in ((first, width), (second, height))
    ]
    order = (rows * width + columns)[:, None]
    return LayerProjection(sides[0], sides[1], len(chosen), order, np.ones((len(chosen), 1), np.float32))


def _eigenvectors(matrix: Float64) -> tuple[Float64, Float64]:
    """Return eigenvalues in falling order, and eigenvectors in columns, each with its largest number above 0."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(matrix))]
    return values, vectors * np.where(largest < 0, -1.0, 1.0)
