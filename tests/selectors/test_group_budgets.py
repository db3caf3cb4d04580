"""Bounds of a recipe become budgets of groups, and the report says truly what could not be met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tamis.selectors.budget import Allocate, Keep
from tamis.selectors.group_budgets import GROUPS_REPORTED, GroupBudgets, group_budgets, group_report, notes

NAMES = pa.array(["books", "code", "web"])


def split(keep: dict[str, Any], sizes: list[int], names: pa.Array = NAMES, **settings: Any) -> GroupBudgets:
    documents = np.array(sizes, np.int64)
    return group_budgets(Keep(**keep), Allocate(**settings), names, documents, documents * 10, None)


def report(given: GroupBudgets, names: pa.Array = NAMES) -> list[dict[str, Any]]:
    return group_report(given, names, given.budgets, given.budgets)


def unmet(given: GroupBudgets) -> dict[str, str]:
    return {row["group"]: row["unmet"] for row in report(given) if row["unmet"] is not None}


def test_shares_are_of_the_total_and_amounts_are_amounts() -> None:
    bounds = {"code": {"min": 0.2, "max": 0.5}, "books": {"max": {"documents": 7}}}
    given = split({"documents": 100}, [50, 10, 1000], per_group=bounds)
    assert given.budgets.tolist() == [4, 10, 86]  # code all of its 10, the others in proportion
    assert given.floors.tolist() == [0, 20, 0]
    assert [row["ceiling"] for row in report(given)] == [7, 50, None]
    assert unmet(given) == {"code": "20 documents wanted, 10 given: the group has only 10"}


def test_a_fraction_is_of_what_there_is_and_so_are_shares_of_a_total_that_is_not_there() -> None:
    assert split({"fraction": 0.1}, [50, 50, 900], per_group={"code": {"min": 0.3}}).budgets.tolist() == [4, 30, 66]
    scarce = split({"documents": 1000}, [10, 10, 80], per_group={"web": {"max": 0.5}})
    assert scarce.total == 100
    assert scarce.budgets.tolist() == [10, 10, 50]
    assert notes(scarce, "step", NAMES) == [
        "step: 30 of 100 documents are left over, since each group is at its max or whole"
    ]


def test_tokens_are_split_in_tokens() -> None:
    given = split({"tokens": 501}, [50, 10, 100], mode="equal", per_group={"web": {"min": {"tokens": 300}}})
    assert given.budgets.tolist() == [101, 100, 300]
    full = group_report(given, NAMES, np.array([10, 9, 0]), np.array([99, 90, 0]))
    assert [row["kept_tokens"] for row in full] == [99, 90, 0]
    assert full[2]["unmet"] == "its first document is larger than its budget of 300 tokens"
    assert full[0]["unmet"] is None


def test_the_default_is_for_groups_that_are_not_named() -> None:
    given = split(
        {"documents": 100}, [500, 500, 500], default={"max": 0.1}, per_group={"web": {"min": 0.2}}, mode="round_robin"
    )
    assert given.budgets.tolist() == [10, 10, 80]
    given = split({"documents": 100}, [0, 0, 500], default={"min": 0.2}, per_group={"code": {"min": 0.1}})
    assert unmet(given) == {"code": "10 documents wanted, 0 given: the group has only 0"}
    assert [row["group"] for row in report(given)] == ["code", "web"]


@given(st.integers(0, 400), st.lists(st.integers(0, 100), min_size=3, max_size=3), st.integers(0, 100))
def test_no_group_gets_less_than_its_min_or_more_than_its_max(total: int, sizes: list[int], percent: int) -> None:
    low, high = 0.2 * percent / 100, percent / 100
    given = split({"documents": total}, sizes, default={"min": low, "max": high})
    assert (given.budgets <= high * given.total + 1e-9).all()
    for row in report(given):
        no_number_between = low * given.total + 1 > high * given.total
        assert row["budget"] >= low * given.total - 1e-9 or row["unmet"] or no_number_between


def test_a_small_group_is_repeated_and_then_met() -> None:
    bounds = {"books": {"min": 0.1}, "code": {"min": 0.4}}
    given = split({"documents": 100}, [5, 5, 500], per_group=bounds, repeat=4)
    assert given.repeats.tolist() == [2.0, 4.0, 1.0]
    assert unmet(given) == {"code": "40 documents wanted, 5 given: the group has only 5, which count 4 times"}
    assert notes(given, "step", NAMES) == ["step: 1 group does not reach the min"]
    assert [row["repeated"] for row in report(given)] == [2.0, 4.0, 1.0]


def test_bounds_that_clash_only_in_this_corpus_are_reported() -> None:
    clash = {"code": {"min": 0.5, "max": {"documents": 10}}}
    given = split({"documents": 100}, [100, 100, 100], per_group=clash)
    assert unmet(given) == {"code": "50 documents wanted, 10 given: its max is below its min"}
    together = {"code": {"min": {"documents": 80}}, "web": {"min": {"documents": 40}}}
    given = split({"fraction": 0.2}, [100, 100, 100], per_group=together)
    assert given.budgets.tolist() == [0, 40, 20]
    assert unmet(given)["web"] == (
        "40 documents wanted, 20 given: the min of all groups together exceed the total of 60"
    )


def test_shares_between_which_no_whole_number_lies_are_no_clash() -> None:
    halves = {name: {"min": 0.5, "max": 0.5} for name in ("code", "web")}
    given = split({"documents": 101}, [100, 100, 100], per_group=halves)
    assert given.budgets.tolist() == [1, 50, 50]
    assert not unmet(given)


def test_an_unknown_group_is_reported_with_the_nearest_one() -> None:
    given = split({"documents": 10}, [9, 9, 9], per_group={"codes": {"min": 0.5}})
    assert notes(given, "step", NAMES) == [
        "step: allocate.per_group names `codes`, which is no group of the corpus (nearest: code)"
    ]


@pytest.mark.parametrize("short", [3, GROUPS_REPORTED + 500])
def test_of_many_groups_only_the_unmet_ones_are_reported(short: int) -> None:
    names = pa.array([f"g{i:05}" for i in range(5000)])
    sizes = [1] * short + [10] * (5000 - short)
    given = split({"documents": 30_000}, sizes, names, default={"min": {"documents": 4}})
    rows = report(given, names)
    assert [row["group"] for row in rows] == [f"g{i:05}" for i in range(min(short, GROUPS_REPORTED))]
    assert all(row["unmet"] for row in rows)
    assert notes(given, "step", names) == [f"step: {short:,} groups do not reach the min"]


def test_without_groups_there_is_nothing_to_split() -> None:
    given = split({"documents": 5}, [], pa.array([], pa.string()))
    assert given.budgets.tolist() == []
    assert report(given, pa.array([], pa.string())) == []
