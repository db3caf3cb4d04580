"""Clusters are fitted on any order of the same sample alike, frozen, and refused where they do not belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError
from tamis.connectors.keys import hash_column
from tamis.pipelines.derive import in_keyed_order
from tamis.scoring.clusters_scorer import Clusters, ClustersParameters
from tamis.scoring.derived_scorer import bind_all, derived_in_order
from tamis.scoring.dsir_scorer import DSIR, DSIRParameters
from tamis.scoring.embedding_scorer import Embedding, EmbeddingParameters
from tamis.scoring.scorer import Documents, Scorer
from tamis.scoring.vectors import vectors_of

CORPUS = CorpusConfig(format="parquet", paths=["x.parquet"], text="text")


def scorers_of(dimension: int = 64, **settings: Any) -> dict[str, Scorer]:
    clusters = Clusters(ClustersParameters(scorer="clusters", embedding="vectors", **{"clusters": 8, **settings}))
    embedding = Embedding(EmbeddingParameters(scorer="embedding", dimension=dimension))
    scorers: dict[str, Scorer] = {"topic": clusters, "vectors": embedding}
    bind_all(scorers)
    for scorer in scorers.values():
        scorer.prepare(CORPUS)
    return scorers


def embedded(scorers: dict[str, Scorer], texts: list[str]) -> pa.Table:
    array = pa.array(texts, pa.large_string())
    keys = hash_column(array)
    return pa.table({"vectors": scorers["vectors"].score(Documents(array, keys))[""], "key": keys})


def fitted(texts: list[str], **settings: Any) -> tuple[Clusters, dict[str, Scorer]]:
    scorers = scorers_of(**settings)
    topic = scorers["topic"]
    assert isinstance(topic, Clusters)
    topic.fit(in_keyed_order(embedded(scorers, texts)))
    return topic, scorers


def assigned(topic: Clusters, scorers: dict[str, Scorer], texts: list[str]) -> dict[str, Any]:
    table = embedded(scorers, texts)
    keys = table["key"].to_numpy()
    found = topic.score(Documents(pa.nulls(len(texts), pa.large_string()), keys, None, table.select(["vectors"])))
    return {suffix: column.to_numpy(zero_copy_only=False) for suffix, column in found.items()}


@pytest.fixture(scope="module")
def texts(documents: pa.Table) -> list[str]:
    return documents["text"].to_pylist()


@pytest.mark.parametrize("spherical", [True, False])
def test_documents_get_the_nearest_centroid(texts: list[str], spherical: bool) -> None:
    topic, scorers = fitted(texts, spherical=spherical)
    found = assigned(topic, scorers, texts[:50])
    vectors = vectors_of(embedded(scorers, texts[:50])["vectors"])[0].astype(float)
    centroids = topic.state["centroids"].astype(float)
    wanted = 1 - vectors @ centroids.T if spherical else np.linalg.norm(vectors[:, None] - centroids, axis=2)
    assert np.array_equal(found[""], wanted.argmin(1))
    assert np.allclose(found["distance"], wanted.min(1), atol=1e-5)
    assert np.allclose(found["second"], np.sort(wanted, 1)[:, 1], atol=1e-5)
    assert len(np.unique(assigned(topic, scorers, texts)[""])) == 8


def test_order_and_copies_of_the_sample_change_nothing(texts: list[str]) -> None:
    one, _ = fitted(texts)
    turned, _ = fitted([*texts[::-1], *texts[:40]])
    assert one.fingerprint == turned.fingerprint
    assert one.fingerprint != fitted(texts[:-1])[0].fingerprint


def test_texts_without_words_have_no_cluster(texts: list[str]) -> None:
    topic, scorers = fitted([*texts[:60], ""])
    found = assigned(topic, scorers, ["", texts[0], " "])
    assert all(np.isnan(column.astype(float)).tolist() == [True, False, True] for column in found.values())
    assert all(np.isnan(column.astype(float)).all() for column in assigned(topic, scorers, ["", " "]).values())


def test_a_state_is_for_the_vectors_that_it_was_fitted_on(texts: list[str]) -> None:
    topic, scorers = fitted(texts)
    again = scorers_of(fitted="state.npz", clusters=3, iterations=1)
    restored = again["topic"]
    assert isinstance(restored, Clusters)
    restored.restore(topic.state)
    assert restored.fingerprint == topic.fingerprint
    assert np.array_equal(assigned(restored, again, texts[:9])[""], assigned(topic, scorers, texts[:9])[""])
    for other in (scorers_of(dimension=128), scorers_of(spherical=False)):
        with pytest.raises(RecipeError, match="was made with"):
            other["topic"].restore(topic.state)  # type: ignore[attr-defined]
    for broken in ({}, {**topic.state, "centroids": np.zeros((0, 64), np.float32)}):
        with pytest.raises(RecipeError, match=r"is not a state|does not hold centroids"):
            restored.restore(broken)


def test_what_little_there_is_to_fit_on_is_told(texts: list[str]) -> None:
    (line,) = fitted(texts[:100])[0].findings(np.zeros(0, np.uint64), 1)
    assert line.startswith("8 clusters were found in 100 documents")
    (line,) = fitted(texts[:5])[0].findings(np.zeros(0, np.uint64), 1)
    assert line.startswith("only 5 of 8 clusters")
    assert not fitted(texts, clusters=4)[0].findings(np.zeros(0, np.uint64), 1)
    with pytest.raises(RecipeError, match="no document has a vector"):
        fitted(["", " "])


def test_the_sample_grows_with_the_clusters() -> None:
    def sample(**settings: Any) -> int:
        topic = scorers_of(**settings)["topic"]
        assert isinstance(topic, Clusters)
        return topic.sample

    assert [sample(clusters=k) for k in (10, 5000, 20_000)] == [2560, 262_144, 780_000]
    assert sample(clusters=10, sample=77) == 77


def test_scores_that_do_not_fit_are_refused() -> None:
    def clusters(embedding: str) -> Clusters:
        return Clusters(ClustersParameters(scorer="clusters", embedding=embedding))

    vectors = Embedding(EmbeddingParameters(scorer="embedding"))
    with pytest.raises(RecipeError, match=r"scores.topic.embedding: no score is called `vector` \(nearest: vectors\)"):
        bind_all({"topic": clusters("vector"), "vectors": vectors})
    dsir = DSIR(DSIRParameters(scorer="dsir", target="wanted"))
    with pytest.raises(RecipeError, match="`dsir` is of the scorer `dsir`, where a score that holds vectors"):
        bind_all({"topic": clusters("dsir"), "dsir": dsir})
    with pytest.raises(RecipeError, match="where a score that holds vectors"):
        bind_all({"one": clusters("two"), "two": clusters("vectors"), "vectors": vectors})
    one, two = clusters("two"), clusters("one")
    with pytest.raises(RecipeError, match="`one`, `two` work on each other"):
        derived_in_order({"one": one, "two": two})


def test_without_copies_clusters_are_those_of_other_documents(texts: list[str]) -> None:
    """Three hundred versions of a page take most of the centroids, unless copies go before these are found."""
    page = texts[0].split(" ")
    copies = [" ".join([*page, str(i), *page[: i % 7]]) for i in range(300)]

    def clusters_of_copies(**settings: Any) -> int:
        topic, scorers = fitted([*texts[:100], *copies], clusters=10, **settings)
        return len(set(assigned(topic, scorers, copies)[""].tolist()))

    assert clusters_of_copies(without_copies=0.9) == 1 < clusters_of_copies()
