"""PCA projections: eigenvectors of whole gradients, nearer to their inner products than random ones of the size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from numpy.typing import NDArray
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError
from tamis.connectors.keys import hash_column
from tamis.scoring.causal_model import causal_model
from tamis.scoring.gradient_model import GradientModel
from tamis.scoring.gradient_pca import gradient_sides, pca_projection
from tamis.scoring.gradient_projection import layer_projections
from tamis.scoring.gradients_pca_scorer import DOCUMENTS, PCAGradients
from tamis.scoring.gradients_scorer import Gradients, GradientsParameters
from tamis.scoring.less import unit_rows
from tamis.scoring.scorer import Documents, Statistic
from tamis.scoring.token_sequences import tokenise
from tamis.scoring.vectors import vectors_of
from tamis.scoring.windows import cut_windows
from tiny_models import save_model

CORPUS = CorpusConfig(format="jsonl", paths=["none"])
CONTEXT = 40


def sentences(count: int, seed: int) -> list[str]:
    """Return texts of a few subjects, so that some directions matter more than others."""
    random = np.random.default_rng(seed)
    subjects = [
        ["the", "sieve", "weighs", "flour", "and", "sugar", "for", "bread"],
        ["def", "return", "x", "for", "in", "range", "print", "value"],
        ["the", "court", "finds", "the", "act", "and", "its", "section", "void"],
    ]
    return [" ".join(random.choice(subjects[i % 3], 14)) for i in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, sentences(30, 0))
    return folder


def documents(texts: list[str]) -> Documents:
    text = pa.array(texts, pa.large_string())
    return Documents(text, hash_column(text))


def prepared(folder: Path, **parameters: Any) -> Any:
    settings = {"context": CONTEXT, "dimension": 280, "projection": "pca"} | parameters
    scorer = Gradients.of(GradientsParameters(scorer="gradients", model=str(folder), **settings))
    scorer.prepare(CORPUS)
    return scorer


def fitted(folder: Path, texts: list[str], **parameters: Any) -> PCAGradients:
    scorer = prepared(folder, **parameters)
    statistic = scorer.start()
    scorer.update(statistic, documents(texts), True)
    scorer.finish(statistic, {})
    return scorer


def features_of(scorer: Any, texts: list[str]) -> NDArray[np.float32]:
    return vectors_of(scorer.score(documents(texts))[""])[0].astype(np.float32)


def whole_gradients(folder: Path, texts: list[str]) -> NDArray[np.float32]:
    return features_of(prepared(folder, projection="random", dimension=1 << 16), texts)


def correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Correlate the cosines of two kinds of vectors of the same documents."""
    pairs = np.triu_indices(len(first), 1)
    cosines = [(unit_rows(one) @ unit_rows(one).T)[pairs] for one in (first, second)]
    return float(np.corrcoef(*cosines)[0, 1])


def test_inner_products_are_nearer_than_with_random_projections(folder: Path) -> None:
    known, new = sentences(60, 1), sentences(45, 2)
    whole = whole_gradients(folder, new)
    for dimension in (70, 280):
        by_pca = correlation(features_of(fitted(folder, known, dimension=dimension), new), whole)
        random = [
            correlation(features_of(prepared(folder, projection="random", dimension=dimension, seed=seed), new), whole)
            for seed in range(3)
        ]
        assert by_pca > max(random), (dimension, by_pca, random)


def test_sides_are_those_of_whole_gradients_of_length_one(folder: Path) -> None:
    texts = sentences(5, 3)
    scorer = prepared(folder, projection="random", dimension=1 << 16)
    model, layers = causal_model(scorer._prepared.key), scorer._prepared.layers
    sequences = tokenise(model.tokenizer, model.beginning, pa.array(texts, pa.large_string()))
    windows = cut_windows(sequences.lengths, sequences.first_scored, 10, 10)
    assert len(windows) > len(texts)
    found = gradient_sides(model, layers, sequences, windows)
    expected = {name: [np.zeros((n, n)), np.zeros((m, m))] for name, (n, m) in layers.items()}
    whole = GradientModel(model, layer_projections(layers, 1 << 20, "random", 0))
    for i in range(len(windows)):
        one = type(windows)(*(array[i : i + 1] for array in vars(windows).values()))
        gradient, begin = whole.gradients(sequences, one, 1).features.sum(axis=0), 0
        for name, (n, m) in layers.items():
            matrix = gradient[begin : begin + n * m].reshape(m, n).astype(np.float64)
            matrix /= np.linalg.norm(matrix)
            expected[name][0] += matrix.T @ matrix / len(windows)
            expected[name][1] += matrix @ matrix.T / len(windows)
            begin += n * m
    for name, sides in found.items():
        for side, wanted in zip(sides, expected[name], strict=True):
            np.testing.assert_allclose(side, wanted, atol=2e-4 * np.abs(wanted).max())
            assert np.trace(side) == pytest.approx(1, abs=1e-4)


