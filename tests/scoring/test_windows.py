"""Windows of token sequences: each token once, enough before it, and batches that hold what the windows say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.scoring.windows import cut_windows, gather_batch, longest_first, rows_within

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda pair: (max(pair), min(pair)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), max_size=8), SIZES)
def test_every_wanted_token_is_predicted_once_from_enough(drawn: list[tuple[int, int]], sizes: tuple[int, int]) -> None:
    context, stride = sizes
    lengths = np.array([length for length, _ in drawn], np.int64)
    first = np.array([position for _, position in drawn], np.int64)
    windows = cut_windows(lengths, first, context, stride)
    predicted = [
        (sequence, position)
        for sequence, begin, end in zip(windows.sequence, windows.first, windows.end, strict=True)
        for position in range(begin, end + 1)
    ]
    wanted = [(i, p) for i, (length, begin) in enumerate(drawn) for p in range(begin, length)]
    assert sorted(predicted) == wanted
    assert (windows.inputs <= context).all()
    assert (windows.start % stride == 0).all()
    before = windows.first - windows.start
    assert ((before > context - stride) | (windows.start == 0)).all()


def test_a_stride_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="a stride of 5 leaves tokens out of windows of 4"):
        cut_windows(np.array([9]), np.array([1]), 4, 5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), SIZES, st.integers(1, 64))
def test_batches_hold_the_windows_with_padding_at_the_right(
    lengths: list[int], sizes: tuple[int, int], budget: int
) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(1, offsets[-1] + 1, dtype=np.int32)  # token = its position among all + 1
    windows = cut_windows(np.array(lengths), np.ones(len(lengths), np.int64), *sizes)
    order = longest_first(windows)
    assert (np.diff(windows.inputs[order]) <= 0).all()
    found: list[int] = []
    while len(order):
        chosen = order[: rows_within(int(windows.inputs[order[0]]), budget)]
        order = order[len(chosen) :]
        batch = gather_batch(tokens, offsets, windows, chosen)
        assert batch.inputs.size <= budget or len(chosen) == 1
        assert (np.count_nonzero(batch.inputs, axis=1) == windows.inputs[chosen]).all()
        assert (batch.inputs.ravel()[batch.rows] + 1 == batch.targets).all()
        assert (batch.targets == batch.positions + 1).all()
        found += batch.targets.tolist()
    firsts = {int(offset) + 1 for offset, length in zip(offsets, lengths, strict=False) if length}
    assert sorted(found) == sorted(set(tokens.tolist()) - firsts)
