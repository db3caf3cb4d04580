"""Hashed n-grams of the DSIR tokenizer: counts per bucket, and sums of bucket weights per text.

An n-gram of order i is i consecutive tokens of one text; all orders 1 to `ngrams` count. Two hashes name its bucket:

* `fast64` (default): the tokens' 64-bit hashes, combined in order; the bucket is upper 32 bits · buckets / 2**32.
* `sha256`: SHA-256 of the tokens joined by one space, as a big-endian integer modulo buckets: the buckets of the
  package `data-selection` (Xie et al. 2023, https://arxiv.org/abs/2302.03169), at a fraction of the speed.

Sums run over the n-grams in the order of their first token, shorter before longer ones, so they do not depend on how
texts are batched.
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import text_buffers
from .sha256 import sha256_remainder
from .tokenizer import Tokens, token_spans, tokenize

NgramHash = Literal["fast64", "sha256"]
MAX_BUCKETS = 2**31
_SLICE_BYTES = 1 << 18  # of text, so that a slice's tokens stay in the second-level cache
_U64 = np.uint64
_MIX_1 = _U64(0xFF51AFD7ED558CCD)
_MIX_2 = _U64(0xC4CEB9FE1A85EC53)


def count_ngrams(
    text: pa.Array,
    ngrams: int = 2,
    buckets: int = 10_000,
    hash: NgramHash = "fast64",
    rows: NDArray[np.bool_] | None = None,
    tokens: Tokens | None = None,
) -> NDArray[np.int64]:
    """Count the n-grams of all texts per bucket; counts of parts of a corpus add up to those of the whole.

    Memory beside the result: about 1 MB, or what the longest text needs (8 bytes per token, 100 with sha256).

    Args:
        text: n texts (string-like Arrow array) without nulls, valid UTF-8.
        ngrams: longest order, >= 1.
        buckets: number of buckets, 1 to 2**31.
        hash: fast64 or sha256.
        rows: bool[n], texts to count; None for all.
        tokens: tokens of `text`, if the caller has them; used by fast64 only.

    Returns:
        int64[buckets].

    Raises:
        ValueError: ngrams, buckets or hash out of range, or nulls in the text.
        TypeError: the array is not text.
    """
    check_ngrams(ngrams, buckets, hash)
    counts = np.zeros(buckets, np.int64)
    if hash == "fast64" and tokens is not None:
        chosen = np.ones(len(text), np.bool_) if rows is None else np.asarray(rows, np.bool_)
        _count(tokens.offsets, tokens.hashes, chosen, ngrams, counts)
        return counts
    for start, stop in _slices(text):
        part = text.slice(start, stop - start)
        if rows is not None:
            part = part.filter(pa.array(rows[start:stop]))
        if hash == "fast64":
            found = tokenize(part)
            _count(found.offsets, found.hashes, np.ones(len(part), np.bool_), ngrams, counts)
        else:
            counts += np.bincount(_sha256_buckets(part, ngrams, buckets)[1], minlength=buckets)
    return counts


def sum_ngram_weights(
    text: pa.Array,
    weights: NDArray[np.float64],
    ngrams: int = 2,
    hash: NgramHash = "fast64",
    tokens: Tokens | None = None,
) -> NDArray[np.float64]:
    """Sum the weights of each text's n-grams.

    Memory beside the result: about 1 MB, or what the longest text needs (8 bytes per token, 100 with sha256).

    Args:
        text: n texts (string-like Arrow array) without nulls, valid UTF-8.
        weights: float64[targets, buckets].
        ngrams: longest order, >= 1.
        hash: fast64 or sha256.
        tokens: tokens of `text`, if the caller has them; used by fast64 only.

    Returns:
        float64[n, targets]; 0 for a text without tokens.

    Raises:
        ValueError: ngrams, buckets or hash out of range, or nulls in the text.
        TypeError: the array is not text.
    """
    check_ngrams(ngrams, weights.shape[1], hash)
    weights = np.ascontiguousarray(weights, np.float64)
    sums = np.zeros((len(text), weights.shape[0]))
    if hash == "fast64" and tokens is not None:
        _sum(tokens.offsets, tokens.hashes, weights, ngrams, sums)
        return sums
    for start, stop in _slices(text):
        part = text.slice(start, stop - start)
        if hash == "fast64":
            found = tokenize(part)
            _sum(found.offsets, found.hashes, weights, ngrams, sums[start:stop])
        else:
            _sum_buckets(*_sha256_buckets(part, ngrams, weights.shape[1]), weights, sums[start:stop])
    return sums


def check_ngrams(ngrams: int, buckets: int, hash: str) -> None:
    """Raise ValueError in plain words if the features cannot be made.

    Args:
        ngrams: longest order, >= 1.
        buckets: number of buckets, 1 to 2**31.
        hash: fast64 or sha256.
    """
    if ngrams < 1:
        raise ValueError(f"ngrams must be at least 1, not {ngrams}")
    if not 1 <= buckets <= MAX_BUCKETS:
        raise ValueError(f"buckets must be between 1 and {MAX_BUCKETS}, not {buckets}")
    if hash not in get_args(NgramHash):
        raise ValueError(f"hash must be one of {', '.join(get_args(NgramHash))}, not {hash!r}")


def _slices(text: pa.Array) -> Iterator[tuple[int, int]]:
    """Cut the texts into runs of about _SLICE_BYTES, at least one text each."""
    offsets, _ = text_buffers(text)
    start = 0
    while start < len(text):
        stop = int(np.searchsorted(offsets, offsets[start] + _SLICE_BYTES, side="right")) - 1
        stop = min(max(stop, start + 1), len(text))
        yield start, stop
        start = stop


def _sha256_buckets(text: pa.Array, ngrams: int, buckets: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets int64[n + 1] of each text's n-grams, and their buckets in order."""
    spans = token_spans(text)
    counts = np.diff(spans.offsets)
    per_text = sum((np.maximum(counts - i, 0) for i in range(ngrams)), np.zeros_like(counts))
    offsets = np.concatenate([[0], np.cumsum(per_text)]).astype(np.int64)
    longest = int((spans.ends - spans.starts).max(initial=0))
    message = np.empty((longest + 1) * min(ngrams, int(counts.max(initial=1))) + 72, np.uint8)
    result = np.empty(offsets[-1], np.int64)
    _fill_sha256(spans.offsets, spans.data, spans.starts, spans.ends, ngrams, buckets, message, result)
    return offsets, result


