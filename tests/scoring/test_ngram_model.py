"""Probabilities against those of whole words, without hashes; and the samples that models are fitted on."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.connectors.keys import hash_column, united
from tamis.scoring.ngram_model import EXPONENT, NgramModel, count_in_tables, document_losses, log_probabilities
from tamis.scoring.token_sample import LONGEST, documents_of, folds_of, sampled_tokens, trimmed, words_of
from tamis.scoring.tokenizer import tokenize

TEXTS = ["a b a b c", "b a", "c c c a b", ""]
DOCUMENTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join), min_size=1, max_size=6)


def fitted(texts: list[str], orders: int = 3, buckets: int = 1 << 16, vocabulary: int = 10) -> NgramModel:
    tokens = tokenize(pa.array(texts, pa.string()))
    counts = np.zeros((orders, buckets), np.int64)
    count_in_tables(tokens.offsets, words_of(tokens), counts)
    return NgramModel(counts.astype(np.float32), len(tokens.hashes) + len(texts), len(texts), vocabulary, 1.5)


def probabilities(text: str, model: NgramModel) -> NDArray[np.float64]:
    return np.exp(log_probabilities(words_of(tokenize(pa.array([text]))), model))


def oracle(texts: list[str], history: list[str], word: str, orders: int, vocabulary: int) -> float:
    """The formula of the module, by counting in lists of words."""
    documents = [["<s>", *text.split(), "</s>"] for text in texts]
    ngrams = Counter(tuple(d[i : j + 1]) for d in documents for j in range(1, len(d)) for i in range(j + 1))
    contexts = Counter(tuple(d[i:j]) for d in documents for j in range(1, len(d)) for i in range(j + 1))
    known = ["<s>", *history]
    probability = 1 / vocabulary
    for k in range(min(orders, len(known) + 1)):
        context = tuple(known[len(known) - k :])
        count = contexts[context]
        if count:
            mass = 1.5 * count**EXPONENT
            probability = (ngrams[(*context, word)] + mass * probability) / (count + mass)
    return probability


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.lists(st.sampled_from("abcde"), max_size=7), st.integers(1, 5))
def test_probabilities_are_those_of_the_formula(texts: list[str], words: list[str], orders: int) -> None:
    expected = [oracle(texts, words[:i], word, orders, 10) for i, word in enumerate([*words, "</s>"])]
    assert probabilities(" ".join(words), fitted(texts, orders)) == pytest.approx(expected, rel=1e-6)


def test_a_probability_by_hand() -> None:
    # "a" is one of 5 events of "a a b" and its end; after "a" it comes once in two times
    model = fitted(["a a b"], orders=2, vocabulary=4)
    masses = 1.5 * np.array([4.0, 2.0]) ** 0.875
    unigram = (2 + masses[0] / 4) / (4 + masses[0])
    assert probabilities("a a", model)[1] == pytest.approx((1 + masses[1] * unigram) / (2 + masses[1]), rel=1e-6)


@pytest.mark.parametrize("history", ["", "a", "b a", "c c", "a e", "e e e", "a b a b c"])
@pytest.mark.parametrize("orders", [1, 2, 3, 4])
def test_probabilities_add_up_to_one_in_every_context(history: str, orders: int) -> None:
    model = fitted(TEXTS, orders, vocabulary=10)
    place = len(history.split())
    words = [probabilities(f"{history} {word}", model)[place] for word in "abc"]
    end = probabilities(history, model)[place]
    unknown = probabilities(f"{history} never", model)[place]
    assert sum(words) + end + (10 - 4) * unknown == pytest.approx(1, rel=1e-6)
    assert unknown > 0


def test_losses_are_sums_over_tokens_whatever_their_number() -> None:
    long = " ".join(itertools.islice(itertools.cycle("abcde"), 3000))
    texts = ["", "a b c", long, "e"]
    model = fitted(TEXTS)
    tokens = tokenize(pa.array(texts))
    losses = document_losses(tokens.offsets, words_of(tokens), np.array([True, True, True, False]), model)
    expected = [-np.log(probabilities(text, model)[:-1]).sum() for text in texts]
    assert losses[:3] == pytest.approx(expected[:3], rel=1e-9)
    assert losses[3] == 0 and losses[0] == 0


def test_crowded_buckets_never_give_more_than_certainty() -> None:
    words = [f"w{i}" for i in range(400)]
    crowded = fitted([" ".join(words)], orders=4, buckets=8)
    found = probabilities(" ".join(words[::3]), crowded)
    assert (found > 0).all() and (found <= 1).all()


def test_an_ngram_that_shares_its_bucket_counts_no_more_than_its_parts() -> None:
    """With all trigrams in few buckets, those of a word that was never seen keep the count zero."""
    model = fitted(TEXTS * 50)
    full = NgramModel(model.tables.copy(), model.tokens, model.documents, 10, 1.5)
    full.tables[1:] = 1000
    unseen = probabilities("a never", full)[1]
    assert unseen < probabilities("a b", full)[1] / 5


def test_more_of_the_same_makes_it_likelier() -> None:
    losses = []
    for times in (0, 1, 3, 10):
        texts = TEXTS + ["the cat sat"] * times
        losses.append(-np.log(probabilities("the cat sat", fitted(texts))).sum())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 2


def sample_of(texts: list[str]) -> NDArray[np.uint64]:
    array = pa.array(texts, pa.string())
    tokens = tokenize(array)
    return united(sampled_tokens(tokens, hash_column(array), np.ones(len(texts), np.bool_)))


def as_texts(sample: NDArray[np.uint64]) -> set[tuple[int, ...]]:
    offsets, words, _ = documents_of(sample)
    return {tuple(words[a:b].tolist()) for a, b in itertools.pairwise(offsets)}


@settings(deadline=None)
@given(DOCUMENTS)
def test_a_sample_holds_each_document_once_and_in_order(texts: list[str]) -> None:
    expected = {tuple(words_of(tokenize(pa.array([text]))).tolist()) for text in texts} - {()}
    assert as_texts(sample_of(texts)) == expected


def test_a_sample_knows_the_half_of_each_document() -> None:
    texts = [f"document {i}" for i in range(200)]
    _, words, folds = documents_of(sample_of(texts))
    by_number = dict(zip(words[1::2].tolist(), folds.tolist(), strict=True))
    numbers = words_of(tokenize(pa.array([str(i) for i in range(200)]))).tolist()
    assert [by_number[number] for number in numbers] == folds_of(hash_column(pa.array(texts))).tolist()
    assert 60 < folds.sum() < 140


def test_long_documents_count_as_several() -> None:
    sample = sample_of(["x " * (2 * LONGEST + 5)])
    assert len(sample) == 2 * LONGEST + 5
    assert sorted(np.diff(documents_of(sample)[0]).tolist()) == [5, LONGEST, LONGEST]


def test_documents_of_one_key_and_other_words_are_left_out() -> None:
    tokens = tokenize(pa.array(["a b c", "a d", "e f"]))
    sample = united(sampled_tokens(tokens, np.array([7, 7, 8], np.uint64), np.ones(3, np.bool_)))
    assert as_texts(sample) == {tuple(words_of(tokenize(pa.array(["e f"]))).tolist())}


@settings(deadline=None, max_examples=15)
@given(st.integers(LONGEST, 6 * LONGEST), st.integers(1, 5))
def test_trimming_parts_changes_nothing(most: int, parts: int) -> None:
    texts = [f"{i} " * (1000 * (i % 7)) for i in range(40)]
    whole = trimmed(sample_of(texts), most)
    merged = trimmed(united(*(trimmed(sample_of(texts[i::parts]), most) for i in range(parts))), most)
    assert np.array_equal(whole, merged)
    assert most - LONGEST <= len(whole) <= most or len(whole) == len(sample_of(texts))
    assert as_texts(whole) <= as_texts(sample_of(texts))


def test_counts_of_parts_add_up() -> None:
    def counts(texts: list[str]) -> NDArray[np.int64]:
        tokens = tokenize(pa.array(texts))
        tables = np.zeros((3, 64), np.int64)
        count_in_tables(tokens.offsets, words_of(tokens), tables)
        return tables

    assert np.array_equal(counts(TEXTS), counts(TEXTS[:2]) + counts(TEXTS[2:]))
    assert counts(TEXTS)[0].sum() == 5 + 2 + 5 + 4  # tokens and ends
    assert math.isclose(counts(TEXTS)[2].sum(), 5 + 2 + 5)  # a document without words has no trigram
