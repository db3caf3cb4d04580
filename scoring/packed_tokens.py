"""Documents as sequences of one length, in an order drawn by key."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import keyed_bits


class PackedTokens:
    """Documents in an order drawn by key, anew in each epoch, joined and cut into sequences of one length.

    Sequence i of an epoch is `context + 1` tokens from token `i * context` of the joined documents on, so that every
    token but the first is predicted once; what is left at an epoch's end is not. Holds 40 bytes a document.

    tokens: unsigned integers [t], may be memory-mapped; starts, lengths: int64[n], where each document's tokens are,
    those between documents included; keys: uint64[n]; weights: float32[n], of documents in the loss, None: all count 1.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        keys: NDArray[np.uint64],
        context: int,
        seed: int,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        self.tokens, self.starts, self.lengths, self.keys = tokens, starts, lengths, keys
        self.context, self.seed, self.weights = context, seed, weights
        self.total = int(lengths.sum())
        self._epoch, self._order, self._ends = -1, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def __len__(self) -> int:
        """How many sequences an epoch has."""
        return max(0, (self.total - 1) // self.context)

    def sequences(self, first: int, count: int) -> NDArray[np.int64]:
        """Return sequences int64[count, context + 1], counted on over epochs; raises ValueError where there is none."""
        return self.tokens[self._places(first, count)[1]].astype(np.int64)

    def token_weights(self, first: int, count: int) -> NDArray[np.float32] | None:
        """Return what each predicted token of `sequences` weighs, as its document does: float32[count, context]."""
        return None if self.weights is None else self.weights[self._places(first, count)[0][:, 1:]]

    def _places(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which documents the tokens of sequences are of, and where they are: int64[count, context + 1]."""
        if not len(self):
            raise ValueError(f"{self.total} tokens make no sequence of {self.context + 1}")
        parts = []
        while count:
            epoch, place = divmod(first, len(self))
            taken = min(count, len(self) - place)
            parts.append(self._of_epoch(epoch, place, taken))
            first, count = first + taken, count - taken
        documents, places = zip(*parts, strict=True)
        return np.concatenate(documents), np.concatenate(places)

    def _of_epoch(self, epoch: int, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if epoch != self._epoch:
            self._order = np.argsort(keyed_bits(self.seed, f"reference_order/{epoch}", self.keys), kind="stable")
            self._ends = np.cumsum(self.lengths[self._order])
            self._epoch = epoch
        begin, end = first * self.context, (first + count) * self.context + 1
        low, high = np.searchsorted(self._ends, [begin, end - 1], side="right")
        documents = self._order[low : high + 1]
        ends = self._ends[low : high + 1]
        begins = ends - self.lengths[documents]
        inside = np.minimum(ends, end) - np.maximum(begins, begin)
        places = np.repeat(self.starts[documents] - begins, inside) + np.arange(begin, end)
        rows = np.arange(count)[:, None] * self.context + np.arange(self.context + 1)
        return np.repeat(documents, inside)[rows], places[rows]
