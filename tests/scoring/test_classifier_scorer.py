"""Training does not depend on shards, no document is scored by a head that has seen it, and misuse is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from tamis.connectors.errors import RecipeError
from tamis.connectors.keys import hash_column
from tamis.pipelines.passes import merge_results
from tamis.scoring.classifier import area_under_curve
from tamis.scoring.classifier_scorer import Classifier, ClassifierParameters
from tamis.scoring.scorer import Documents, Statistic

SMALL = {"target": "wanted", "buckets": 1 << 12, "fit_fraction": 1.0, "min_tokens": 3, "iterations": 30}


def scorer_of(**settings: Any) -> Classifier:
    return Classifier(ClassifierParameters(scorer="classifier", **{**SMALL, **settings}))


def documents_of(texts: list[str]) -> Documents:
    array = pa.array(texts, pa.large_string())
    return Documents(array, hash_column(array))


def merged(scorer: Classifier, texts: list[str], parts: int, of_corpus: bool) -> Statistic:
    statistics = []
    for i in range(parts):
        statistics.append(scorer.start())
        for start in range(0, len(texts[i::parts]), 70):
            scorer.update(statistics[-1], documents_of(texts[i::parts][start : start + 70]), of_corpus)
    return merge_results(statistics)


def fitted_on(corpus: list[str], wanted: list[str], parts: int = 1, **settings: Any) -> Classifier:
    scorer = scorer_of(**settings)
    targets = {
        name: merged(scorer, wanted[i :: len(scorer.targets)], 1, False) for i, name in enumerate(scorer.targets)
    }
    scorer.finish(merged(scorer, corpus, parts, True), targets)
    return scorer


def odds_of(scorer: Classifier, texts: list[str], suffix: str = "") -> NDArray[np.float64]:
    return np.array(scorer.score(documents_of(texts))[suffix].to_pylist(), float)


@pytest.fixture(scope="module")
def corpus(documents: pa.Table) -> list[str]:
    return documents["text"].to_pylist()


@pytest.fixture(scope="module")
def wanted(target_documents: pa.Table) -> list[str]:
    return target_documents["text"].to_pylist()


@pytest.mark.parametrize("settings", [{}, {"fit_fraction": 0.5}, {"max_tokens": 1 << 14}])
def test_shards_and_their_order_change_nothing(corpus: list[str], wanted: list[str], settings: dict[str, Any]) -> None:
    one = fitted_on(corpus, wanted, **settings)
    many = fitted_on(corpus[::-1], wanted[::-1], 6, **settings)
    assert one.fingerprint == many.fingerprint
    assert np.array_equal(odds_of(one, corpus[:60]), odds_of(many, corpus[:60]), equal_nan=True)


def test_several_targets_are_one_class(corpus: list[str], wanted: list[str]) -> None:
    assert (
        fitted_on(corpus, wanted).state["weights"].tobytes()
        == fitted_on(corpus, wanted, target=["a", "b"]).state["weights"].tobytes()
    )


def test_held_out_figures_are_those_of_documents_that_a_head_has_not_seen(corpus: list[str], wanted: list[str]) -> None:
    scorer = fitted_on(corpus, wanted)
    area, accuracy = scorer.state["held out"]
    unique = [list(dict.fromkeys(texts)) for texts in (wanted, corpus)]
    (positive, negative) = (odds_of(scorer, texts) for texts in unique)
    positive, negative = positive[~np.isnan(positive)], negative[~np.isnan(negative)]
    assert area == pytest.approx(area_under_curve(positive, negative), abs=1e-12) and 0.7 < area < 1
    assert accuracy == pytest.approx(((positive > 0).mean() + (negative < 0).mean()) / 2, abs=1e-12)
    (line,) = [line for line in scorer.findings(np.zeros(0, np.uint64), 1) if "held out" in line]
    assert f"AUC {area:.3f}" in line and f"{len(positive):,} documents of the target" in line


def test_separable_sets_are_told_apart() -> None:
    wanted, others = ([f"{words} number {i}" for i in range(60)] for words in ("proof of a lemma", "cheap watches now"))
    scorer = fitted_on(others, wanted)
    assert scorer.state["held out"].tolist() == [1.0, 1.0]
    assert (odds_of(scorer, ["another proof of a lemma", "watches cheap now"]) > 0).tolist() == [True, False]


def test_what_counts_as_wanted_is_only_a_sign(corpus: list[str], wanted: list[str]) -> None:
    straight, swapped = fitted_on(corpus, wanted), fitted_on(wanted, corpus)
    assert np.allclose(straight.state["weights"], -swapped.state["weights"], atol=1e-6)
    assert straight.state["held out"] == pytest.approx(swapped.state["held out"], abs=1e-12)


def test_a_document_was_not_learnt_from_for_its_own_score(corpus: list[str], wanted: list[str]) -> None:
    """A page like the target that lies in the corpus gets the same score as if it were not there."""
    page = wanted[3]
    rest = [text for text in wanted if text != page]
    with_it, without = fitted_on([*corpus, page], rest), fitted_on(corpus, rest)
    assert odds_of(with_it, [page]) == odds_of(without, [page])
    assert with_it.fingerprint != without.fingerprint


def test_probability_and_nulls(corpus: list[str], wanted: list[str]) -> None:
    scorer = fitted_on(corpus, wanted)
    texts = [*corpus[:30], "too short", ""]
    odds, probability = odds_of(scorer, texts), odds_of(scorer, texts, "probability")
    assert np.isnan(odds).tolist() == np.isnan(probability).tolist() == [False] * 30 + [True] * 2
    assert probability[:30] == pytest.approx(1 / (1 + np.exp(-odds[:30])), rel=1e-12)


def test_a_state_can_be_used_again_and_nothing_more_is_counted(corpus: list[str], wanted: list[str]) -> None:
    scorer = fitted_on(corpus, wanted)
    again = scorer_of(target=None, fitted="state.npz", l2=1.0, max_tokens=1 << 20)
    again.restore(scorer.state)
    assert again.fingerprint == scorer.fingerprint
    assert np.array_equal(odds_of(again, corpus[:9]), odds_of(scorer, corpus[:9]))
    assert not scorer.describes_selection


def test_misuse_is_refused(corpus: list[str], wanted: list[str]) -> None:
    for settings in ({"target": None}, {"fitted": "state.npz"}):
        with pytest.raises(ValidationError, match="one of them"):
            scorer_of(**settings)
    with pytest.raises(ValidationError, match="names a target twice"):
        scorer_of(target=["a", "a"])
    with pytest.raises(RecipeError, match="the target has too few documents"):
        fitted_on(corpus, wanted[:1])
    with pytest.raises(RecipeError, match=r"the corpus has too few documents .* raise `fit_fraction`"):
        fitted_on(["too short"], wanted)
    state = fitted_on(corpus, wanted[:20]).state
    with pytest.raises(RecipeError, match="was made with"):
        scorer_of(ngrams=1).restore(state)
    with pytest.raises(RecipeError, match="is not a state"):
        scorer_of().restore({"weights": state["weights"]})
    with pytest.raises(RecipeError, match="does not hold the weights"):
        scorer_of().restore({**state, "weights": state["weights"][:1]})
    few = fitted_on(corpus, wanted[:20]).findings(np.zeros(0, np.uint64), 1)
    assert any("documents to train on" in line for line in few)