def test_all_products_of_a_layer_are_a_rotation() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(7, 9)), random.normal(size=(5, 9))
    projection = pca_projection(a @ a.T, b @ b.T, 1000)
    inputs, outputs = random.normal(size=(4, 7)).astype(np.float32), random.normal(size=(4, 5)).astype(np.float32)
    found = projection.of_outer(inputs, outputs)
    assert projection.size == 35
    np.testing.assert_allclose(found @ found.T, (inputs @ inputs.T) * (outputs @ outputs.T), rtol=1e-4, atol=1e-4)
    first = pca_projection(a @ a.T, b @ b.T, 3)
    energy = np.sort(np.outer(np.linalg.eigvalsh(b @ b.T), np.linalg.eigvalsh(a @ a.T)).ravel())[::-1]
    rows, columns = np.divmod(first.order[:, 0], first.inputs.kept)
    of_rows = np.diag(first.outputs.matrix.T @ (b @ b.T) @ first.outputs.matrix)[rows]
    of_columns = np.diag(first.inputs.matrix.T @ (a @ a.T) @ first.inputs.matrix)[columns]
    np.testing.assert_allclose(of_rows * of_columns, energy[:3], rtol=1e-4)


def test_the_sample_does_not_depend_on_how_documents_are_cut(folder: Path) -> None:
    texts = [*sentences(DOCUMENTS + 60, 4), "", "x"]
    scorer = prepared(folder)

    def statistic(parts: list[list[str]], merged: bool) -> Statistic:
        found = [scorer.start()]
        for part in parts:
            if merged:
                found.append(scorer.start())
            scorer.update(found[-1], documents(part), True)
        whole = np.unique(np.concatenate([one["sample"] for one in found]))
        return scorer.trimmed({"sample": whole})

    together = statistic([texts], False)["sample"]
    assert len(np.unique(together >> np.uint64(32))) == DOCUMENTS
    for parts, merged in (
        ([texts[:70], texts[70:]], False),
        ([texts[:70], texts[70:]], True),
        ([texts[::-1]], True),
    ):
        np.testing.assert_array_equal(statistic(parts, merged)["sample"], together)


def test_saved_states_are_of_one_model_and_size(folder: Path) -> None:
    scorer = fitted(folder, sentences(20, 5))
    other = prepared(folder)
    assert other.fingerprint != scorer.fingerprint and other.blocks == scorer.blocks
    other.restore(scorer.state)
    assert other.fingerprint == scorer.fingerprint
    np.testing.assert_array_equal(features_of(other, sentences(3, 6)), features_of(scorer, sentences(3, 6)))
    for wrong, state in ((prepared(folder, dimension=100), scorer.state), (other, {})):
        with pytest.raises(RecipeError, match="not of this model"):
            wrong.restore(state)


def test_misuse_is_told(folder: Path) -> None:
    with pytest.raises(RecipeError, match="all layers but the head"):
        prepared(folder, layers=["*"])
    with pytest.raises(RecipeError, match="no document of the corpus has two tokens"):
        fitted(folder, ["", ""])
    with pytest.raises(RuntimeError, match="fitted before"):
        prepared(folder).score(documents(["text"]))
    with pytest.raises(ValueError, match="`fitted` is of"):
        GradientsParameters(scorer="gradients", model="x", fitted="y")
    with pytest.raises(ValueError, match="single coordinates"):
        GradientsParameters(scorer="gradients", model="x", projection="pca", update="sign")
