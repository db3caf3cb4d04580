"""Inner products of stored float16 vectors with a few queries, in one pass over the bytes as they are stored."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .half_floats import single

Float32 = NDArray[np.float32]


def feature_products(features: NDArray[np.float16], queries: Float32) -> tuple[Float32, Float32]:
    """Multiply finite vectors with queries.

    Reads each vector once and holds none of them in float32, so that it is as fast as memory; one thread.

    Args:
        features: float16[n, d], finite.
        queries: float32[q, d].

    Returns:
        float32[n, q], the products; float32[n], the vectors' lengths.
    """
    n, q = len(features), len(queries)
    products, lengths = np.empty((n, q), np.float32), np.empty(n, np.float32)
    if features.shape[1] != queries.shape[1]:
        raise ValueError(f"queries of {queries.shape[1]:,} numbers for vectors of {features.shape[1]:,}")
    bits = np.ascontiguousarray(features).view(np.uint16)
    _multiply(bits, np.ascontiguousarray(queries, np.float32), products, lengths)
    return products, lengths


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _multiply(bits: Any, queries: Any, products: Any, lengths: Any) -> None:
    n, d = bits.shape
    values = np.empty(d, np.float32)
    for i in range(n):
        total = np.float32(0)
        for j in range(d):
            values[j] = single(bits[i, j])
            total += values[j] * values[j]
        lengths[i] = np.sqrt(total)
        for k in range(queries.shape[0]):
            product = np.float32(0)
            for j in range(d):
                product += values[j] * queries[k, j]
            products[i, k] = product
