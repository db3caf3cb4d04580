"""What a process of a loader does step by step: finds the places of documents, and reads them from its streams."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .row_groups import Permuted, Source
from .stream_reader import Document, Stream, StreamReader
from .streams import GroupDraws, Indices, Order, Slots, bounds


class Changes(Protocol):
    """Knows the shares of groups at each step. groups: their number."""

    groups: int

    def at(self, step: int) -> NDArray[np.float64]:
        """Return the shares at a step, float64[groups]."""

    def between(self, first: int, end: int) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        """Yield (first, end, shares) for the steps [first, end)."""


class Steps:
    """Gives the places of the documents of steps, asked for in ascending order."""

    def __init__(self, order: Order, control: Changes, seed: int, epoch: int) -> None:
        self._order, self._control = order, control
        self._draws = GroupDraws(seed, epoch, order.streams, control.groups) if order.endless else None
        self._last: tuple[int, Slots | None] = -1, None

    def slots(self, step: int) -> Slots:
        """Return the documents of a step."""
        last, slots = self._last
        if last == step and slots is not None:
            return slots
        slots = self._order.slots(step)
        if self._draws is not None:
            for first, end, shares in self._control.between(last + 1, step):
                self._draws.skip(self._order, first, end, shares)
            slots = self._draws.draw(slots, self._control.at(step))
        self._last = step, slots
        return slots


class Readers:
    """The streams that a process reads, each opened when its first document is asked for."""

    def __init__(
        self,
        source: Source,
        counts: Indices,
        order: Order,
        epoch: int,
        seed: int,
        buffer: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._source, self._order, self._epoch, self._seed, self._pool = source, order, epoch, seed, pool
        labels = [f"loader {epoch} {group}" for group in range(counts.shape[1])]
        self._groups = [Permuted.of(of, seed, label) for of, label in zip(counts.T, labels, strict=True)]
        self._window = max(1, buffer // (order.streams * counts.shape[1]))
        self._readers: dict[tuple[int, int], StreamReader] = {}

    def documents(self, slots: Slots) -> list[Document]:
        """Return the documents at some places."""
        found = []
        for stream, ordinal, group in zip(*(part.tolist() for part in slots), strict=True):
            reader = self._readers.get((stream, group)) or self._open(stream, group)
            found.append(reader.document(ordinal))
        return found

    def _open(self, stream: int, group: int) -> StreamReader:
        permuted, streams = self._groups[group], self._order.streams
        documents = permuted.documents
        few = self._order.endless and documents < streams
        first, end = (0, documents) if few else bounds(stream, streams, documents)
        label = f"loader {self._epoch} {group} {stream}"
        found = Stream(permuted, first, end, group, label, self._order.endless)
        reader = StreamReader(self._source, found, self._epoch, self._seed, self._window, self._pool)
        self._readers[stream, group] = reader
        return reader
