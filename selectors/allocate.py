"""Splits one total over groups: equally, in proportion, by weights or in turns, between floors and ceilings."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Mode = Literal["proportional", "equal", "round_robin", "score_weighted"]

LARGEST = 1 << 50
"""Sizes must not add up to more: float64 then tells all quotients of one group apart, with room for rounding."""

_SMALLEST_WEIGHT = 2.0**-60
_INFINITY_BITS = int(np.array(np.inf).view(np.uint64))


def allocate(
    sizes: Int64,
    total: int,
    mode: Mode,
    weights: Float64 | None = None,
    floors: Int64 | None = None,
    ceilings: Int64 | None = None,
) -> Int64:
    """Split a total over groups, in whole documents or tokens.

    One unit after another goes to the group with the least quotient (2 * units + 1) / weight among those that are not
    full, after every group got its floor. The order of the units does not depend on the total, so a larger total never
    gives a group less (with the same floors and ceilings).

    - proportional: the weight is the group's size (Webster's divisor method).
    - score_weighted: the weight is given. A group of weight 0 gets units when all others are full, equally.
    - equal: all weights are the same, so that small groups are taken whole and the others get the same.
    - round_robin: in turns, one unit per group and turn, on top of the floors, which do not count as turns.

    Of equal quotients the larger group comes first, in turns the smaller; of equal sizes the one with the smaller
    number. Floors that exceed the total together are met in proportion, by the same method.

    Args:
        sizes: documents or tokens of each group, int64[groups] >= 0; in all at most 2**50.
        total: what is split, >= 0.
        mode: how it is split.
        weights: float64[groups], finite and >= 0, for score_weighted only; what is below 2**-60 of the largest is 0.
        floors: what a group gets at least, int64[groups] >= 0; one above the size or the ceiling is lowered to it.
        ceilings: what a group gets at most, int64[groups] >= 0.

    Returns:
        int64[groups], in all exactly min(total, sum of min(size, ceiling)), never above a size or a ceiling.

    Raises:
        ValueError: an argument is negative or too large, or the weights do not fit the mode.

    Source: divisor methods as in Balinski and Young, Fair Representation (1982), with minimum and maximum
        requirements. `equal` without floors is the allocation of CCS (arXiv 2210.15809), which visits the smallest
        group first and gives it min(size, what is left // groups left); `score_weighted` is PASER's (arXiv 2502.12594),
        which however rounds down and does not redistribute; turns are TypiClust's (arXiv 2202.02794).
    """
    capacity = sizes if ceilings is None else np.minimum(sizes, ceilings)
    lower = np.zeros_like(capacity) if floors is None else np.minimum(floors, capacity)
    weighted = mode == "score_weighted"
    if min((int(a.min(initial=0)) for a in (capacity, lower)), default=0) < 0 or total < 0:
        raise ValueError("sizes, floors, ceilings and the total must not be negative")
    if float(sizes.astype(np.float64).sum()) > LARGEST:
        raise ValueError(f"sizes add up to more than {LARGEST}")
    if weighted != (weights is not None) or (weights is not None and not ((weights >= 0) & (weights < np.inf)).all()):
        raise ValueError("score_weighted, and only that, needs weights that are finite and not negative")
    largest_first = np.argsort(-sizes, kind="stable")
    floor_sum = int(lower.sum())
    if total <= floor_sum:
        return _fill(np.zeros_like(lower), lower, lower.astype(np.float64), total, largest_first)
    same = np.ones(len(sizes))
    if mode == "round_robin":
        turns = np.zeros_like(lower)
        return lower + _fill(turns, capacity - lower, same, total - floor_sum, np.argsort(sizes, kind="stable"))
    by_mode = {"proportional": sizes.astype(np.float64), "equal": same}
    return _fill(lower, capacity, weights if weights is not None else by_mode[mode], total, largest_first)


def repeats(sizes: Int64, floors: Int64, total: int, limit: float) -> Float64:
    """Say how often each document of a group that is smaller than its floor should count, so that it reaches it.

    Args:
        sizes: documents or tokens of each group, int64[groups].
        floors: as for `allocate`; where they exceed the total together, they are scaled down to it.
        total: as for `allocate`.
        limit: documents count at most so often, >= 1.

    Returns:
        float64[groups], from 1 to the limit: floor / size where that lies between; 1 for a group without documents.

    Source: about four epochs of the same data are nearly worth as much new data (Muennighoff et al., arXiv 2305.16264).
    """
    wanted = floors * min(1.0, total / max(float(floors.astype(np.float64).sum()), 1.0))
    return np.where(sizes > 0, np.clip(wanted / np.maximum(sizes, 1), 1.0, limit), 1.0)


def _fill(lower: Int64, upper: Int64, weights: Float64, total: int, order: Int64) -> Int64:
    """Give units by the divisor method, from `lower` up to `upper`, until they are `total` in all.

    order: groups, the first one first where quotients are equal.
    """
    total = min(total, int(upper.sum()))
    _, exponent = np.frexp(weights.max(initial=0.0))
    scaled = np.ldexp(weights, -exponent)  # by a power of two, which rounds nothing
    has_weight = scaled >= _SMALLEST_WEIGHT
    if not has_weight.all():
        at_most = np.where(has_weight, upper, lower)
        if total > int(at_most.sum()):
            start = np.where(has_weight, upper, lower)
            return _fill(start, upper, np.ones(len(weights)), total, order)
        upper, scaled = at_most, np.where(has_weight, scaled, 1.0)

    def given(level: float) -> Int64:
        return _up_to(level, lower, upper, scaled)

    bits = _first(lambda bits: int(given(_level(bits)).sum()) >= total)
    enough = given(_level(bits))
    before = given(_level(bits - 1)) if bits else lower
    tied = (enough - before)[order]  # units whose quotient is the very level at which the total is reached
    left = total - int(before.sum())
    shares = np.empty_like(before)
    shares[order] = np.clip(left - (np.cumsum(tied) - tied), 0, tied)
    return before + shares


def _up_to(level: float, lower: Int64, upper: Int64, weights: Float64) -> Int64:
    """Units of each group when all with a quotient of at most `level` are given."""
    units = np.floor(np.clip((level * weights + 1.0) / 2.0, lower, upper)).astype(np.int64)
    # the product is rounded, the quotients decide: right by one at most, since units are at most 2**50
    units -= (units > lower) & ((2.0 * units - 1.0) / weights > level)
    units += (units < upper) & ((2.0 * units + 1.0) / weights <= level)
    return units


def _level(bits: int) -> float:
    return float(np.array(bits, np.uint64).view(np.float64))


def _first(holds: Callable[[int], bool]) -> int:
    """Find the first bit pattern of a float64 from 0 to infinity for which a rising condition holds.

    Positive floats are ordered like their bits, so that 63 steps find the level exactly.
    """
    low, high = 0, _INFINITY_BITS
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
