"""Coverage-centric choice: the hardest documents go, and the rest is sampled evenly over the range of a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits
from .allocate import allocate
from .ordering import ascending

STRATA = 50

Float64 = NDArray[np.float64]


def stratum_of(scores: Float64, low: float, high: float, strata: int = STRATA) -> NDArray[np.int64]:
    """Return in which of several strata of equal width each score lies.

    Args:
        scores: float64[n], from low to high.
        low, high: ends of the range, both included; where they are equal, all scores are in stratum 0.
        strata: how many.

    Returns:
        int64[n], 0 to strata - 1.
    """
    if not high > low:
        return np.zeros(len(scores), np.int64)
    width = high / strata - low / strata  # the difference of two large numbers may be infinite
    return np.clip(np.floor((scores - low) / width), 0, strata - 1).astype(np.int64)


def coverage_sample(
    scores: Float64,
    keys: NDArray[np.uint64],
    budget: int,
    seed: int,
    name: str,
    hardness: Float64 | None = None,
    drop: float = 0.0,
    strata: int = STRATA,
) -> NDArray[np.bool_]:
    """Choose documents evenly over the range of a score.

    What is hardest is dropped first; what is left is cut into strata of equal width of the score, from its least to
    its greatest value; the smallest stratum gets its share first, and all of a stratum that is smaller than that; in a
    stratum, documents are sampled uniformly, by keyed noise.

    Args:
        scores: float64[n], finite.
        keys: uint64[n], of the documents.
        budget: how many are chosen; fewer where fewer are left.
        seed: of the run.
        name: of the step.
        hardness: float64[n], high for what is likely mislabelled or noise; default: the scores.
        drop: share of the n documents that is dropped as hardest, rounded down.
        strata: how many.

    Returns:
        bool[n], the chosen ones.

    Raises:
        ValueError: a score is not finite.

    Source: CCS (Zheng et al. 2023, https://arxiv.org/abs/2210.15809): 50 strata, and from 0 to 30 % dropped, the more
        the smaller the budget. Its code cuts the range at 1.0001 times the greatest score, which leaves out the
        greatest one where that is negative; here both ends are in.
    """
    if not np.isfinite(scores).all():
        raise ValueError("strata need finite scores")
    chosen = np.zeros(len(scores), np.bool_)
    noise = keyed_bits(seed, name, keys)
    order = np.lexsort((keys, ascending(scores if hardness is None else hardness)))
    left = np.sort(order[: len(order) - int(drop * len(order))])
    if not len(left):
        return chosen
    of = stratum_of(scores[left], float(scores[left].min()), float(scores[left].max()), strata)
    sizes = np.bincount(of, minlength=strata)
    budgets = allocate(sizes, budget, "equal")
    by_stratum = np.lexsort((noise[left], of))
    place = np.arange(len(left)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in its stratum
    chosen[left[by_stratum[place < budgets[of[by_stratum]]]]] = True
    return chosen
