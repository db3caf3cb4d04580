"""Cuts token sequences into windows that a model of limited context can read, and windows into batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """Windows of sequences, in the order of the sequences; all arrays are int64[w].

    A window reads the tokens [start, end) of its sequence, and from them predicts those of [first, end].
    """

    sequence: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    first: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def inputs(self) -> NDArray[np.int64]:
        """How many tokens each window reads."""
        return self.end - self.start


def cut_windows(lengths: NDArray[np.int64], first_scored: NDArray[np.int64], context: int, stride: int) -> Windows:
    """Cut sequences so that every token from `first_scored` on is predicted in exactly one window.

    Window k of a sequence reads `context` tokens from `k * stride` on, fewer at the end, and predicts those that no
    window before it does. So a token is predicted from at least `context - stride` tokens before it, or from all of
    them. With `stride` equal to `context`, a window's first token is the last one that the window before it predicts.

    Args:
        lengths: tokens of each of n sequences, int64[n].
        first_scored: int64[n], position of the first token to be predicted, >= 1: nothing predicts the token at 0.
        context: most tokens that a window reads, >= 1.
        stride: 1 to `context`.

    Returns:
        The windows; those that predict nothing are left out.

    Raises:
        ValueError: `stride` is not between 1 and `context`.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"a stride of {stride} leaves tokens out of windows of {context}")
    last = lengths - 1
    counts = np.where(last < 1, 0, 1 + -(-np.maximum(last - context, 0) // stride))
    sequence = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * stride
    end = np.minimum(start + context, last[sequence])
    predicted_before = np.where(number > 0, start - stride + context, 0)
    first = np.maximum(predicted_before + 1, first_scored[sequence])
    needed = first <= end
    return Windows(sequence[needed], start[needed], end[needed], first[needed])


def longest_first(windows: Windows) -> NDArray[np.int64]:
    """Return the order in which windows of like length are neighbours: int64[w], the longest first."""
    return np.argsort(-windows.inputs, kind="stable")


def rows_within(inputs: int, budget: int) -> int:
    """Return how many windows, padded to `inputs` tokens, go into a batch of `budget` tokens; at least one."""
    return max(1, budget // inputs)


@dataclass(frozen=True)
class WindowBatch:
    """Some windows as a model reads them.

    inputs: int64[b, l], tokens padded with 0 at the right; rows: int64[m], places in the flattened `inputs` whose
    outputs predict tokens; targets: int64[m], those tokens; positions: int64[m], where they are among all tokens.
    """

    inputs: NDArray[np.int64]
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64]


def gather_batch(
    tokens: NDArray[np.int32], offsets: NDArray[np.int64], windows: Windows, chosen: NDArray[np.int64]
) -> WindowBatch:
    """Put windows together into a batch.

    Args:
        tokens: int32[t], the tokens of all sequences; sequence i is tokens[offsets[i]:offsets[i + 1]].
        offsets: int64[n + 1].
        windows: windows of these sequences.
        chosen: int64[b], which of them.
    """
    base = offsets[windows.sequence[chosen]][:, None]
    start, end, first = (array[chosen][:, None] for array in (windows.start, windows.end, windows.first))
    place = start + np.arange(int((end - start).max()))
    inputs = np.where(place < end, tokens[base + np.minimum(place, end - 1)], 0).astype(np.int64)
    predicts = (place + 1 >= first) & (place < end)
    positions = (base + place + 1)[predicts]
    return WindowBatch(inputs, np.flatnonzero(predicts), tokens[positions].astype(np.int64), positions)
