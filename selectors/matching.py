"""Pairs the documents of two runs by key, several copies of a key as multisets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

ALONE = -1
"""The partner of a document that the other side lacks."""


@dataclass(frozen=True)
class Fates:
    """What became of documents.

    keys: uint64[n]; fates, groups: uint32[n], numbered alike on both sides; weights: float32[n] without NaN.
    """

    keys: NDArray[np.uint64]
    fates: NDArray[np.uint32]
    groups: NDArray[np.uint32]
    weights: NDArray[np.float32]

    @property
    def states(self) -> NDArray[np.uint64]:
        """Fate in the upper 32 bits, group in the lower."""
        return (self.fates.astype(np.uint64) << np.uint64(32)) | self.groups.astype(np.uint64)


def match_copies(old: Fates, new: Fates) -> NDArray[np.int64]:
    """Pair the documents of two sides that have the same key, so that few of its copies change.

    Copies of a key are interchangeable: only the counts of each state matter. Four rounds, each over what the one
    before it left, pair copies of equal fate, group and weight; of equal fate and group; of equal fate; and of the
    key, always in the order of fate, group and weight. What is left over on the longer side has no partner. With the
    sides exchanged the same states are paired. Holds 33 bytes per document beside its arguments; time n log n.

    Args:
        old: n documents, in any order.
        new: m documents.

    Returns:
        int64[n]: for each document of the old side its partner's index on the new side, ALONE where it has none.

    Source: a sort-merge join; the rounds are Tamis' own.
    """
    partner = np.full(old.keys.size, ALONE, np.int64)
    taken = np.zeros(new.keys.size, np.bool_)
    sides = [(np.ascontiguousarray(s.keys), s.states, np.ascontiguousarray(s.weights)) for s in (old, new)]
    orders = [_order(*side) for side in sides]
    arguments: list[Any] = [*sides[0], *sides[1], *orders, partner, taken]
    _merge(*arguments)
    return partner


def _order(keys: NDArray[np.uint64], states: NDArray[np.uint64], weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Order by key, state and weight; all but the key is compared only where keys repeat (six times as fast)."""
    order = np.argsort(keys).astype(np.int64, copy=False)
    ascending = keys[order]
    same = ascending[1:] == ascending[:-1]
    if same.any():
        copies = np.concatenate([same, [False]]) | np.concatenate([[False], same])
        some = order[copies]
        order[copies] = some[np.lexsort((weights[some], states[some], keys[some]))]
    return order


@njit(nogil=True, cache=True)
def _merge(
    old_keys: Any,
    old_states: Any,
    old_weights: Any,
    new_keys: Any,
    new_states: Any,
    new_weights: Any,
    old_order: Any,
    new_order: Any,
    partner: Any,
    taken: Any,
) -> None:
    i, j = 0, 0
    while i < old_order.size and j < new_order.size:
        key, other = old_keys[old_order[i]], new_keys[new_order[j]]
        if key < other:
            i += 1
        elif key > other:
            j += 1
        else:
            old_end, new_end = i + 1, j + 1
            while old_end < old_order.size and old_keys[old_order[old_end]] == key:
                old_end += 1
            while new_end < new_order.size and new_keys[new_order[new_end]] == key:
                new_end += 1
            if old_end == i + 1 and new_end == j + 1:
                partner[old_order[i]] = new_order[j]
            else:
                olds, news = old_order[i:old_end], new_order[j:new_end]
                _pair(olds, old_states, old_weights, news, new_states, new_weights, 0, True, partner, taken)
                for shift in (0, 32, 63):  # no fate has the highest bit, so that at last all are equal
                    _pair(olds, old_states, old_weights, news, new_states, new_weights, shift, False, partner, taken)
            i, j = old_end, new_end


@njit(nogil=True, cache=True)
def _pair(
    olds: Any,
    old_states: Any,
    old_weights: Any,
    news: Any,
    new_states: Any,
    new_weights: Any,
    shift: Any,
    by_weight: Any,
    partner: Any,
    taken: Any,
) -> None:
    """Merge the copies of one key that have no partner yet and whose states agree above the lowest `shift` bits."""
    bits = np.uint64(shift)
    i, j = 0, 0
    while i < olds.size and j < news.size:
        old, new = olds[i], news[j]
        if partner[old] != ALONE:
            i += 1
        elif taken[new]:
            j += 1
        else:
            state, other = old_states[old] >> bits, new_states[new] >> bits
            if state < other or (by_weight and state == other and old_weights[old] < new_weights[new]):
                i += 1
            elif state > other or (by_weight and state == other and old_weights[old] > new_weights[new]):
                j += 1
            else:
                partner[old] = new
                taken[new] = True
                i += 1
                j += 1
