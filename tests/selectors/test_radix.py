import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.ordering import descending
from tamis.selectors.radix import Cuts, RadixSelect, Ranked, merge

Budgets = Callable[[NDArray, NDArray], NDArray]


def rows_at(rows: Ranked, index: NDArray) -> Ranked:
    measure = None if rows.measure is None else rows.measure[index]
    return Ranked(rows.group[index], rows.rank[index], rows.key[index], rows.position[index], measure)


def ranked(rank: NDArray, group: NDArray | None = None, key: NDArray | None = None, measure: NDArray | None = None):
    n = len(rank)
    position = np.arange(n, dtype=np.uint64)
    position = ((position % np.uint64(3)) << np.uint64(32)) | (position // np.uint64(3))
    group = np.zeros(n, np.int64) if group is None else np.asarray(group, np.int64)
    key = np.zeros(n, np.uint64) if key is None else np.asarray(key, np.uint64)
    return Ranked(group, np.asarray(rank, np.uint64), key, position, measure)


def drive(select: RadixSelect, shards: list[Ranked], budgets: Budgets) -> Cuts:
    """Run the passes; each worker and each pass works on a state that went over the wire."""
    for _ in range(70):
        if select.phase == "done":
            return select.cuts()
        total: dict[str, NDArray] = {}
        for shard in shards:
            total = merge(total, RadixSelect.from_arrays(select.to_arrays()).observe(shard))
        select.advance(total, budgets)
        select = RadixSelect.from_arrays(select.to_arrays())
    raise AssertionError("too many passes")


def oracle(rows: Ranked, groups: int, budgets: Budgets) -> NDArray[np.bool_]:
    """Full sort: the longest prefix of each group whose measure does not exceed the budget."""
    measure = np.ones(len(rows.group), np.int64) if rows.measure is None else rows.measure
    taking = rows.group >= 0
    documents = np.bincount(rows.group[taking], minlength=groups)
    totals = np.array([measure[rows.group == g].sum() for g in range(groups)], np.int64)
    budget = budgets(documents, totals)
    inside = np.zeros(len(rows.group), np.bool_)
    for g in range(groups):
        order = np.lexsort((rows.position, rows.key, rows.rank))
        order = order[rows.group[order] == g]
        inside[order[np.cumsum(measure[order]) <= budget[g]]] = True
    return inside


def check(rows: Ranked, groups: int, budgets: Budgets, **limits: int) -> Cuts:
    select = RadixSelect(groups, rows.measure is not None, **limits)
    cuts = drive(select, [rows_at(rows, part) for part in np.array_split(np.arange(len(rows.group)), 3)], budgets)
    inside = cuts.inside(rows)
    np.testing.assert_array_equal(inside, oracle(rows, groups, budgets))
    measure = np.ones(len(rows.group), np.int64) if rows.measure is None else rows.measure
    for g in range(groups):
        mine = rows.group == g
        assert cuts.kept[g] == inside[mine].sum()
        assert cuts.kept_measure[g] == measure[mine & inside].sum()
        assert cuts.everything[g] == inside[mine].all()
    return cuts


def fixed(*budget: int) -> Budgets:
    return lambda documents, totals: np.array(budget, np.int64)


TIGHT = {"memory": 1, "gather_rows": 5}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Ranked, int, NDArray]:
    n, groups = draw(st.integers(0, 40)), draw(st.integers(1, 4))
    word = st.sampled_from([0, 1, 2, 7, 2**31, 2**32, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1])
    rank, key = (np.array(draw(st.lists(word, min_size=n, max_size=n)), np.uint64) for _ in range(2))
    group = np.array(draw(st.lists(st.integers(-1, groups - 1), min_size=n, max_size=n)), np.int64)
    measure = None
    if draw(st.booleans()):
        sizes = st.sampled_from([0, 0, 1, 3, 50, 2**40])
        measure = np.array(draw(st.lists(sizes, min_size=n, max_size=n)), np.int64)
    budget = draw(st.lists(st.integers(0, 60), min_size=groups, max_size=groups))
    return ranked(rank, group, key, measure), groups, np.array(budget, np.int64)


@settings(max_examples=150, deadline=None)
@given(cases(), st.randoms(use_true_random=False), st.sampled_from([1, 600, 1 << 16]), st.sampled_from([0, 5, 1000]))
def test_any_split_order_and_memory_gives_the_same_cuts_as_a_full_sort(case, random, memory, gather_rows) -> None:
    rows, groups, budget = case
    weighted = rows.measure is not None
    one = drive(RadixSelect(groups, weighted), [rows], lambda documents, totals: budget)
    np.testing.assert_array_equal(one.inside(rows), oracle(rows, groups, lambda documents, totals: budget))
    shuffled = list(range(len(rows.group)))
    random.shuffle(shuffled)
    ends = sorted(random.randint(0, len(shuffled)) for _ in range(random.randint(0, 5)))
    shards = [rows_at(rows, part) for part in np.split(np.array(shuffled, np.int64), ends)]
    select = RadixSelect(groups, weighted, memory=memory, gather_rows=gather_rows)
    split = drive(select, shards, lambda documents, totals: budget)
    gathered = drive(RadixSelect(groups, weighted, rows=len(rows.group)), shards, lambda documents, totals: budget)
    for name, column in one.to_arrays().items():
        np.testing.assert_array_equal(column, split.to_arrays()[name], err_msg=name)
        np.testing.assert_array_equal(column, gathered.to_arrays()[name], err_msg=name)


