"""The allocator agrees with giving one unit after another, and keeps its laws."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.allocate import LARGEST, Mode, allocate, repeats

MODES: tuple[Mode, ...] = ("proportional", "equal", "round_robin", "score_weighted")


@dataclass(frozen=True)
class Split:
    """Arguments of one call; weights are used by score_weighted only."""

    mode: Mode
    total: int
    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    floors: tuple[int, ...] | None
    ceilings: tuple[int, ...] | None

    def allocate(self) -> NDArray[np.int64]:
        floors, ceilings = (None if v is None else np.array(v, np.int64) for v in (self.floors, self.ceilings))
        weights = np.array(self.weights, np.float64) if self.mode == "score_weighted" else None
        return allocate(np.array(self.sizes, np.int64), self.total, self.mode, weights, floors, ceilings)

    @property
    def capacity(self) -> list[int]:
        return [min(size, ceiling) for size, ceiling in zip(self.sizes, self.ceilings or self.sizes, strict=True)]

    @property
    def lower(self) -> list[int]:
        return [
            min(floor, most) for floor, most in zip(self.floors or [0] * len(self.sizes), self.capacity, strict=True)
        ]

    def reordered(self, order: list[int]) -> Split:
        def taken(values: tuple[int, ...] | None) -> tuple[int, ...] | None:
            return None if values is None else tuple(values[i] for i in order)

        weights = tuple(self.weights[i] for i in order)
        sizes = tuple(self.sizes[i] for i in order)
        return replace(self, sizes=sizes, weights=weights, floors=taken(self.floors), ceilings=taken(self.ceilings))


def splits(largest: int, groups: int) -> st.SearchStrategy[Split]:
    amounts = st.integers(0, largest)

    def of(n: int) -> st.SearchStrategy[Split]:
        row = st.lists(amounts, min_size=n, max_size=n).map(tuple)
        weights = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0, 7.0]), min_size=n, max_size=n).map(tuple)
        total = st.integers(0, largest * max(n, 1) + 2)
        return st.builds(Split, st.sampled_from(MODES), total, row, weights, st.none() | row, st.none() | row)

    return st.integers(0, groups).flatmap(of)


def one_by_one(split: Split) -> list[int]:
    """The definition: the next unit goes to the group with the least quotient, in exact arithmetic."""
    groups = range(len(split.sizes))

    def filled(start: list[int], upper: list[int], weights: list[float], total: int, small_first: bool) -> list[int]:
        units = list(start)
        while sum(units) < min(total, sum(upper)):
            open_groups = [g for g in groups if units[g] < upper[g]]
            units[
                min(
                    open_groups,
                    key=lambda g: (
                        weights[g] == 0,
                        Fraction(2 * units[g] + 1) / Fraction(weights[g] or 1),
                        split.sizes[g] if small_first else -split.sizes[g],
                        g,
                    ),
                )
            ] += 1
        return units

    nothing, ones = [0 for _ in groups], [1.0 for _ in groups]
    if split.total <= sum(split.lower):
        return filled(nothing, split.lower, list(map(float, split.lower)), split.total, small_first=False)
    if split.mode == "round_robin":
        above = [most - least for most, least in zip(split.capacity, split.lower, strict=True)]
        turns = filled(nothing, above, ones, split.total - sum(split.lower), small_first=True)
        return [least + more for least, more in zip(split.lower, turns, strict=True)]
    weights = {"equal": ones, "proportional": list(map(float, split.sizes)), "score_weighted": list(split.weights)}
    return filled(split.lower, split.capacity, weights[split.mode], split.total, small_first=False)


@given(splits(largest=9, groups=6))
@example(Split("score_weighted", 4, (5, 7), (26.0, 182.0), None, None))  # 1/26 = 7/182, but not times 26 in floats
@example(Split("score_weighted", 4, (5, 4), (343.0, 49.0), None, None))
def test_is_what_giving_one_unit_after_another_gives(split: Split) -> None:
    assert split.allocate().tolist() == one_by_one(split)


@given(splits(largest=LARGEST // 8, groups=8) | splits(largest=30, groups=8))
@example(Split("proportional", LARGEST - 1, (LARGEST - 3, 1, 1, 1), (0.0,) * 4, None, None))
@example(Split("equal", LARGEST // 2, (LARGEST // 2, LARGEST // 2), (0.0,) * 2, (LARGEST // 2, 0), None))
def test_the_total_is_exact_and_the_bounds_hold(split: Split) -> None:
    got = split.allocate().tolist()
    assert sum(got) == min(split.total, sum(split.capacity))
    assert all(0 <= units <= most for units, most in zip(got, split.capacity, strict=True))
    if sum(split.lower) <= split.total:
        assert all(units >= least for units, least in zip(got, split.lower, strict=True))
    else:
        assert all(units <= least for units, least in zip(got, split.lower, strict=True))


@given(
    splits(largest=12, groups=6) | splits(largest=LARGEST // 6, groups=6), st.integers(1, 5) | st.integers(1, LARGEST)
)
def test_a_larger_total_never_gives_a_group_less(split: Split, more: int) -> None:
    assert (split.allocate() <= replace(split, total=split.total + more).allocate()).all()


@given(splits(largest=12, groups=6), st.randoms(use_true_random=False))
def test_the_order_of_groups_of_different_sizes_does_not_matter(split: Split, random) -> None:
    n = len(split.sizes)
    split = replace(split, sizes=tuple(n * size + i for i, size in enumerate(split.sizes)))
    order = random.sample(range(n), n)
    assert split.reordered(order).allocate().tolist() == split.allocate()[order].tolist()


@given(st.sampled_from(MODES), st.integers(1, 9), st.integers(0, 20), st.integers(0, 200))
def test_of_groups_that_are_all_alike_the_first_get_what_is_over(mode: Mode, n: int, size: int, total: int) -> None:
    got = Split(mode, total, (size,) * n, (1.5,) * n, None, None).allocate().tolist()
    assert got == sorted(got, reverse=True)
    assert got[0] - got[-1] <= 1


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.integers(0, 10**6))
def test_one_divisor_rounds_all_proportional_parts(sizes: list[int], total: int) -> None:
    total = min(total, sum(sizes))
    got = allocate(np.array(sizes), total, "proportional")
    divisors_low, divisors_high = np.array(sizes) / (got + 0.5), np.array(sizes) / np.maximum(got - 0.5, 1e-9)
    assert divisors_low[got < sizes].max(initial=0) <= divisors_high[got > 0].min(initial=np.inf) * (1 + 1e-12)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 400))
def test_equal_is_the_allocation_of_ccs(sizes: list[int], total: int) -> None:
    expected, left = [0] * len(sizes), total
    order = sorted(range(len(sizes)), key=lambda g: (sizes[g], -g))
    for number, group in enumerate(order):
        expected[group] = min(sizes[group], left // (len(sizes) - number))
        left -= expected[group]
    assert allocate(np.array(sizes), total, "equal").tolist() == expected


def test_modes_differ_as_they_say() -> None:
    sizes, floors = np.array([100, 20, 3, 200]), np.array([0, 10, 0, 0])
    assert allocate(sizes, 33, "equal").tolist() == [10, 10, 3, 10]
    assert allocate(sizes, 34, "equal").tolist() == [10, 10, 3, 11]  # what is over goes to the largest
    assert allocate(sizes, 34, "round_robin").tolist() == [10, 11, 3, 10]  # a turn begins with the smallest
    assert allocate(sizes, 35, "equal", floors=floors).tolist() == [11, 10, 3, 11]  # the floor counts
    assert allocate(sizes, 35, "round_robin", floors=floors).tolist() == [7, 18, 3, 7]  # turns come on top of it
    assert allocate(sizes, 32, "proportional").tolist() == [10, 2, 0, 20]
    assert allocate(sizes, 32, "proportional", floors=np.array([0, 0, 3, 0])).tolist() == [9, 2, 3, 18]
    weights = np.array([1.0, 3.0, 0.0, 0.0])
    assert allocate(sizes, 24, "score_weighted", weights).tolist() == [6, 18, 0, 0]
    assert allocate(sizes, 130, "score_weighted", weights).tolist() == [100, 20, 3, 7]


def test_scale_of_weights_does_not_matter() -> None:
    sizes, weights = np.full(5, 1000), np.array([0.1, 0.25, 0.3, 1.0, 2.0])
    expected = allocate(sizes, 777, "score_weighted", weights).tolist()
    for factor in (2.0**-1000, 2.0**900):
        assert allocate(sizes, 777, "score_weighted", weights * factor).tolist() == expected
    assert allocate(sizes, 10, "score_weighted", np.array([1e-300, 1.0, 1.0, 0, 0])).tolist() == [0, 5, 5, 0, 0]
    tiny = np.array([1e-300, 5e-300, 1.0])  # as good as none: equal parts of what the others leave
    assert allocate(np.array([10, 10, 1]), 11, "score_weighted", tiny).tolist() == [5, 5, 1]


@pytest.mark.parametrize("mode", MODES)
def test_a_hundred_thousand_groups_take_no_time(mode: Mode) -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(0, 10**9, 100_000)
    weights = random.random(100_000) if mode == "score_weighted" else None
    started = time.process_time()
    got = allocate(sizes, int(sizes.sum()) // 3, mode, weights, np.full(100_000, 1000))
    assert time.process_time() - started < 5  # a step in Python per unit would take days, per group and round minutes
    assert got.sum() == int(sizes.sum()) // 3


@pytest.mark.parametrize(
    ("sizes", "total", "more"),
    [
        ([-1, 2], 1, {}),
        ([1, 2], -1, {}),
        ([1, 2], 1, {"floors": np.array([-1, 0])}),
        ([1, 2], 1, {"ceilings": np.array([-1, 0])}),
        ([LARGEST, 2], 1, {}),
        ([2**62, 2**62], 1, {}),
        ([1, 2], 1, {"weights": np.ones(2)}),
        ([1, 2], 1, {"mode": "score_weighted"}),
        ([1, 2], 1, {"mode": "score_weighted", "weights": np.array([1, -1.0])}),
        ([1, 2], 1, {"mode": "score_weighted", "weights": np.array([1, np.nan])}),
        ([1, 2], 1, {"mode": "score_weighted", "weights": np.array([1, np.inf])}),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(sizes: list[int], total: int, more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"negative|add up to more|needs weights"):
        allocate(np.array(sizes), total, **({"mode": "equal"} | more))  # type: ignore[arg-type]


def test_small_groups_are_repeated_up_to_the_limit() -> None:
    sizes, floors = np.array([0, 10, 50, 100, 3]), np.array([5, 20, 20, 20, 20])
    assert repeats(sizes, floors, 1000, 4.0).tolist() == [1.0, 2.0, 1.0, 1.0, 4.0]
    assert repeats(sizes, floors, 1000, 1.0).tolist() == [1.0] * 5
    # floors that together exceed the total are scaled down: nobody counts for more than its share of the total
    assert repeats(np.array([5, 100]), np.array([20, 20]), 10, 4.0).tolist() == [1.0, 1.0]
    assert repeats(np.array([5, 100]), np.array([20, 20]), 20, 4.0).tolist() == [2.0, 1.0]
    assert repeats(np.array([5]), np.array([0]), 0, 4.0).tolist() == [1.0]
