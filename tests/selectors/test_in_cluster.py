"""Clusters are cut by key into even parts, and what is picked of them is worth what a choice in one round is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.scoring.neighbours import neighbour_graph
from tamis.selectors import in_cluster
from tamis.selectors.facility_location import FacilityLocation, facility_value
from tamis.selectors.greedy import greedy
from tamis.selectors.in_cluster import (
    Members,
    affordable,
    cover,
    grown,
    numbered,
    part_of,
    parts_of,
    proposed,
    stand_for,
    values,
)
from tamis.selectors.k_means_plus_plus import KMeansPlusPlus
from tamis.selectors.vector_steps import Cover, Typicality


def unit(n: int, seed: int = 0, d: int = 8) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def members(n: int, measure: NDArray[np.int64] | None = None, seed: int = 0) -> Members:
    keys = np.arange(n, dtype=np.uint64)
    return Members(unit(n, seed), keys, np.ones(n, np.int64) if measure is None else measure, n)


def step(rule: str) -> Cover:
    return Cover.model_validate({"method": "cover", "rule": rule, "vectors": "v", "keep": {"documents": 1}})


RULES = ["k_center", "k_means_plus_plus", "facility_location"]


def test_parts_are_even_and_depend_on_keys_alone() -> None:
    assert parts_of(np.array([0, 1, in_cluster.PART, in_cluster.PART + 1])).tolist() == [0, 1, 1, 2]
    keys = np.random.default_rng(0).integers(0, 2**63, 30_000).astype(np.uint64)
    parts = np.where(np.arange(30_000) % 2, 3, 1)
    found = part_of(keys, parts)
    assert not found[parts == 1].any()
    counts = np.bincount(found[parts == 3])
    assert len(counts) == 3
    assert np.abs(counts - 5000).max() < 300
    assert np.array_equal(part_of(keys[::-1], parts[::-1]), found[::-1])


@given(st.integers(0, 10**9), st.integers(1, 10**7), st.integers(1, 300))
def test_parts_propose_enough_and_no_more_than_stated(budget: int, size: int, tokens: int) -> None:
    whole = size * tokens
    parts = -(-size // in_cluster.PART)
    in_all = parts * proposed(min(budget, whole), whole, size, parts)
    assert in_all >= min(whole, in_cluster.OVERSUPPLY * min(budget, whole))
    assert in_all < max(in_cluster.OVERSUPPLY * min(budget, whole), in_cluster.PART * tokens) + parts


@pytest.mark.parametrize("rule", RULES)
def test_smaller_budgets_give_a_beginning(rule: str) -> None:
    whole = cover(step(rule), members(150), 40, 0)
    assert len(set(whole.tolist())) == 40
    assert np.array_equal(cover(step(rule), members(150), 15, 0), whole[:15])
    assert len(cover(step(rule), members(150), 1000, 0)) == 150
    assert len(cover(step(rule), members(150), 0, 0)) == 0
    assert len(cover(step(rule), members(0), 5, 0)) == 0


@pytest.mark.parametrize("rule", RULES)
def test_budgets_in_tokens_end_with_the_pick_that_reaches_them(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = np.random.default_rng(1).integers(0, 50, 200)
    found = cover(step(rule), members(200, measure), 900, 0)
    assert measure[found].sum() >= 900 > measure[found[:-1]].sum()
    monkeypatch.setattr(in_cluster, "AT_ONCE", 7)
    assert np.array_equal(cover(step(rule), members(200, measure), 900, 0), found)
    assert len(cover(step(rule), members(200, measure), 10**6, 0)) == 200


def test_what_is_not_picked_comes_last() -> None:
    assert numbered(np.array([3, 1]), members(5)).tolist() == [5, 1, 5, 0, 5]


def test_clusters_of_few_have_nothing_typical() -> None:
    typical = Typicality.model_validate({"method": "typicality", "vectors": "v", "keep": {"documents": 1}})
    assert not values(typical, members(5), 0, 0).any()
    assert values(typical, members(6), 0, 0).all()


def test_each_chosen_one_stands_for_those_nearest_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, items = unit(90), np.array([70, 3, 41])
    nearest = [max(range(3), key=lambda j: float(x[i] @ x[items[j]])) for i in range(90)]
    expected = np.bincount(nearest, minlength=3)
    assert stand_for(x, items).tolist() == expected.tolist()
    monkeypatch.setattr(in_cluster, "PRODUCTS", 20)
    assert stand_for(x, items).tolist() == expected.tolist()
    assert len(stand_for(x, items[:0])) == 0


def test_weights_count_like_copies() -> None:
    x, weights = unit(60), np.random.default_rng(2).integers(1, 4, 60)
    copies = np.repeat(np.arange(60), weights)
    graph = neighbour_graph(x, 59)
    picks = greedy(FacilityLocation(graph, weights.astype(np.float32)), 12)
    of_copies = greedy(FacilityLocation(neighbour_graph(x[copies], len(copies) - 1)), 12)
    assert np.array_equal(picks.items, copies[of_copies.items])
    assert np.isclose(picks.gains.sum(), facility_value(x[copies], of_copies.items), rtol=1e-5)


def test_weights_make_k_means_plus_plus_likelier() -> None:
    x, keys = unit(4, 3), np.arange(4, dtype=np.uint64)
    weights = np.array([1, 1, 1, 5], np.float32)
    first = [int(greedy(KMeansPlusPlus(x, keys, seed, "draw", weights), 1).items[0]) for seed in range(400)]
    assert np.allclose(np.bincount(first, minlength=4) / 400, weights / 8, atol=0.08)


def test_two_rounds_are_worth_nearly_one() -> None:
    rng = np.random.default_rng(0)
    centres = unit(40, 1, 16)
    x = centres[rng.integers(0, 40, 1200)] + 0.15 * rng.normal(size=(1200, 16))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    everything = np.arange(1200)

    def choose(rows: NDArray[np.int64], budget: int, weights: NDArray[np.float32] | None = None) -> NDArray[np.int64]:
        some = Members(x[rows], rows.astype(np.uint64), np.ones(len(rows), np.int64), 1200, weights)
        return cover(step("facility_location"), some, budget, 0)

    proposals, weights = [], []
    for part in (everything[i::4] for i in range(4)):
        items = choose(part, 80)
        proposals.append(part[items])
        weights.append(stand_for(x[part], items))
    rows = np.concatenate(proposals)
    two = rows[choose(rows, 40, np.concatenate(weights))]
    one = facility_value(x, choose(everything, 40))
    chance = facility_value(x, rng.permutation(1200)[:40])
    assert one >= facility_value(x, two) > one - 0.25 * (one - chance)


@pytest.mark.parametrize("rule", RULES)
def test_picks_go_on_where_given_documents_end(rule: str) -> None:
    """What was picked first and is given then is followed by what would have followed."""
    whole = cover(step(rule), members(150), 40, 0)
    some = Members(unit(150), np.arange(150, dtype=np.uint64), np.ones(150, np.int64), 150, given=whole[:15])
    more = cover(step(rule), some, 25, 0)
    assert np.array_equal(more, whole[15:])
    assert values(step(rule), some, 25, 0)[more].tolist() == list(range(15, 40))
    assert len(cover(step(rule), some, 1000, 0)) == 135
    assert len(cover(step(rule), Members(*list(vars(some).values())[:5], np.arange(150)), 5, 0)) == 0


def test_of_given_documents_a_budget_in_tokens_takes_nothing() -> None:
    measure = np.random.default_rng(1).integers(1, 50, 200)
    some = Members(unit(200), np.arange(200, dtype=np.uint64), measure, 200, given=np.arange(0, 200, 10))
    found = cover(step("k_center"), some, 900, 0)
    assert measure[found].sum() >= 900 > measure[found[:-1]].sum() and (found % 10 > 0).all()
    fits = affordable(found, some, 900)
    assert fits.tolist() == (found if measure[found].sum() == 900 else found[:-1]).tolist()
    assert (values(step("k_center"), some, 900, 0) < 200).sum() == len(fits)


COUNT = st.integers(0, 2**50)


@given(st.lists(st.tuples(COUNT, COUNT, COUNT, COUNT), min_size=1, max_size=5))
def test_grown_budgets_keep_the_share_and_never_ask_for_more_than_is_new(
    clusters: list[tuple[int, int, int, int]],
) -> None:
    kept, first, more, last = (np.array(column) for column in zip(*clusters, strict=True))
    kept = np.minimum(kept, first)
    before, after = grown(kept, first, first + more), grown(kept, first, first + more + last)
    assert np.array_equal(grown(kept, first, first), kept)
    assert ((after - before >= 0) & (after - before <= last)).all()
    columns = (column.tolist() for column in (after, kept, first, first + more + last))
    assert all(budget == (share * now // of if of else 0) for budget, share, of, now in zip(*columns, strict=True))