@pytest.mark.parametrize("limits", [{}, TIGHT])
@pytest.mark.parametrize("k", [0, 1, 13, 299, 300, 301])
def test_ties_infinities_and_copies_follow_the_whole_order(k: int, limits: dict[str, int]) -> None:
    random = np.random.default_rng(k)
    score = random.choice([-np.inf, -1.0, -0.0, 0.0, 2.0, np.inf], 300)
    rows = ranked(descending(score), key=random.integers(0, 4, 300))
    cuts = check(rows, 1, fixed(k), **limits)
    assert cuts.kept[0] == min(k, 300)


@pytest.mark.parametrize("measure", [None, np.arange(60) % 4])
def test_equal_scores_and_equal_keys_are_refined_down_to_the_position(measure: NDArray | None) -> None:
    select = RadixSelect(1, measure is not None, **TIGHT)
    rows = ranked(np.full(60, 2**63 + 5), key=np.full(60, 9), measure=measure)
    levels = set()
    while select.phase != "done":
        levels.add((select.phase, int(select.to_arrays()["scalars"][6])))
        select.advance(merge(select.observe(rows)), fixed(17))
    assert {("histogram", 0), ("histogram", 1), ("histogram", 2)} <= levels
    np.testing.assert_array_equal(select.cuts().inside(rows), oracle(rows, 1, fixed(17)))


def test_few_rows_take_one_pass() -> None:
    select = RadixSelect(1, False, rows=1000)
    select.advance(select.observe(ranked(np.arange(1000))), fixed(10))
    assert select.cuts().kept.tolist() == [10]


def test_passes_stay_few_when_everything_ties() -> None:
    select, passes = RadixSelect(1, False, gather_rows=10), 0
    rows = ranked(np.zeros(200_000))
    while select.phase != "done":
        select.advance(select.observe(rows), fixed(123_456))
        passes += 1
    assert passes <= 13
    assert select.cuts().inside(rows).sum() == 123_456


@pytest.mark.parametrize("limits", [{}, TIGHT])
def test_token_budgets_are_never_exceeded_and_zeros_cost_nothing(limits: dict[str, int]) -> None:
    sizes = np.array([0, 0, 100, 3, 0, 0, 7, 0], np.int64)
    rows = ranked(np.arange(8), measure=sizes)
    assert check(rows, 1, fixed(0), **limits).kept.tolist() == [2]
    assert check(rows, 1, fixed(99), **limits).kept.tolist() == [2]  # the large document ends the prefix
    assert check(rows, 1, fixed(103), **limits).kept.tolist() == [6]
    assert check(rows, 1, fixed(109), **limits).kept_measure.tolist() == [103]
    assert check(rows, 1, fixed(110), **limits).everything.tolist() == [True]
    first = ranked(np.arange(3), measure=np.array([50, 1, 1], np.int64))
    assert check(first, 1, fixed(49), **limits).kept.tolist() == [0]


