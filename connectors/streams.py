"""The order in which a loader gives documents: a pure function of the step, whatever the number of ranks and workers.

The documents of an epoch are cut into streams of equal length (to one). A step takes its global batch from one cohort
of streams, in turn around it, and the next step from the next cohort. So rank r of R needs only every R-th stream of a
cohort, and worker w of W only every W-th cohort, as long as these numbers divide those of the grid: no rank or worker
then reads what another one reads. Where they do not divide, the order is the same, and some streams are read twice.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .keys import keyed_bits

Indices = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: its multiples fill the circle evenly, whatever the arcs that shares cut it into."""


class Slots(NamedTuple):
    """Places of documents: the stream of each, the ordinal in it, and the group it is of (0 where groups do not matter;
    with groups, ordinals count those of the stream and group). int64[n] each.
    """

    stream: Indices
    ordinal: Indices
    group: Indices

    @classmethod
    def of(cls, stream: Indices, ordinal: Indices) -> Slots:
        """Make some without groups."""
        return cls(stream, ordinal, np.zeros(len(stream), np.int64))

    def at(self, chosen: slice) -> Slots:
        """Return some of them."""
        return Slots(self.stream[chosen], self.ordinal[chosen], self.group[chosen])


def usable_streams(streams: int, units: int) -> int:
    """Return the largest divisor of `streams` that leaves each stream four units (row groups) or more, at least 1.

    A stream that begins within a row group decodes what lies before: half a unit in four is what that may cost.
    """
    return next(d for d in range(min(streams, max(1, units // 4)), 0, -1) if streams % d == 0)


def bounds(stream: int, streams: int, documents: int) -> tuple[int, int]:
    """Return the first document of a stream and the end, in the permuted order of an epoch."""
    return stream * documents // streams, (stream + 1) * documents // streams


@dataclass(frozen=True)
class Order:
    """The order of one epoch.

    documents: in the epoch; streams: that they are cut into; batch: documents of a step over all ranks; endless:
    streams begin again when they end (with shares of groups), so that the epoch has whole steps only.
    """

    documents: int
    streams: int
    batch: int
    endless: bool = False

    @property
    def cohorts(self) -> int:
        """Groups of streams that steps take in turn: the largest divisor whose square is at most `streams`."""
        return _cohorts(self.streams)

    @property
    def width(self) -> int:
        """Streams in a cohort."""
        return self.streams // self.cohorts

    @property
    def whole(self) -> int:
        """Steps before the last streams run dry: all of them take their documents from one cohort."""
        if self.endless:
            return max(self.documents // self.batch, min(self.documents, 1))
        return self.documents // self.streams * self.width // self.batch * self.cohorts

    @property
    def steps(self) -> int:
        """Steps of the epoch, the last of which may have fewer documents."""
        return self.whole if self.endless else _up(self.documents, self.batch)

    def slots(self, step: int) -> Slots:
        """Return the documents of a step, int64[batch], fewer in the last one."""
        if step < self.whole:
            return self.whole_slots(np.array([step], np.int64))
        first = (step - self.whole) * self.batch
        return self._rest().at(slice(first, first + self.batch))

    def whole_slots(self, steps: Indices) -> Slots:
        """Return the documents of whole steps, int64[len(steps) * batch]."""
        place = (steps // self.cohorts)[:, None] * self.batch + np.arange(self.batch)
        stream = (steps % self.cohorts)[:, None] * self.width + place % self.width
        return Slots.of(stream.ravel(), (place // self.width).ravel())

    def _rest(self) -> Slots:
        """Return what whole steps leave, fewer than cohorts * batch + 2 * streams documents, in turn around streams."""
        stream = np.arange(self.streams, dtype=np.int64)
        taken = self.whole // self.cohorts * self.batch
        first = np.maximum(-(-(taken - stream % self.width) // self.width), 0)
        length = (stream + 1) * self.documents // self.streams - stream * self.documents // self.streams
        left = length - first
        ordinal = np.repeat(first - np.cumsum(left) + left, left) + np.arange(int(left.sum()))
        stream = np.repeat(stream, left)
        order = np.lexsort((stream, ordinal))
        return Slots.of(stream[order], ordinal[order])


@dataclass(frozen=True)
class Share:
    """Which part of each step a consumer takes.

    rank, ranks: of the processes that train; size: documents in a batch of a loader; accumulate: such batches of one
    rank in a step. A step has size * accumulate * ranks documents.
    """

    rank: int
    ranks: int
    size: int
    accumulate: int

    @property
    def batch(self) -> int:
        """Documents of a step over all ranks."""
        return self.size * self.accumulate * self.ranks

    def batches(self, order: Order, drop_last: bool) -> int:
        """Return the loader batches of an epoch, the same on all ranks."""
        whole, last = self._last(order, drop_last)
        return whole * self.accumulate + _up(_up(last, self.ranks), self.size)

    def documents(self, order: Order, drop_last: bool) -> int:
        """Return the documents that this rank gets in an epoch, padding included."""
        whole, last = self._last(order, drop_last)
        mine = len(range(self.rank, last, self.ranks))
        return whole * self.size * self.accumulate + mine + self._pads(last, mine)

    def _last(self, order: Order, drop_last: bool) -> tuple[int, int]:
        """Return the steps with a whole batch, and the documents of one more."""
        whole, last = (order.steps, 0) if order.endless else divmod(order.documents, self.batch)
        return whole, 0 if drop_last else last

    def _pads(self, last: int, mine: int) -> bool:
        """Whether this rank would have one batch less than others in a last step of so many documents."""
        return mine < _up(last, self.ranks) and mine % self.size == 0

    def take(self, slots: Slots, part: int) -> tuple[Slots, bool]:
        """Return this rank's documents in one of the batches of a step, and whether they only pad.

        slots: of the step; part: number of the batch in it. A whole step is dealt out by turns, so that a batch keeps
        to few streams. What pads is one document that another rank has too.
        """
        if len(slots.stream) == self.batch:
            return slots.at(slice(self.rank + self.ranks * part, None, self.ranks * self.accumulate)), False
        mine = slots.at(slice(self.rank, None, self.ranks))
        taken = mine.at(slice(part * self.size, (part + 1) * self.size))
        if not len(taken.stream) and self._pads(len(slots.stream), len(mine.stream)):
            return slots.at(slice(0, 1)), True
        return taken, False


@functools.cache
def _cohorts(streams: int) -> int:
    return next(d for d in range(math.isqrt(streams), 0, -1) if streams % d == 0)


def _up(number: int, parts: int) -> int:
    """Return number / parts, rounded up."""
    return -(-number // parts)


def window_order(seed: int, label: str, number: int, length: int) -> Indices:
    """Return a permutation of the documents of one window of a stream, int64[length]."""
    keys = np.arange(length, dtype=np.uint64)
    return np.argsort(keyed_bits(seed, f"{label} window {number}", keys), kind="stable")


class GroupDraws:
    """Which group each slot of each stream takes its document from, and how many of that group the stream had before.

    A slot's place on the circle is fixed; the shares of its step say whose arc that is. So any batch follows the shares
    to about one document per stream, and shares may change with any step. Holds 8 bytes per stream and group.
    """

    def __init__(self, seed: int, epoch: int, streams: int, groups: int) -> None:
        self._offsets = keyed_bits(seed, f"loader shares {epoch}", np.arange(streams, dtype=np.uint64))
        self.taken = np.zeros((streams, groups), np.int64)

    def _groups(self, slots: Slots, shares: NDArray[np.float64]) -> Indices:
        bits = self._offsets[slots.stream] + slots.ordinal.astype(np.uint64) * _GOLDEN
        arcs = np.cumsum(shares)
        place = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 * arcs[-1]
        return np.minimum(np.searchsorted(arcs, place, side="right"), np.flatnonzero(shares)[-1])

    def draw(self, slots: Slots, shares: NDArray[np.float64]) -> Slots:
        """Return a step's slots with their groups, and count them.

        shares: float64[groups], not negative, of any sum above 0. All steps are to be drawn, in their order.
        """
        groups = self._groups(slots, shares)
        lanes = slots.stream * self.taken.shape[1] + groups
        sorted_ = np.argsort(lanes, kind="stable")
        lane = lanes[sorted_]
        begins = np.flatnonzero(np.append(True, lane[1:] != lane[:-1]))
        counts = np.diff(np.append(begins, len(lane)))
        ordinals = np.empty(len(lane), np.int64)
        ordinals[sorted_] = np.arange(len(lane)) - np.repeat(begins, counts) + self.taken.ravel()[lane]
        self.taken.ravel()[lane[begins]] += counts
        return Slots(slots.stream, ordinals, groups)

    def skip(self, order: Order, first: int, end: int, shares: NDArray[np.float64]) -> None:
        """Count the slots of steps that are not to be drawn. shares: of all of these steps."""
        block = max(1, (1 << 20) // order.batch)
        for start in range(first, end, block):
            slots = order.whole_slots(np.arange(start, min(start + block, end), dtype=np.int64))
            lanes = slots.stream * self.taken.shape[1] + self._groups(slots, shares)
            self.taken += np.bincount(lanes, minlength=self.taken.size).reshape(self.taken.shape)
