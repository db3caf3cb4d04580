"""Spreads of numbers in memory, as the passes over a corpus would give them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tamis.selectors.spread import Grid, Spread
from tamis.selectors.tail import tail_length


def spread_of(values: NDArray[np.float64], bins: int = 1 << 16) -> Spread:
    """Return the spread of losses or log weights; -inf is a weight of zero."""
    finite = np.sort(values[np.isfinite(values)])
    grid = Grid(float(finite[0]), float(finite[-1]), bins)
    weights = np.exp(values - grid.high)
    counts = np.bincount(grid.place(finite), minlength=bins)
    largest = finite[-tail_length(values.size) - 1 :]
    return Spread(values.size, grid, counts, float(weights.sum()), float(weights @ weights), largest)
