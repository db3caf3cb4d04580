"""Projections of the gradients of linear layers, which are made without the gradients themselves.

The gradient of a layer's weight is the sum over tokens of s aᵀ, with a what the layer reads and s the derivative of
the loss by what it gives. Two matrices turn it into the sum of (Qᵀs)(Pᵀa)ᵀ, of k x k' numbers (LoGra, Choe et al. 2024,
https://arxiv.org/abs/2405.13954); as they are few, more than wanted are made, and these are added up with random signs
in groups (as in FactGraSS, Hu et al. 2025, https://arxiv.org/abs/2505.18976), which is nearer to inner products of the
whole gradients than k x k' alone (see `BLOW_UP`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits

Kind = Literal["random", "coordinates"]

BLOW_UP = 16
"""Numbers of the Kronecker product for each that is stored. Measured on a Llama of two layers, 4,096 dimensions of
221,184: cosines correlate with those of whole gradients by 0.80 without it, 0.83 at 4, 0.86 at 16, for 0.2 of the time
more, and 0.89 at 64, for 0.9; by 0.78 for coordinates. With 1,024 dimensions it is 0.60, 0.67, 0.67 and 0.68."""


@dataclass(frozen=True)
class Side:
    """Projection of a vector of `size` numbers to `kept` of them.

    matrix: float32[size, kept], or None; chosen: int64[kept], coordinates that are kept, each times `scale`, or None.
    Where both are None the vector stays as it is.
    """

    size: int
    kept: int
    matrix: NDArray[np.float32] | None = None
    chosen: NDArray[np.int64] | None = None
    scale: float = 1.0

    def as_matrix(self) -> NDArray[np.float32]:
        """Return it as float32[size, kept]."""
        if self.matrix is not None:
            return self.matrix
        whole = np.zeros((self.size, self.kept), np.float32)
        chosen = np.arange(self.size) if self.chosen is None else self.chosen
        whole[chosen, np.arange(self.kept)] = self.scale
        return whole

    def applied(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project vectors float32[n, size] to [n, kept]."""
        if self.matrix is not None:
            return vectors @ self.matrix
        return vectors if self.chosen is None else vectors[:, self.chosen] * np.float32(self.scale)


@dataclass(frozen=True)
class LayerProjection:
    """Projection of a layer's gradient to `size` numbers.

    inputs, outputs: of what the layer reads and of the derivatives by what it gives; order: int64[size, group], which
    numbers of the product (outputs first, flattened) are added up into one, one past the end where there is none;
    signs: float32[size, group]. None: the product is stored as it is.
    """

    inputs: Side
    outputs: Side
    size: int
    order: NDArray[np.int64] | None = None
    signs: NDArray[np.float32] | None = None

    def of_outer(self, inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project the outer products of outputs and inputs.

        Args:
            inputs: float32[n, inputs.size].
            outputs: float32[n, outputs.size].

        Returns:
            float32[n, size].
        """
        small_inputs, small_outputs = self.inputs.applied(inputs), self.outputs.applied(outputs)
        product = (small_outputs[:, :, None] * small_inputs[:, None]).reshape(len(inputs), -1)
        if self.order is None or self.signs is None:
            return product
        found = np.empty((len(inputs), self.size), np.float32)
        _add_up(product, self.order, self.signs, found)
        return found


@numba.njit(nogil=True, cache=True)
def _add_up(products: Any, order: Any, signs: Any, found: Any) -> None:
    """Add up numbers in groups; those past the end are none."""
    size, group = order.shape
    for i in range(len(products)):
        row = products[i]
        for s in range(size):
            total = np.float32(0)
            for g in range(group):
                if order[s, g] < row.size:
                    total += signs[s, g] * row[order[s, g]]
            found[i, s] = total


def layer_projections(
    shapes: Mapping[str, tuple[int, int]], dimension: int, kind: Kind, seed: int, blow_up: int = BLOW_UP
) -> dict[str, LayerProjection]:
    """Return the projections of layers, to the same number of dimensions each, or fewer where a layer is smaller.

    Inner products are kept in expectation. Each layer's projection depends on seed, its name and the sizes alone.

    Args:
        shapes: by name, how many numbers a layer reads and gives.
        dimension: of all layers together, at least one for each.
        kind: `random`: signs (Rademacher, as TRAK and LESS; Achlioptas 2003); `coordinates`: some of the gradient's own
            coordinates, rows and columns of each weight, with nothing added up, so that functions of single
            coordinates can be applied to them.
        seed: of both.
        blow_up: how many numbers are added up into one, about; 1: none. Not for `coordinates`.

    Raises:
        ValueError: there are fewer dimensions than layers.
    """
    if dimension < len(shapes):
        raise ValueError(f"{dimension:,} dimensions are fewer than the {len(shapes):,} layers")
    return {
        name: _layer_projection(name, *shape, size, kind, seed, blow_up if kind == "random" else 1)
        for (name, shape), size in zip(shapes.items(), shares(dimension, len(shapes)), strict=True)
    }


def shares(dimension: int, layers: int) -> list[int]:
    """Return how many of all dimensions each layer gets: the same, and one more for the first ones."""
    share, more = divmod(dimension, max(layers, 1))
    return [share + (i < more) for i in range(layers)]


def _layer_projection(
    name: str, inputs: int, outputs: int, size: int, kind: Kind, seed: int, blow_up: int
) -> LayerProjection:
    if inputs * outputs <= size:
        return LayerProjection(Side(inputs, inputs), Side(outputs, outputs), inputs * outputs)
    wanted = size * blow_up
    rows = min(outputs, max(1, math.isqrt(wanted), wanted // inputs))
    columns = min(inputs, max(1, wanted // rows))
    sides = [
        _side(f"{name}/inputs", inputs, columns, kind, seed),
        _side(f"{name}/outputs", outputs, rows, kind, seed),
    ]
    product = rows * columns
    if product <= size:
        return LayerProjection(sides[0], sides[1], product)
    group = -(-product // size)
    places = np.full(size * group, product)
    places[:product] = np.argsort(keyed_bits(seed, f"{name}/order", np.arange(product, dtype=np.uint64)), kind="stable")
    order = np.sort(places.reshape(group, size).T, axis=1)
    signs = _signs(f"{name}/signs", size * group, seed).reshape(size, group)
    return LayerProjection(sides[0], sides[1], size, order, signs)


def _side(name: str, size: int, kept: int, kind: Kind, seed: int) -> Side:
    if kept == size:
        return Side(size, kept)
    if kind == "random":
        return Side(size, kept, _signs(name, size * kept, seed).reshape(size, kept) / np.float32(math.sqrt(kept)))
    drawn = np.argsort(keyed_bits(seed, name, np.arange(size, dtype=np.uint64)), kind="stable")[:kept]
    return Side(size, kept, chosen=np.sort(drawn), scale=math.sqrt(size / kept))


def _signs(name: str, count: int, seed: int) -> NDArray[np.float32]:
    """Return 1 and -1, float32[count]."""
    words = keyed_bits(seed, name, np.arange(-(-count // 64), dtype=np.uint64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=count)
    return 1 - 2 * bits.astype(np.float32)
