"""An n-gram language model in hashed tables of counts: a perplexity for machines without an accelerator.

With c(·) the number of times that tokens were seen in a row, h the tokens before w and h' all but the first of them,

    p(w | h) = (c(h w) + s(c(h)) · p(w | h')) / (c(h) + s(c(h))),    s(c) = strength · c ** EXPONENT,

down to the empty h, whose c(h) is the number of all tokens and ends, and below it 1 / vocabulary for every word, known
or not. This is the hierarchical Dirichlet model of MacKay and Peto (1995, "A hierarchical Dirichlet language model")
with a mass that grows with the context's count; Jelinek and Mercer's (1980) interpolation weights c / (c + s(c)) by
count, in closed form. It needs no other statistics than counts. Whatever s is, the probabilities of all words and of
the end of the document add up to one in every context, as long as no n-grams share a bucket.

Documents begin with one BEGIN in the context of the first tokens, and END follows the last one; END is no word and
not part of a document's loss. Counts lie in one table per order, at hash · buckets / 2**32. Where buckets are shared,
counts are too large; an n-gram is never seen more often than the one without its last or without its first token, and
its count is cut to theirs (Talbot and Osborne 2007, "Randomised language modelling for statistical machine
translation", sub-sequence filtering), so that no probability leaves (0, 1].

"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .token_sample import bucket_of, extended

EXPONENT = 0.875
"""How the mass of other words grows with the count of a context. The losses of held-out fiction (after a million
tokens of it) and of a mixed corpus (after 18 million) were lowest between 0.7 and 1; seven eighths is three roots."""

_U64 = np.uint64
_BEGIN = _U64(0x5851F42D4C957F2D)  # no word: words have 24 bits
_END = _U64(0x14057B7EF767814F)
_BLOCK = 256  # tokens whose counts are fetched at a time: fetches that wait for nothing overlap
_FLUSH = 1e-200  # a probability is above 1e-60, so that products never reach the subnormal numbers


@dataclass
class NgramModel:
    """What probabilities are computed from.

    tables: float32[orders, buckets], counts of the n-grams of each order; tokens: all tokens and ends that were
    counted; documents: how many were counted; vocabulary: number of words, with unknown ones and END; strength: > 0.
    """

    tables: NDArray[np.float32]
    tokens: float
    documents: float
    vocabulary: int
    strength: float


def count_in_tables(offsets: NDArray[np.int64], words: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
    """Add the n-grams of documents to tables; the tables of parts of a corpus add up to those of the whole.

    Args:
        offsets: int64[n + 1]; the tokens of document i are words[offsets[i]:offsets[i + 1]].
        words: uint64[offsets[n]], see `token_sample.words_of`.
        counts: int64[orders, buckets], added to.
    """
    _count(offsets, words, counts)


def document_losses(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], rows: NDArray[np.bool_], model: NgramModel
) -> NDArray[np.float64]:
    """Sum of -ln p over the tokens of each document, without its end.

    Args:
        offsets: int64[n + 1]; the tokens of document i are words[offsets[i]:offsets[i + 1]].
        words: uint64[offsets[n]], see `token_sample.words_of`.
        rows: bool[n], documents to score.
        model: the model.

    Returns:
        float64[n], nats, not negative; 0 for other documents and for those without tokens.
    """
    losses = np.zeros(len(rows))
    _losses(offsets, words, np.ascontiguousarray(rows), losses, *_constants(model))
    return losses


def log_probabilities(words: NDArray[np.uint64], model: NgramModel) -> NDArray[np.float64]:
    """Return ln p of each token of one document after those before it, and of its end.

    Args:
        words: uint64[n], see `token_sample.words_of`.
        model: the model.

    Returns:
        float64[n + 1], nats, not positive.
    """
    logarithms = np.empty(len(words) + 1)
    _log_probabilities(words, logarithms, *_constants(model))
    return logarithms


def _constants(model: NgramModel) -> tuple[Any, ...]:
    return model.tables, model.tokens, model.documents, 1.0 / model.vocabulary, model.strength


@numba.njit(nogil=True, cache=True)
def _token(words: Any, place: Any, start: Any, stop: Any) -> Any:
    """Token at a place of the document words[start:stop], or what stands before or after it."""
    if place < start:
        return _BEGIN
    return words[place] if place < stop else _END


@numba.njit(nogil=True, cache=True)
def _count(offsets: Any, words: Any, counts: Any) -> None:
    orders, buckets = counts.shape[0], _U64(counts.shape[1])
    for i in range(offsets.size - 1):
        start, stop = offsets[i], offsets[i + 1]
        for place in range(start, stop + 1):
            ngram = _U64(0)
            for k in range(min(orders, place - start + 2)):
                ngram = extended(ngram, _token(words, place - k, start, stop))
                counts[k, bucket_of(ngram, buckets)] += 1


@numba.njit(nogil=True, cache=True)
def _fetch(words: Any, start: Any, place: Any, stop: Any, tables: Any, found: Any, row: Any) -> None:
    """Fill a row of `found`, float32[rows, orders], with the counts of the n-grams that end at a place."""
    buckets = _U64(tables.shape[1])
    ngram = _U64(0)
    for k in range(min(tables.shape[0], place - start + 2)):
        ngram = extended(ngram, _token(words, place - k, start, stop))
        found[row, k] = tables[k, bucket_of(ngram, buckets)]


@numba.njit(nogil=True, cache=True)
def _probability(found: Any, row: Any, orders: Any, base: Any, strength: Any, context: Any) -> Any:
    """Probability of a token by the counts of the n-grams that end with it.

    context: float64[longest order + 1]; at k, the count of the k tokens before it, afterwards of those up to it.
    """
    probability = base
    before = count = context[0]
    for k in range(orders):
        count = min(float(found[row, k]), count, before)
        if before > 0:
            mass = strength * before / np.sqrt(np.sqrt(np.sqrt(before)))
            probability = (count + mass * probability) / (before + mass)
        before, context[k + 1] = context[k + 1], count
    return probability


@numba.njit(nogil=True, cache=True)
def _begin(context: Any, tokens: Any, documents: Any) -> None:
    context[:] = 0
    context[0] = tokens
    context[1] = documents


@numba.njit(nogil=True, cache=True)
def _losses(
    offsets: Any, words: Any, rows: Any, losses: Any, tables: Any, tokens: Any, documents: Any, base: Any, strength: Any
) -> None:
    """Multiplies probabilities as long as floating-point numbers allow, since logarithms cost more."""
    orders = tables.shape[0]
    context, found = np.zeros(orders + 1), np.zeros((_BLOCK, orders), np.float32)
    for i in range(rows.size):
        if not rows[i]:
            continue
        start, stop = offsets[i], offsets[i + 1]
        _begin(context, tokens, documents)
        product, loss = 1.0, 0.0
        for block in range(start, stop, _BLOCK):
            after = min(block + _BLOCK, stop)
            for place in range(block, after):
                _fetch(words, start, place, stop, tables, found, place - block)
            for place in range(block, after):
                known = min(orders, place - start + 2)
                product *= _probability(found, place - block, known, base, strength, context)
                if product < _FLUSH:
                    loss -= np.log(product)
                    product = 1.0
        losses[i] = loss - np.log(product)


@numba.njit(nogil=True, cache=True)
def _log_probabilities(
    words: Any, logarithms: Any, tables: Any, tokens: Any, documents: Any, base: Any, strength: Any
) -> None:
    orders, stop = tables.shape[0], words.size
    context, found = np.zeros(orders + 1), np.zeros((1, orders), np.float32)
    _begin(context, tokens, documents)
    for place in range(stop + 1):
        _fetch(words, 0, place, stop, tables, found, 0)
        logarithms[place] = np.log(_probability(found, 0, min(orders, place + 2), base, strength, context))