@numba.njit(nogil=True, cache=True)
def _fill_sha256(
    offsets: Any, data: Any, starts: Any, ends: Any, ngrams: Any, buckets: Any, message: Any, result: Any
) -> None:
    state, schedule = np.empty(8, np.uint32), np.empty(64, np.uint32)
    at = 0
    for i in range(offsets.size - 1):
        for first in range(offsets[i], offsets[i + 1]):
            length = 0
            for token in range(first, min(first + ngrams, offsets[i + 1])):
                if token > first:
                    message[length] = 0x20
                    length += 1
                for position in range(starts[token], ends[token]):
                    message[length] = data[position]
                    length += 1
                result[at] = sha256_remainder(message, length, buckets, state, schedule)
                at += 1


@numba.njit(nogil=True, cache=True)
def _extend(ngram: Any, token: Any) -> Any:
    """Hash of an n-gram with one more token; depends on the order and is a bijection of either argument."""
    mixed = ngram * _MIX_1 + token
    mixed ^= mixed >> _U64(32)
    return mixed * _MIX_2


@numba.njit(nogil=True, cache=True)
def _bucket(ngram: Any, buckets: Any) -> Any:
    return ((ngram >> _U64(32)) * buckets) >> _U64(32)


@numba.njit(nogil=True, cache=True)
def _count(offsets: Any, hashes: Any, rows: Any, ngrams: Any, counts: Any) -> None:
    buckets = _U64(counts.size)
    for i in range(rows.size):
        if not rows[i]:
            continue
        if ngrams == 2 and offsets[i] < offsets[i + 1]:  # the usual case, without the inner loop
            before = hashes[offsets[i]]
            for place in range(offsets[i] + 1, offsets[i + 1]):
                token = hashes[place]
                counts[_bucket(before, buckets)] += 1
                counts[_bucket(_extend(before, token), buckets)] += 1
                before = token
            counts[_bucket(before, buckets)] += 1
            continue
        for first in range(offsets[i], offsets[i + 1]):
            ngram = hashes[first]
            counts[_bucket(ngram, buckets)] += 1
            for token in range(first + 1, min(first + ngrams, offsets[i + 1])):
                ngram = _extend(ngram, hashes[token])
                counts[_bucket(ngram, buckets)] += 1


@numba.njit(nogil=True, cache=True)
def _sum(offsets: Any, hashes: Any, weights: Any, ngrams: Any, sums: Any) -> None:
    """Hashes n-grams again for every target: that is cheaper than keeping buckets, or several sums, in memory."""
    buckets = _U64(weights.shape[1])
    for i in range(sums.shape[0]):
        for target in range(sums.shape[1]):
            total = 0.0
            if ngrams == 2 and offsets[i] < offsets[i + 1]:  # the same order of additions, without the inner loop
                before = hashes[offsets[i]]
                for place in range(offsets[i] + 1, offsets[i + 1]):
                    token = hashes[place]
                    total += weights[target, _bucket(before, buckets)]
                    total += weights[target, _bucket(_extend(before, token), buckets)]
                    before = token
                sums[i, target] = total + weights[target, _bucket(before, buckets)]
                continue
            for first in range(offsets[i], offsets[i + 1]):
                ngram = hashes[first]
                total += weights[target, _bucket(ngram, buckets)]
                for token in range(first + 1, min(first + ngrams, offsets[i + 1])):
                    ngram = _extend(ngram, hashes[token])
                    total += weights[target, _bucket(ngram, buckets)]
            sums[i, target] = total


@numba.njit(nogil=True, cache=True)
def _sum_buckets(offsets: Any, buckets: Any, weights: Any, sums: Any) -> None:
    for i in range(sums.shape[0]):
        for target in range(sums.shape[1]):
            total = 0.0
            for at in range(offsets[i], offsets[i + 1]):
                total += weights[target, buckets[at]]
            sums[i, target] = total
