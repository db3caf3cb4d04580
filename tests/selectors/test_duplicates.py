"""Pairs, groups and who stays, against plain loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.selectors.components import flatten, join, representatives, spanning_forest
from tamis.selectors.duplicates import (
    BAND_RECORD,
    COPY_RECORD,
    WHOLE_GROUP,
    candidate_pairs,
    distinct_pairs,
    losses,
)

EDGES = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=30)


def groups(edges: list[tuple[int, int]], documents: int) -> set[frozenset[int]]:
    """Connected components, by merging sets until nothing changes."""
    found = [{i} for i in range(documents)]
    for a, b in edges:
        one, other = (next(g for g in found if x in g) for x in (a, b))
        if one is not other:
            one |= other
            found.remove(other)
    return {frozenset(g) for g in found}


def grouped(links: np.ndarray) -> set[frozenset[int]]:
    found: dict[int, set[int]] = {i: {i} for i in range(len(links))}
    for row, representative in zip(*representatives(links, 0), strict=True):
        found.setdefault(representative, set()).add(row)
        if representative != row:
            del found[row]
    return {frozenset(g) for g in found.values()}


@settings(deadline=None)
@given(EDGES, st.randoms())
def test_components(edges: list[tuple[int, int]], random: object) -> None:
    first, second = (np.array([e[i] for e in edges], np.int64) for i in (0, 1))
    links = np.zeros(15, np.int64)
    join(links, first, second)
    joined = flatten(links)
    expected = groups(edges, 15)
    assert grouped(links) == expected
    assert joined == sum(len(g) for g in expected if len(g) > 1)
    needed = spanning_forest(first, second)
    assert groups([e for e, keep in zip(edges, needed, strict=True) if keep], 15) == expected
    assert needed.sum() == 15 - len(expected)


@settings(deadline=None)
@given(EDGES, st.integers(0, 14))
def test_representatives_of_a_part(edges: list[tuple[int, int]], cut: int) -> None:
    links = np.zeros(15, np.int64)
    join(links, *(np.array([e[i] for e in edges], np.int64) for i in (0, 1)))
    flatten(links)
    rows, of = representatives(links, 0)
    parts = [representatives(part, start) for part, start in ((links[:cut], 0), (links[cut:], cut))]
    assert np.concatenate([parts[0][0], parts[1][0] + cut]).tolist() == rows.tolist()
    assert np.concatenate([part[1] for part in parts]).tolist() == of.tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 9)), max_size=40), st.randoms())
def test_pairs_of_small_groups_are_all(rows: list[tuple[int, int, int]], random: object) -> None:
    records = np.array([(b, k, n) for b, k, n in dict.fromkeys(rows)], BAND_RECORD)
    expected = {
        (min(a[2], b[2]), max(a[2], b[2]))
        for band in range(6)
        for a, b in combinations([r for r in records.tolist() if r[0] == band][: WHOLE_GROUP + 1], 2)
        if a[2] != b[2]
    }
    sizes = np.bincount(records["band"].astype(int)) if len(records) else np.zeros(1)
    if sizes.max() <= WHOLE_GROUP:
        found = candidate_pairs(records)
        assert set(zip(found["first"].tolist(), found["second"].tolist(), strict=True)) == expected
        assert len(found) == len(expected)


def test_a_large_group_is_connected_by_few_pairs_in_any_order() -> None:
    n = 1000
    records = np.zeros(n, BAND_RECORD)
    records["number"] = np.arange(n)
    records["key"] = np.random.default_rng(0).integers(0, 1 << 60, n)
    found = candidate_pairs(records)
    assert len(found) <= 2 * n
    links = np.zeros(n, np.int64)
    join(links, np.ascontiguousarray(found["first"]), np.ascontiguousarray(found["second"]))
    assert links.min() == -n
    center = records["number"][np.argmin(records["key"])]
    assert np.count_nonzero((found["first"] == center) | (found["second"] == center)) == n - 1
    np.testing.assert_array_equal(candidate_pairs(records[::-1].copy()), found)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=30), st.integers(0, 20), st.randoms())
def test_losses(rows: list[tuple[int, int, int]], settled: int, random: object) -> None:
    records = np.array([(*row, number) for number, row in enumerate(rows)], COPY_RECORD)
    first = {}
    for group, rank, key, number in records.tolist():
        first[group] = min(first.get(group, (True, 9, 9, 99)), (number >= settled, rank, key, number))
    expected = {
        (number, first[group][3], first[group][2])
        for group, _, _, number in records.tolist()
        if first[group][3] != number and number >= settled
    }
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert set(losses(records[order], settled).tolist()) == expected
    assert len(losses(records, settled)) == len(expected)


def test_nothing_is_a_duplicate_of_nothing() -> None:
    none = candidate_pairs(np.zeros(0, BAND_RECORD))
    assert len(none) == len(distinct_pairs(none)) == len(losses(np.zeros(0, COPY_RECORD))) == 0
