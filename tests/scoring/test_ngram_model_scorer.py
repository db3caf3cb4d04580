"""Fitting does not depend on shards, no document is scored by a model that has seen it, and misuse is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from tamis.connectors.errors import RecipeError
from tamis.connectors.keys import hash_column
from tamis.pipelines.passes import merge_results
from tamis.scoring.ngram_model_scorer import NgramModelParameters, NgramModelScorer
from tamis.scoring.scorer import Documents, Statistic
from tamis.scoring.token_sample import folds_of

SMALL = {"buckets": 1 << 14, "min_tokens": 1, "fit_fraction": 1.0}


def scorer_of(**settings: Any) -> NgramModelScorer:
    return NgramModelScorer(NgramModelParameters(scorer="ngram_model", **{**SMALL, **settings}))


def documents_of(texts: list[str]) -> Documents:
    array = pa.array(texts, pa.large_string())
    return Documents(array, hash_column(array))


def statistic_of(scorer: NgramModelScorer, texts: list[str], of_corpus: bool) -> Statistic:
    statistic = scorer.start()
    for start in range(0, len(texts), 100):
        scorer.update(statistic, documents_of(texts[start : start + 100]), of_corpus)
    return statistic


def fitted_on(texts: list[str], parts: int = 1, **settings: Any) -> NgramModelScorer:
    scorer = scorer_of(**settings)
    of_corpus = scorer.parameters.target is None
    merged = merge_results([statistic_of(scorer, texts[i::parts], of_corpus) for i in range(parts)])
    scorer.finish(merged if of_corpus else {}, {} if of_corpus else {"wanted": merged})
    return scorer


def losses(scorer: NgramModelScorer, texts: list[str]) -> NDArray[np.float64]:
    return np.array(scorer.score(documents_of(texts))[""].to_pylist(), float)


@pytest.fixture(scope="module")
def texts(documents: pa.Table) -> list[str]:
    return documents["text"].to_pylist()


@pytest.mark.parametrize("settings", [{}, {"fit_fraction": 0.3}, {"max_tokens": 1 << 14}, {"target": "wanted"}])
def test_shards_and_their_order_change_nothing(texts: list[str], settings: dict[str, Any]) -> None:
    one, many = fitted_on(texts, **settings), fitted_on(texts[::-1], 7, **settings)
    assert one.fingerprint == many.fingerprint
    assert np.array_equal(losses(one, texts[:50]), losses(many, texts[:50]))


def test_columns_are_one_loss_in_three_units(texts: list[str]) -> None:
    scorer = fitted_on(texts, target="wanted", min_tokens=5)
    chosen = [*texts[:20], "too short", "née Zoë à Paris — où ça?"]
    documents = documents_of(chosen)
    columns = {suffix: np.array(array.to_pylist(), float) for suffix, array in scorer.score(documents).items()}
    assert set(columns) == {column.suffix for column in scorer.columns}
    assert np.isnan(columns[""]).tolist() == [False] * 20 + [True, False]
    assert np.allclose(columns["perplexity"], np.exp(columns[""]), equal_nan=True)
    tokens = documents.tokens.counts
    sizes = np.array([len(text.encode()) for text in chosen])
    assert np.allclose(columns["bits_per_byte"], columns[""] * tokens / sizes / np.log(2), equal_nan=True)


def test_the_target_is_likelier_than_other_text(texts: list[str], target_documents: pa.Table) -> None:
    wanted = target_documents["text"].to_pylist()
    held_out = [text for text in wanted[1::2] if len(text.split()) > 10]
    scorer = fitted_on(wanted[::2], target="wanted", min_tokens=10)
    assert np.nanmean(losses(scorer, held_out)) < np.nanmean(losses(scorer, texts)) - 0.5


def test_a_document_of_the_corpus_does_not_know_itself(texts: list[str]) -> None:
    """A document gets the same loss whether or not it was in the corpus that the model was fitted on."""
    own = "twelve zebras quietly juggle nine unheard of kazoos beneath the frozen viaduct"
    with_it, without = fitted_on([*texts, own]), fitted_on(texts)
    assert losses(with_it, [own]) == losses(without, [own])
    other = next(f"{own} {i}" for i in range(99) if folds_of(documents_of([f"{own} {i}"]).keys) != _fold(own))
    assert losses(with_it, [other])[0] < losses(without, [other])[0] - 3


def _fold(text: str) -> NDArray[np.bool_]:
    return folds_of(documents_of([text]).keys)


def test_a_state_can_be_used_again_and_nothing_more_is_counted(texts: list[str]) -> None:
    scorer = fitted_on(texts)
    again = scorer_of(fitted="state.npz", fit_fraction=0.5)
    again.restore(scorer.state)
    assert again.fingerprint == scorer.fingerprint
    assert np.array_equal(losses(again, texts[:9]), losses(scorer, texts[:9]))
    assert not scorer.describes_selection
    assert scorer.fits_corpus and not again.fits_corpus
    assert scorer_of(strength=3.0, fitted="x").fingerprint != scorer_of(fitted="x").fingerprint


def test_what_is_sampled_does_not_depend_on_how_it_is_counted() -> None:
    same = {scorer_of(**s).statistic_fingerprint for s in ({}, {"ngrams": 5}, {"buckets": 9}, {"strength": 9.0})}
    other = {scorer_of(**s).statistic_fingerprint for s in ({"target": "t"}, {"fit_fraction": 0.5})}
    assert len(same) == 1 and len(other) == 2 and not same & other


def test_findings_name_crowded_buckets_and_small_samples(texts: list[str]) -> None:
    none = np.zeros(0, np.uint64)
    assert any(
        "of the buckets of 3-grams are in use" in line for line in fitted_on(texts, buckets=500).findings(none, 1)
    )
    assert fitted_on(texts, buckets=1 << 18).findings(none, 1) == []
    assert any("raise `fit_fraction`" in line for line in fitted_on(texts, fit_fraction=0.5).findings(none, 1))
    small = fitted_on(texts, target="wanted", max_tokens=1 << 14, buckets=1 << 18)
    assert any("raise `max_tokens`" in line for line in small.findings(none, 1))
    again = scorer_of(fitted="state.npz", buckets=1 << 18)
    again.restore(small.state)
    assert again.findings(none, 1) == []


def test_misuse_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValidationError, match="not both"):
        scorer_of(target="wanted", fitted="state.npz")
    with pytest.raises(RecipeError, match="the target wanted has no words"):
        fitted_on(["", " "], target="wanted")
    with pytest.raises(RecipeError, match="half of the sampled corpus has no words"):
        fitted_on(["one document"])
    state = fitted_on(texts).state
    with pytest.raises(RecipeError, match="was made with"):
        scorer_of(ngrams=4).restore(state)
    with pytest.raises(RecipeError, match="is not a state"):
        scorer_of().restore({"counts": state["counts"]})
    with pytest.raises(RecipeError, match="does not hold the counts"):
        scorer_of().restore({**state, "counts": state["counts"][:, :, :9]})
    assert json.loads(state["settings"].tobytes())["ngrams"] == 3
