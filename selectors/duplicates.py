"""Who is a copy of whom: pairs to compare, and which document of a group of copies stays. Over arrays of records."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import constant, keyed_bits

WHOLE_GROUP = 16
"""In a group of so many documents or fewer that share a band, each is compared with each."""

BAND_RECORD = np.dtype([("band", "<u8"), ("key", "<u8"), ("number", "<i8")])
"""One band of a document. band: its hash; key: of the document; number: of the document in the corpus."""

PAIR_RECORD = np.dtype([("hash", "<u8"), ("first", "<i8"), ("second", "<i8")])
"""Two documents by their numbers, the lower one first. hash: of both."""

COPY_RECORD = np.dtype([("group", "<u8"), ("rank", "<u8"), ("key", "<u8"), ("number", "<i8")])
"""A document of a group of copies. rank: small for what shall stay."""

LOSS_RECORD = np.dtype([("number", "<i8"), ("winner", "<i8"), ("winner_key", "<u8")])
"""A document that goes, and the one of its group that stays."""

Records = NDArray[np.void]


def candidate_pairs(records: Records) -> Records:
    """Return the pairs of documents to compare: those that share a band.

    In groups larger than WHOLE_GROUP each document is compared with the one of the lowest key and with the next one in
    the order of keys only, so that n copies of a page make 2 n pairs and not n**2.

    Args:
        records: BAND_RECORD[n], in any order.

    Returns:
        PAIR_RECORD[m], each once, ascending; the same for any order of the records. Memory: 48 bytes per record, and 80
        per pair found.
    """
    records = records[_shared(records["band"])]
    records = records[np.lexsort((records["number"], records["key"], records["band"]))]
    starts = _starts(records["band"])
    sizes = np.diff(np.append(starts, len(records)))
    counts = np.where(sizes <= WHOLE_GROUP, sizes * (sizes - 1) // 2, 2 * sizes - 3)
    first, second = np.empty((2, int(counts.sum())), np.int64)
    _pairs(constant(np.ascontiguousarray(records["number"])), starts, sizes, first, second)
    pairs = np.empty(len(first), PAIR_RECORD)
    pairs["first"], pairs["second"] = np.minimum(first, second), np.maximum(first, second)
    pairs = distinct_pairs(pairs[first != second])
    of_first = keyed_bits(0, "first of a pair", pairs["first"].astype(np.uint64))
    pairs["hash"] = keyed_bits(0, "pair", of_first ^ pairs["second"].astype(np.uint64))
    return pairs


def distinct_pairs(pairs: Records) -> Records:
    """Sort pairs and drop repetitions. pairs: PAIR_RECORD[n]. Returns PAIR_RECORD[m]."""
    pairs = pairs[np.lexsort((pairs["second"], pairs["first"]))]
    other = (pairs["first"][1:] != pairs["first"][:-1]) | (pairs["second"][1:] != pairs["second"][:-1])
    return pairs[np.append(True, other)[: len(pairs)]]


def losses(copies: Records, settled: int = 0) -> Records:
    """Choose the document that stays of each group, the first by (rank, key, number); the others go.

    Args:
        copies: COPY_RECORD[n], in any order; a group of one loses nothing.
        settled: documents of lower numbers stay, all of them, and come before the others.

    Returns:
        LOSS_RECORD[m], in the order of the groups' numbers.
    """
    copies = copies[_shared(copies["group"])]
    is_new = copies["number"] >= settled
    order = np.lexsort((copies["number"], copies["key"], copies["rank"], is_new, copies["group"]))
    copies, is_new = copies[order], is_new[order]
    starts = _starts(copies["group"])
    winners = np.repeat(starts, np.diff(np.append(starts, len(copies))))
    losers = np.flatnonzero((winners != np.arange(len(copies))) & is_new)
    found = np.empty(len(losers), LOSS_RECORD)
    found["number"] = copies["number"][losers]
    found["winner"] = copies["number"][winners[losers]]
    found["winner_key"] = copies["key"][winners[losers]]
    return found


def _shared(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the places of values that occur more than once."""
    order = np.argsort(values)
    ordered = values[order]
    same = ordered[1:] == ordered[:-1]
    return order[np.append(same, False)[: len(order)] | np.append(False, same)[: len(order)]]


def _starts(ordered: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return where the runs of equal values begin."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])


@numba.njit(nogil=True, cache=True)
def _pairs(numbers: Any, starts: Any, sizes: Any, first: Any, second: Any) -> None:
    done = 0
    for group in range(starts.size):
        start, end = starts[group], starts[group] + sizes[group]
        for i in range(start, end - 1):
            for j in range(i + 1, end if sizes[group] <= WHOLE_GROUP else i + 2):
                first[done], second[done] = numbers[i], numbers[j]
                done += 1
        if sizes[group] > WHOLE_GROUP:
            for j in range(start + 2, end):
                first[done], second[done] = numbers[start], numbers[j]
                done += 1