def test_many_groups_of_few_rows() -> None:
    groups, random = 100_000, np.random.default_rng(1)
    group = np.repeat(np.arange(groups), 10)
    order = random.permutation(group.size)
    rows = ranked(random.integers(0, 50, group.size), group[order])
    started = time.perf_counter()
    parts = [rows_at(rows, part) for part in np.array_split(np.arange(group.size), 20)]
    cuts = drive(RadixSelect(groups, False, gather_rows=100), parts, lambda documents, totals: documents * 3 // 10)
    assert time.perf_counter() - started < 60  # about 5 s on two cores; a loop over groups in Python takes minutes
    inside = cuts.inside(rows)
    assert (np.bincount(rows.group[inside], minlength=groups) == 3).all()
    sort = np.lexsort((rows.position, rows.key, rows.rank, rows.group))
    assert (inside[sort].reshape(groups, 10) == (np.arange(10) < 3)).all()


def test_groups_of_one_and_empty_groups() -> None:
    rows = ranked([5, 4, 3], [0, 2, 3])
    cuts = check(rows, 5, fixed(1, 1, 0, 7, 0))
    assert cuts.inside(rows).tolist() == [True, False, True]
    assert cuts.everything.tolist() == [True, True, False, True, True]


def test_a_corpus_without_rows() -> None:
    select = RadixSelect(2, True)
    select.advance(merge(), lambda documents, totals: totals)
    assert select.cuts().kept.tolist() == [0, 0]


def test_a_larger_budget_contains_a_smaller_one() -> None:
    random = np.random.default_rng(3)
    rows = ranked(random.integers(0, 30, 5000), random.integers(0, 7, 5000), measure=random.integers(0, 90, 5000))
    inside = [
        drive(
            RadixSelect(7, True, gather_rows=20), [rows], lambda documents, totals, part=part: totals * part // 10
        ).inside(rows)
        for part in range(11)
    ]
    for small, large in pairwise(inside):
        assert not (small & ~large).any()
    assert inside[1].sum() < inside[3].sum()


def test_a_measure_is_only_weighed_where_it_was_asked_for() -> None:
    rows = ranked(np.arange(6), measure=np.full(6, 1000))
    assert drive(RadixSelect(1, False), [rows], fixed(4)).kept_measure.tolist() == [4]


@pytest.mark.parametrize("weighted", [False, True])
def test_merging_is_exact_in_either_form_and_never_larger_than_dense(weighted: bool) -> None:
    random = np.random.default_rng(5)
    rows = ranked(random.integers(0, 2**64, 4000, np.uint64), measure=random.integers(0, 9, 4000))
    select = RadixSelect(1, weighted, memory=8 << 10)
    whole = select.observe(rows)
    sizes = [1, 2, 10, 60, 400, 1500, 4000]
    parts = [select.observe(rows_at(rows, part)) for part in np.split(np.arange(4000), sizes[:-1])]
    assert "bins" in parts[1] and "bins" not in parts[-1]
    copies = [{name: column.copy() for name, column in part.items()} for part in parts]
    folded: dict[str, NDArray] = {}
    for part in parts[::-1]:
        folded = merge(folded, part)
    pairs = merge(merge({}, *parts[:3]), merge({}, *parts[3:]))
    for total in (folded, pairs, merge({}, *parts)):
        assert set(total) == ({"counts", "measure"} if weighted else {"counts"})
        for name, column in total.items():
            np.testing.assert_array_equal(column, whole[name])
            assert column.nbytes <= 8 << 10
    for part, copy in zip(parts, copies, strict=True):  # merging leaves the shards' results as they are
        for name, column in copy.items():
            np.testing.assert_array_equal(column, part[name])


def test_a_result_that_may_not_be_written_is_merged_all_the_same() -> None:
    part = {"counts": np.ones((1, 8), np.int64)}
    part["counts"].flags.writeable = False
    assert merge(part, part)["counts"].tolist() == [[2] * 8]


def test_cuts_and_state_survive_storing() -> None:
    rows = ranked(np.arange(50), np.arange(50) % 2)
    cuts = drive(RadixSelect(2, False), [rows], fixed(5, 90))
    again = Cuts.from_arrays(cuts.to_arrays())
    np.testing.assert_array_equal(again.inside(rows), cuts.inside(rows))
    select = RadixSelect(2, False)
    select.advance(select.observe(rows), fixed(5, 90))
    stored = select.to_arrays()
    copy = RadixSelect.from_arrays(stored)
    copy.advance(copy.observe(rows), fixed(0, 0))
    assert copy.phase == "done" and select.phase == "gather"
    np.testing.assert_array_equal(stored["kept"], select.to_arrays()["kept"])  # a copy does not write to the original


def test_faults_are_told() -> None:
    rows = ranked(np.arange(50))
    select = RadixSelect(1, False)
    with pytest.raises(RuntimeError, match="histogram"):
        select.cuts()
    with pytest.raises(ValueError, match="group 3"):
        select.observe(ranked([1, 2], [0, 3]))
    with pytest.raises(ValueError, match="measure"):
        RadixSelect(1, True).observe(rows)
    with pytest.raises(ValueError, match="measure"):
        RadixSelect(1, True).observe(ranked([1], measure=np.array([-1])))
    select.advance(select.observe(rows), fixed(20))
    for shorter in ({}, select.observe(rows_at(rows, np.arange(20)))):
        with pytest.raises(ValueError, match="pass before"):
            RadixSelect.from_arrays(select.to_arrays()).advance(shorter, fixed(20))
    refining = RadixSelect(1, False, **TIGHT)
    refining.advance(refining.observe(rows), fixed(20))
    with pytest.raises(ValueError, match="pass before"):
        refining.advance(refining.observe(rows_at(rows, np.arange(20))), fixed(20))


@pytest.mark.parametrize("limits", [{}, {"gather_rows": 1}])
def test_positions_that_are_not_unique_are_told(limits: dict[str, int]) -> None:
    row = rows_at(ranked(np.zeros(9)), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="two rows share"):
        drive(RadixSelect(1, False, **limits), [row], fixed(2))
