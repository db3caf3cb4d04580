"""Decisions on rows against a plain loop over documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.connectors.keys import keyed_bits, keyed_gumbel
from tamis.selectors.budget import band_start, budget
from tamis.selectors.cuts import Cuts, Ranked
from tamis.selectors.decide import DecidedStep, Pick, Rows, decide, picked, ranked_rows, reasons_of, with_scores
from tamis.selectors.radix import RadixSelect
from tamis.selectors.steps import Band, Bottom, Keep, RankStep, Resample, Sample, Step, Threshold, Top

Int64 = NDArray[np.int64]

SEED = 5
SCORES = st.sampled_from([math.nan, -1.0, -0.0, 0.0, 0.25, 0.5, 1.0, math.inf])


@dataclass(frozen=True)
class Document:
    key: int
    group: int
    tokens: int
    a: float
    b: float


documents = st.lists(
    st.builds(
        Document,
        key=st.integers(0, 6) | st.integers(0, 2**64 - 1),  # copies of a document share their key
        group=st.integers(0, 2),
        tokens=st.integers(0, 9),
        a=SCORES,
        b=SCORES,
    ),
    max_size=25,
)


def keep(**settings: Any) -> Keep:
    return Keep(**settings)


STEPS: list[Step] = [
    Threshold(method="threshold", by="a", min=-0.5),
    Top(method="top", by="b", keep=keep(documents=4), within="group"),
    Sample(method="sample", keep=keep(fraction=0.7)),
    Bottom(method="bottom", by="a", keep=keep(tokens=25)),
    Resample(method="resample", by=["a", "b"], proportions=[3, 1], keep=keep(documents=6), temperature=2.0),
    Band(method="band", by="b", keep=keep(documents=2)),
]


@dataclass
class RowArrays:
    """Rows in memory."""

    keys: NDArray[np.uint64]
    positions: NDArray[np.uint64]
    groups: NDArray[np.int64]
    tokens: NDArray[np.int64]
    scores: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.keys)


def rows_of(given: list[Document], order: list[int] | None = None) -> RowArrays:
    places = list(range(len(given))) if order is None else order
    chosen = [given[place] for place in places]
    return RowArrays(
        keys=np.array([d.key for d in chosen], dtype=np.uint64),
        positions=np.array(places, dtype=np.uint64),
        groups=np.array([d.group for d in chosen], dtype=np.int64),
        tokens=np.array([d.tokens for d in chosen], dtype=np.int64),
        scores={name: np.array([getattr(d, name) for d in chosen], dtype=np.float64) for name in ("a", "b")},
    )


# -- how a run decides: budgets and cuts by the radix select -----------------------------------------------------------


def cut_at(ranked: Ranked, budgets: Callable[[Int64, Int64], Int64], weighted: bool) -> Cuts:
    select = RadixSelect(3, weighted, memory=1 << 12, gather_rows=4)
    while select.phase != "done":
        select.advance(select.observe(ranked), budgets)
    return select.cuts()


def next_pick(step: RankStep, share: Fraction, ranked: Ranked) -> Pick:
    keep = step.keep

    def size(documents: Int64, tokens: Int64) -> Int64:
        return budget(keep, documents, tokens) * share.numerator // share.denominator

    if not isinstance(step, Band):
        return Pick(cut_at(ranked, size, keep.weighted))
    skip = cut_at(ranked, lambda n, tokens: band_start(step.center, size(n, tokens), n), keep.weighted)
    return Pick(cut_at(ranked, lambda n, tokens: size(n, tokens) + skip.kept, keep.weighted), skip)


def cut_steps(rows: Rows, steps: list[Step]) -> list[DecidedStep]:
    decided: list[DecidedStep] = []
    for step in steps:
        current = DecidedStep(step, temperature=getattr(step, "temperature", None) or 1.0)
        if isinstance(step, RankStep):
            candidates = with_scores(rows, step, decide(rows, decided, SEED))
            for number, share in enumerate(step.picks):
                taken = picked(rows, current, candidates, SEED)
                ranked = ranked_rows(rows, current, candidates, SEED, number)
                left = replace(ranked, group=np.where(taken, np.int64(-1), ranked.group))
                current.picks.append(next_pick(step, share, left))
        decided.append(current)
    return decided


# -- the oracle: the same in plain words -------------------------------------------------------------------------------


def noise(step: Step, pick: int, key: int) -> tuple[int, float]:
    name = step.name if pick == 0 else f"{step.name}/{pick}"
    keys = np.array([key], dtype=np.uint64)
    return int(keyed_bits(SEED, name, keys)[0]), float(keyed_gumbel(SEED, name, keys)[0])


def place(step: Step, pick: int, d: Document) -> float:
    if isinstance(step, Top):
        return -d.b
    if isinstance(step, Bottom):
        return d.a
    if isinstance(step, Band):
        return d.b
    if isinstance(step, Sample):
        return noise(step, 0, d.key)[0]
    return -((d.a, d.b)[pick] / 2.0 + noise(step, pick, d.key)[1])


def take(step: RankStep, given: list[Document], alive: list[int]) -> set[int]:
    taken: set[int] = set()
    for pick, share in enumerate(step.picks):
        for group in range(3) if step.within else [None]:
            inside = [i for i in alive if i not in taken and group in (None, given[i].group)]
            inside.sort(key=lambda i: (place(step, pick, given[i]), given[i].key, i))
            if step.keep.tokens is not None:
                left = step.keep.tokens
                for i in inside:
                    left -= given[i].tokens
                    if left < 0:
                        break
                    taken.add(i)
                continue
            size = min(step.keep.documents, len(inside)) if step.keep.documents is not None else len(inside) * 7 // 10
            start = max(0, math.floor(len(inside) / 2 - size / 2 + 0.5)) if isinstance(step, Band) else 0
            start = min(start, len(inside) - size)
            taken.update(inside[start : start + math.floor(size * share)])
    return taken


def plain_decide(given: list[Document], steps: list[Step]) -> list[str | None]:
    reasons: list[str | None] = [None] * len(given)
    for step in steps:
        for i, d in enumerate(given):
            if reasons[i] is None and any(math.isnan(getattr(d, name)) for name in step.needs):
                reasons[i] = "no_score"
        alive = [i for i, reason in enumerate(reasons) if reason is None]
        stays = take(step, given, alive) if isinstance(step, RankStep) else {i for i in alive if given[i].a >= -0.5}
        for i in alive:
            if i not in stays:
                reasons[i] = step.name
    return reasons


def decided_reasons(rows: Rows, decided: list[DecidedStep]) -> list[str | None]:
    names = reasons_of([d.step for d in decided])
    return [None if number < 0 else names[number] for number in decide(rows, decided, SEED).tolist()]


@given(documents, st.permutations(STEPS), st.integers(1, len(STEPS)))
@settings(deadline=None, max_examples=100)
def test_steps_in_any_order_are_those_of_the_plain_loop(given: list[Document], steps: list[Step], count: int) -> None:
    rows = rows_of(given)
    decided = cut_steps(rows, steps[:count])
    assert decided_reasons(rows, decided) == plain_decide(given, steps[:count])


@given(documents, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_and_shards_of_the_rows_change_nothing(given: list[Document], random: Any) -> None:
    whole = rows_of(given)
    decided = cut_steps(whole, STEPS)
    expected = decided_reasons(whole, decided)
    order = random.sample(range(len(given)), len(given))
    middle = random.randint(0, len(given))
    for part in (order, order[:middle], order[middle:]):
        assert decided_reasons(rows_of(given, part), decided) == [expected[i] for i in part]


def test_reasons_are_numbered_in_the_order_of_the_steps() -> None:
    assert reasons_of(STEPS[:2]) == ["no_score", "threshold_a", "top_b"]
    rows = rows_of([Document(1, 0, 1, math.nan, 0.0), Document(2, 0, 1, -1.0, 0.0), Document(3, 0, 1, 0.0, 0.0)])
    assert decide(rows, [DecidedStep(STEPS[0])], SEED).tolist() == [0, 1, -1]


@pytest.mark.parametrize("budget_size", [0, 1, 7, 20])
def test_a_sample_keeps_the_same_keys_whatever_the_positions(budget_size: int) -> None:
    step = Sample(method="sample", keep=keep(documents=budget_size))
    given = [Document(key, 0, 1, 0.0, 0.0) for key in range(20)]
    kept = []
    for order in (list(range(20)), list(range(20))[::-1]):
        moved = [given[i] for i in order]
        rows = rows_of(moved)
        reasons = decide(rows, cut_steps(rows, [step]), SEED)
        kept.append({d.key for d, reason in zip(moved, reasons, strict=True) if reason < 0})
    assert kept[0] == kept[1]
    assert len(kept[0]) == budget_size
