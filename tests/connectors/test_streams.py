"""The order of a loader: laws that hold for any number of documents, streams, ranks and workers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.row_groups import Permuted
from tamis.connectors.streams import GroupDraws, Order, Share, Slots, bounds, usable_streams, window_order

LAYOUTS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
"""Ranks, documents in a batch, batches in a step."""


def pairs(slots: Slots) -> list[tuple[int, int]]:
    return list(zip(slots.stream.tolist(), slots.ordinal.tolist(), strict=True))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400), st.integers(1, 24), st.integers(1, 50))
def test_steps_have_each_document_of_each_stream_once(documents: int, streams: int, batch: int) -> None:
    order = Order(documents, streams, batch)
    steps = [pairs(order.slots(step)) for step in range(order.steps)]
    assert [len(step) for step in steps[:-1]] == [batch] * (order.steps - 1)
    lengths = [end - first for first, end in (bounds(stream, streams, documents) for stream in range(streams))]
    assert max(lengths) - min(lengths) <= 1
    wanted = [(stream, ordinal) for stream, length in enumerate(lengths) for ordinal in range(length)]
    assert sorted(pair for step in steps for pair in step) == wanted
    ordinals: dict[int, int] = {}
    for stream, ordinal in (pair for step in steps for pair in step):
        assert ordinal == ordinals.get(stream, 0), "a stream is read from its begin to its end"
        ordinals[stream] = ordinal + 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 24), LAYOUTS)
def test_ranks_and_batches_share_a_step_out(documents: int, streams: int, layout: tuple[int, int, int]) -> None:
    ranks, size, accumulate = layout
    shares = [Share(rank, ranks, size, accumulate) for rank in range(ranks)]
    order = Order(documents, streams, shares[0].batch)
    given_: list[list[tuple[int, int]]] = [[] for _ in range(order.steps)]
    totals = [0] * ranks
    for rank, share in enumerate(shares):
        for batch in range(share.batches(order, drop_last=False)):
            step, part = divmod(batch, accumulate)
            taken, pads = share.take(order.slots(step), part)
            assert 1 <= len(taken.stream) <= size
            totals[rank] += len(taken.stream)
            given_[step] += [] if pads else pairs(taken)
    assert [sorted(step) for step in given_] == [sorted(pairs(order.slots(step))) for step in range(order.steps)]
    assert totals == [share.documents(order, drop_last=False) for share in shares]
    assert len({share.batches(order, drop_last=False) for share in shares}) == 1
    whole = documents // shares[0].batch
    assert [share.documents(order, drop_last=True) for share in shares] == [whole * size * accumulate] * ranks


def test_what_divides_the_grid_reads_nothing_twice() -> None:
    ranks, workers = 8, 4
    order = Order(1_000_000, 128, 512)
    readers: dict[int, set[tuple[int, int]]] = {}
    for step in range(64):
        for rank in range(ranks):
            taken, _ = Share(rank, ranks, 64, 1).take(order.slots(step), 0)
            for stream in taken.stream.tolist():
                readers.setdefault(stream, set()).add((rank, step % workers))
    assert len(readers) == 128
    assert {len(who) for who in readers.values()} == {1}


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 700))
def test_streams_divide_what_was_asked_for_and_have_four_row_groups(streams: int, units: int) -> None:
    used = usable_streams(streams, units)
    assert streams % used == 0
    assert used == 1 or 4 * used <= units


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 3), st.data())
def test_a_permuted_range_is_read_in_pieces(counts: list[int], seed: int, data: st.DataObject) -> None:
    permuted = Permuted.of(np.array(counts), seed, "label")
    everything = [(unit, row) for unit in permuted.units.tolist() for row in range(counts[unit])]
    assert len(everything) == permuted.documents == sum(counts)
    first = data.draw(st.integers(0, len(everything)))
    end = data.draw(st.integers(first, len(everything)))
    read = [(unit, row) for unit, start, stop in permuted.pieces(first, end) for row in range(start, stop)]
    assert read == everything[first:end]


def test_windows_are_permuted_unlike_each_other() -> None:
    orders = [window_order(0, "stream", number, 100).tolist() for number in range(3)]
    orders += [window_order(1, "stream", 0, 100).tolist(), window_order(0, "other", 0, 100).tolist()]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)


SHARES = np.array([0.5, 0.0, 0.3, 0.2])


def test_each_batch_follows_the_shares() -> None:
    order = Order(100_000, 16, 64, endless=True)
    draws = GroupDraws(0, 0, 16, 4)
    counts = np.array([np.bincount(draws.draw(order.slots(s), SHARES).group, minlength=4) for s in range(400)])
    assert np.abs(counts - 64 * SHARES).max() <= 8, "a document for each of the 4 streams that a step reads, and chance"
    assert np.abs(counts.mean(axis=0) - 64 * SHARES).max() < 0.1


def test_ordinals_of_groups_count_on_in_each_stream() -> None:
    order = Order(10_000, 8, 24, endless=True)
    draws = GroupDraws(0, 0, 8, 4)
    seen: dict[tuple[int, int], list[int]] = {}
    for step in range(200):
        slots = draws.draw(order.slots(step), SHARES if step < 100 else SHARES[::-1])
        for stream, ordinal, group in zip(*(part.tolist() for part in slots), strict=True):
            seen.setdefault((stream, group), []).append(ordinal)
    assert all(ordinals == list(range(len(ordinals))) for ordinals in seen.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_skipped_steps_count_as_drawn_ones(first: int, more: int) -> None:
    order = Order(10_000, 8, 24, endless=True)
    drawn, skipped = GroupDraws(0, 0, 8, 4), GroupDraws(0, 0, 8, 4)
    for step in range(first + more):
        drawn.draw(order.slots(step), SHARES)
    skipped.skip(order, 0, first, SHARES)
    skipped.skip(order, first, first + more, SHARES)
    assert np.array_equal(drawn.taken, skipped.taken)
