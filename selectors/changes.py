"""Counts what differs between the documents of two runs: who entered, who left, and whose weight changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .matching import ALONE, Fates, match_copies

ROW = np.dtype(
    [("key", np.uint64), ("group", np.uint32), ("tokens", np.int32), ("weight", np.float32), ("fate", np.uint32)]
)
"""What is compared of a document, in 24 bytes."""

NOT_READ, KEPT, DROPPED = 0, 1, 2
"""Fates; from DROPPED on, dropped for the reasons in alphabetical order."""

NOTICED = 0.01
"""Weights that differ by a larger share than this are counted apart: others may differ by normalisation only."""

KINDS = ("entered", "left", "reweighted")


@dataclass(frozen=True)
class Fate:
    """What became of a document: `kept`, `dropped` with the reason, or `not read`."""

    fate: str
    reason: str | None = None


@dataclass(frozen=True)
class Count:
    """Some documents, and the sum of their tokens."""

    documents: int
    tokens: int


@dataclass(frozen=True)
class Transition:
    """Documents with the same pair of different fates. Tokens as each run counted them; 0 where it did not read."""

    old: Fate
    new: Fate
    documents: int
    old_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class GroupChange:
    """The changes in a group: kept in each run; entered, left, reweighted. What entered counts in its new group."""

    group: str
    old: Count
    new: Count
    entered: Count
    left: Count
    reweighted: Count


@dataclass(frozen=True)
class Shown:
    """A changed document, as an example. Weights are 0 where it is not kept."""

    key: int
    group: str
    old: Fate
    new: Fate
    old_weight: float
    new_weight: float


@dataclass(frozen=True)
class Reweighted:
    """Documents that both runs keep with different weights. tokens: of the new run.

    noticed: those whose weights differ by more than NOTICED of the smaller one; least, most: new over old weight,
    None where there is no such document or a weight is 0.
    """

    documents: int
    tokens: int
    raised: int
    lowered: int
    noticed: int
    least: float | None
    most: float | None


@dataclass(frozen=True)
class Changes:
    """What differs between two runs in their documents.

    same: kept in both with the same weight, or with one other fate in both; regrouped, recounted: kept in both, in
    another group or with another number of tokens; transitions: by documents, the most first; groups: those with any
    change; shown: by kind, those with the lowest keys, which are hashes.
    """

    same: int
    entered: Count
    left: Count
    reweighted: Reweighted
    regrouped: int
    recounted: int
    transitions: list[Transition]
    groups: list[GroupChange]
    shown: dict[str, list[Shown]]


@dataclass(frozen=True)
class Names:
    """Groups and reasons of both runs, in alphabetical order, which numbers them."""

    groups: Sequence[str]
    reasons: Sequence[str]

    def fate(self, number: int) -> Fate:
        """Return the fate with a number."""
        if number < DROPPED:
            return Fate("kept" if number == KEPT else "not read")
        return Fate("dropped", self.reasons[number - DROPPED])


@dataclass
class Tally:
    """Adds up the changes of one key range after the other, these in ascending order.

    names: of groups and reasons; show: so many examples of each kind are kept. Holds 80 bytes per group.
    """

    names: Names
    show: int
    same: int = 0
    regrouped: int = 0
    recounted: int = 0
    raised: int = 0
    lowered: int = 0
    noticed: int = 0
    ratios: list[float] = field(default_factory=list)
    shown: dict[str, list[Shown]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fates = DROPPED + len(self.names.reasons)
        self.fates = np.zeros((3, fates, fates), np.int64)  # documents, tokens of the old run, of the new one
        self.groups = np.zeros((5, 2, len(self.names.groups)), np.int64)  # as in GroupChange; documents, tokens

    def add(self, old: NDArray[Any], new: NDArray[Any]) -> None:
        """Count the documents of a range: all that either side has of it, rows of ROW in any order."""
        for number, side in enumerate((old, new)):
            self._count_groups(number, side[side["fate"] == KEPT])
        before, after = paired(old, new)
        self._count_fates(before, after)
        was, is_now = before["fate"] == KEPT, after["fate"] == KEPT
        both = was & is_now
        other = both & (before["weight"] != after["weight"])
        for number, kind, some, side in (
            (2, "entered", ~was & is_now, after),
            (3, "left", was & ~is_now, before),
            (4, "reweighted", other, after),
        ):
            self._count_groups(number, side[some])
            self._note(kind, before[some], after[some], side[some])
        self.same += int(np.count_nonzero((before["fate"] == after["fate"]) & ~other))
        self.regrouped += int(np.count_nonzero(both & (before["group"] != after["group"])))
        self.recounted += int(np.count_nonzero(both & (before["tokens"] != after["tokens"])))
        self._count_weights(before["weight"][other].astype(np.float64), after["weight"][other].astype(np.float64))

    def _count_groups(self, number: int, rows: NDArray[Any]) -> None:
        size = len(self.names.groups)
        self.groups[number, 0] += np.bincount(rows["group"], minlength=size)
        self.groups[number, 1] += np.bincount(rows["group"], rows["tokens"], minlength=size).astype(np.int64)

    def _count_fates(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        size = self.fates.shape[1]
        code = before["fate"].astype(np.int64) * size + after["fate"]
        for counts, weights in zip(self.fates, (None, before["tokens"], after["tokens"]), strict=True):
            counts += np.bincount(code, weights, size * size).astype(np.int64).reshape(size, size)

    def _count_weights(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
        self.raised += int(np.count_nonzero(after > before))
        self.lowered += int(np.count_nonzero(after < before))
        self.noticed += int(np.count_nonzero(np.abs(after - before) > NOTICED * np.minimum(before, after)))
        known = (before > 0) & (after > 0)
        if known.any():
            ratios = after[known] / before[known]
            self.ratios = [min([*self.ratios, float(ratios.min())]), max([*self.ratios, float(ratios.max())])]

    def _note(self, kind: str, before: NDArray[Any], after: NDArray[Any], side: NDArray[Any]) -> None:
        """Remember the changes with the lowest keys: ranges come in the order of keys."""
        noted = self.shown.setdefault(kind, [])
        wanted = min(self.show - len(noted), side.size)
        if wanted <= 0:
            return
        for n in np.lexsort((after["fate"], before["fate"], side["key"]))[:wanted]:
            noted.append(
                Shown(
                    key=int(side["key"][n]),
                    group=self.names.groups[int(side["group"][n])],
                    old=self.names.fate(int(before["fate"][n])),
                    new=self.names.fate(int(after["fate"][n])),
                    old_weight=float(before["weight"][n]),
                    new_weight=float(after["weight"][n]),
                )
            )

    def changes(self) -> Changes:
        """Return what was counted."""
        changed = np.flatnonzero(self.groups[2:].any(axis=(0, 1)))
        entered, left, other = (_count(self.groups[number].sum(axis=1)) for number in (2, 3, 4))
        least, most = self.ratios or (None, None)
        return Changes(
            same=self.same,
            entered=entered,
            left=left,
            reweighted=Reweighted(other.documents, other.tokens, self.raised, self.lowered, self.noticed, least, most),
            regrouped=self.regrouped,
            recounted=self.recounted,
            transitions=self._transitions(),
            groups=[
                GroupChange(self.names.groups[n], *(_count(counts[:, n]) for counts in self.groups))
                for n in changed.tolist()
            ],
            shown={kind: self.shown.get(kind, []) for kind in KINDS},
        )

    def _transitions(self) -> list[Transition]:
        documents = self.fates[0] * ~np.eye(len(self.fates[0]), dtype=np.bool_)
        found = [
            Transition(self.names.fate(old), self.names.fate(new), *map(int, self.fates[:, old, new]))
            for old, new in np.argwhere(documents).tolist()
        ]
        return sorted(found, key=lambda transition: -transition.documents)


def paired(old: NDArray[Any], new: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pair the documents of two sides; those without a partner are paired with a row of zeros, which is NOT_READ.

    Args:
        old: rows of ROW, in any order.
        new: likewise.

    Returns:
        Two arrays of ROW, of equal length: before and after.
    """
    partner = match_copies(*(Fates(side["key"], side["fate"], side["group"], side["weight"]) for side in (old, new)))
    has = partner != ALONE
    entered = np.ones(new.size, np.bool_)
    entered[partner[has]] = False
    after = np.zeros(old.size, ROW)
    after[has] = new[partner[has]]
    came = new[entered]
    return np.concatenate([old, np.zeros(came.size, ROW)]), np.concatenate([after, came])


def _count(counts: NDArray[np.int64]) -> Count:
    return Count(*counts.tolist())
