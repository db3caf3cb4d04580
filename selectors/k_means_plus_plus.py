"""k-means++ sampling: pick items at random, the likelier the farther they are from those that are picked."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits
from .greedy import Float64
from .k_center import KCenter

_U64 = np.uint64


class KMeansPlusPlus(KCenter):
    """The next item is drawn with probability proportional to its squared distance to the nearest taken one.

    The first one is drawn uniformly, unless some are given. `gains` are the squared distances divided by standard
    exponential noise, a pure function of (seed, name, key, number of the pick); the largest of these is such a draw.

    Source: Arthur and Vassilvitskii 2007, k-means++: the advantages of careful seeding; as a choice of documents
        bmdal's KMeansPP (https://arxiv.org/abs/2203.09410).
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        keys: NDArray[np.uint64],
        seed: int,
        name: str,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Begin with nothing taken.

        Args:
            vectors: float32[n, d].
            keys: uint64[n], of the documents; copies of one share key and noise.
            seed: of the run.
            name: of the step.
            weights: float32[n], an item is drawn as if it were there so often; default: all are 1.
        """
        super().__init__(vectors)
        self.weights = np.ones(len(vectors), np.float32) if weights is None else weights
        self.bits = keyed_bits(seed, name, keys)
        self.picks = 0

    def gains(self) -> Float64:
        """Return squared distances, perturbed; infinite distances as if all were the same."""
        found = np.empty(len(self.bits))
        _race(self.distances, self.weights, self.bits, _U64(self.picks), found)
        return found

    def add(self, item: int) -> None:
        """Lower the distances of what is nearer to this item, and go on to other noise."""
        super().add(item)
        self.picks += 1


@numba.njit(nogil=True, cache=True)
def _race(distances: Any, weights: Any, bits: Any, number: Any, found: Any) -> None:
    """Divide by exponential noise: of items with rates d, the first to arrive is i with probability d_i / sum."""
    for i in range(bits.size):
        mixed = bits[i] + (number + _U64(1)) * _U64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> _U64(27))) * _U64(0x94D049BB133111EB)
        mixed ^= mixed >> _U64(31)
        uniform = (float(mixed >> _U64(12)) + 0.5) * 2.0**-52
        rate = 1.0 if distances[i] == np.inf else distances[i]
        found[i] = rate * weights[i] / -np.log(uniform)
