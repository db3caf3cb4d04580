from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.budget import Keep, band_start, budget
from tamis.selectors.radix import Cuts, RadixSelect, Ranked, merge

SHARES = st.decimals(0, 1, places=6).map(str) | st.floats(0, 1)
SIZES = st.lists(st.integers(0, 2**40), min_size=1, max_size=5)


def array(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def test_a_decimal_fraction_is_exact_and_rounded_down() -> None:
    sizes = array(0, 1, 3, 99, 100, 101)
    assert 0.29 * 100 < 29  # what binary floats make of it
    assert budget(Keep(fraction=0.29), sizes, sizes).tolist() == [0, 0, 0, 28, 29, 29]
    assert budget(Keep(fraction="0.29"), sizes, sizes).tolist() == [0, 0, 0, 28, 29, 29]
    assert budget(Keep(fraction=1), sizes, sizes).tolist() == sizes.tolist()


@given(SHARES, SIZES)
def test_fractions_of_any_precision_agree_with_exact_arithmetic(fraction: str | float, sizes: list[int]) -> None:
    fraction = float(fraction)
    kept = budget(Keep(fraction=fraction), array(*sizes), array(*sizes))
    assert kept.tolist() == [floor(Fraction(str(fraction)) * n) for n in sizes]


def test_documents_and_tokens_are_per_group_and_capped() -> None:
    assert budget(Keep(documents=5), array(3, 9), array(30, 90)).tolist() == [3, 5]
    assert budget(Keep(tokens=50), array(3, 9), array(30, 90)).tolist() == [30, 50]
    assert budget(Keep(documents=0), array(3, 9), array(30, 90)).tolist() == [0, 0]
    assert Keep(tokens=1).weighted and not Keep(documents=1).weighted


@pytest.mark.parametrize(
    "given_",
    [{}, {"documents": 1, "tokens": 1}, {"documents": -1}, {"tokens": -1}, {"fraction": 1.01}, {"fraction": "-0.1"},
     {"fraction": "some"}, {"fraction": float("nan")}, {"fraction": "1/0"}],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(given_: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"takes one of|between 0 and 1|negative|number"):
        Keep(**given_)


@given(SHARES, st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_run_lies_within_the_group_and_around_its_centre(center: str | float, kept: int, total: int) -> None:
    start = int(band_start(center, array(kept), array(total))[0])
    kept = min(kept, total)
    assert 0 <= start <= total - kept
    middle = Fraction(str(center)) * total
    if 0 < start < total - kept:  # not pushed in from an end
        assert abs(start + Fraction(kept, 2) - middle) <= Fraction(1, 2)


def test_runs_at_the_ends_and_the_middle() -> None:
    total, kept = array(10, 10, 10, 11), array(4, 10, 50, 3)
    assert band_start(0.5, kept, total).tolist() == [3, 0, 0, 4]
    assert band_start(0, kept, total).tolist() == [0, 0, 0, 0]
    assert band_start("1", kept, total).tolist() == [6, 0, 0, 8]


@given(SHARES, st.integers(1, 200))
def test_a_larger_run_of_documents_contains_a_smaller_one(center: str | float, total: int) -> None:
    sizes = np.arange(total + 1)
    start = band_start(center, sizes, np.full(total + 1, total))
    assert (np.diff(start) <= 0).all()
    assert (np.diff(start + sizes) >= 0).all()


def select(rows: Ranked, budgets: NDArray[np.int64]) -> Cuts:
    chosen = RadixSelect(1, rows.measure is not None, memory=1, gather_rows=2)
    while chosen.phase != "done":
        chosen.advance(merge(chosen.observe(rows)), lambda documents, tokens: budgets)
    return chosen.cuts()


@pytest.mark.parametrize("seed", range(8))
def test_a_band_of_tokens_is_two_selections_in_sequence(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 40, 30)
    position = np.arange(30, dtype=np.uint64)
    rows = Ranked(np.zeros(30, np.int64), random.permutation(position), position, position, sizes)
    total = array(sizes.sum())
    kept = budget(Keep(tokens=200), array(30), total)
    start = band_start(0.5, kept, total)
    before = select(rows, start)
    upto = select(rows, before.kept_measure + kept)
    band = upto.inside(rows) & ~before.inside(rows)

    expected, skipped, taken, in_run = [], 0, 0, False
    for row in np.argsort(rows.rank):
        if not in_run and skipped + sizes[row] <= start[0]:
            skipped += sizes[row]
            continue
        in_run = True
        if taken + sizes[row] > kept[0]:
            break
        taken += sizes[row]
        expected.append(int(row))
    assert np.flatnonzero(band).tolist() == sorted(expected)
    assert 200 - 40 < sizes[band].sum() <= 200
