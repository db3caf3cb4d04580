"""Gradients of documents from batches are those of one document at a time, whole or projected."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from numpy.typing import NDArray
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.keys import hash_column
from tamis.scoring import causal_model as causal_models
from tamis.scoring.adam_direction import adam_direction, coordinate_scales, load_adam_state
from tamis.scoring.causal_model import causal_model
from tamis.scoring.gradient_model import GradientModel
from tamis.scoring.gradient_projection import layer_projections
from tamis.scoring.gradients_scorer import Gradients, GradientsParameters
from tamis.scoring.language_model_scorer import LanguageModel, LanguageModelParameters
from tamis.scoring.loss_gradient import loss_gradient
from tamis.scoring.scorer import Documents
from tamis.scoring.token_loss import Head
from tamis.scoring.token_sequences import tokenise
from tamis.scoring.vectors import vectors_of
from tamis.scoring.windows import cut_windows
from tiny_models import save_model
from transformers.pytorch_utils import Conv1D

TEXTS = [
    "A tamis is a drum sieve: what is poured in is weighed by the mesh.",
    "",
    "x",
    "One document that is longer than the context of the model, so that it is read in windows. " * 4,
    "The committee will publish its report when all members have read it.",
    "e\u0301 日本語 😀\x00\r\n\t",
]
CORPUS = CorpusConfig(format="jsonl", paths=["none"])
WHOLE = 1 << 16
CONTEXT, STRIDE = 40, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, TEXTS)
    return folder


def documents(texts: list[str], table: pa.Table | None = None) -> Documents:
    text = pa.array(texts, pa.large_string())
    return Documents(text, hash_column(text), table=table)


def prepared(folder: Path, corpus: CorpusConfig = CORPUS, **parameters: Any) -> Gradients:
    settings = {"context": CONTEXT, "stride": STRIDE} | parameters
    scorer = Gradients(GradientsParameters(scorer="gradients", model=str(folder), **settings))
    scorer.prepare(corpus)
    return scorer


def features_of(scorer: Gradients, texts: list[str]) -> NDArray[np.float32]:
    """Return what is stored, with zeros where nothing is."""
    vectors, there = vectors_of(scorer.score(documents(texts))[""])
    found = np.zeros((len(texts), sum(scorer.blocks)), np.float32)
    if there.any():
        found[there] = vectors
    return found


def by_autograd(model: Any, scorer: Gradients, text: str, prompt: int = 0) -> dict[str, NDArray[np.float32]]:
    """Mean gradient of one document, by layer [outputs, inputs]: one window after another, with weights that learn."""
    loaded = causal_model(scorer._prepared.key)
    given = np.array([prompt]) if prompt else None
    sequences = tokenise(loaded.tokenizer, loaded.beginning, pa.array([text], pa.large_string()), given)
    windows = cut_windows(sequences.lengths, sequences.first_scored, CONTEXT, STRIDE)
    model.requires_grad_(True).zero_grad()
    for start, end, first in zip(windows.start, windows.end, windows.first, strict=True):
        tokens = torch.from_numpy(sequences.tokens[start : end + 1].astype(np.int64))
        distributions = model(tokens[None, :-1]).logits[0].float().log_softmax(-1)
        losses = -distributions[torch.arange(end - start), tokens[1:]]
        losses[first - 1 - start :].sum().backward()
    layers = dict(model.named_modules())
    found = {}
    for name in scorer._prepared.layers:
        layer = model.get_output_embeddings() if name == "head" else layers[name]
        gradient = torch.zeros_like(layer.weight) if layer.weight.grad is None else layer.weight.grad
        matrix = gradient.T if isinstance(layer, Conv1D) else gradient
        found[name] = (matrix / max(1, int(sequences.scored[0]))).numpy()
    return found


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = 2e-3) -> None:
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= tolerance * scale).all()


@pytest.mark.parametrize(("kind", "beginning"), [("llama", True), ("gpt2", False), ("gemma2", True), ("granite", True)])
def test_whole_gradients_are_those_of_one_document_at_a_time(tmp_path: Path, kind: str, beginning: bool) -> None:
    model = save_model(tmp_path, TEXTS, kind, beginning=beginning)
    # a head that shares its weights with the embedding has a gradient of its own here, and not so by autograd
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    scorer = prepared(tmp_path, dimension=WHOLE, layers=["all"] if tied else ["all", "head"])
    expected = [np.concatenate([m.ravel() for m in by_autograd(model, scorer, text).values()]) for text in TEXTS]
    assert len(scorer.blocks) == 14 + (not tied) or kind == "gpt2"
    found = features_of(scorer, TEXTS)
    small = [i for i, block in enumerate(scorer.blocks) if block != np.prod(list(scorer._prepared.layers.values())[i])]
    if small == []:
        assert_close(found, np.stack(expected))
    else:  # the head is larger than its share: all before it
        size = sum(scorer.blocks[: small[0]])
        assert_close(found[:, :size], np.stack(expected)[:, :size])


@pytest.mark.parametrize("projection", ["random", "coordinates"])
def test_projections_are_those_of_whole_gradients(tmp_path: Path, projection: str) -> None:
    model = save_model(tmp_path, TEXTS, "llama")
    scorer = prepared(tmp_path, dimension=200, layers=["*.mlp.*", "head"], projection=projection)
    projections = scorer._projections()
    expected = []
    for text in TEXTS:
        parts = []
        for name, gradient in by_autograd(model, scorer, text).items():
            one = projections[name]
            # an outer product for each row of the gradient: unit vector times that row
            parts.append(one.of_outer(gradient, np.eye(len(gradient), dtype=np.float32)).sum(axis=0))
        expected.append(np.concatenate(parts))
    assert scorer.blocks == [29, 29, 29, 29, 28, 28, 28] or projection == "coordinates"
    assert_close(features_of(scorer, TEXTS), np.stack(expected))


def test_neighbours_in_a_batch_change_nothing(folder: Path) -> None:
    texts = TEXTS + [text[::-1] for text in TEXTS]
    together = features_of(prepared(folder, dimension=256, batch_tokens=4096), texts)
    alone = np.concatenate([features_of(prepared(folder, dimension=256, batch_tokens=1), [text]) for text in texts])
    order = np.argsort([len(text) for text in texts])
    shuffled = features_of(prepared(folder, dimension=256, batch_tokens=90), [texts[i] for i in order])
    assert_close(together, alone, 1e-3)
    assert_close(shuffled, alone[order], 1e-3)
    with_loss = np.linalg.norm(alone, axis=1) > 0
    assert with_loss.tolist() == [bool(text) for text in texts]


def test_threads_that_share_a_model_do_not_mix(folder: Path) -> None:
    scorer = prepared(folder, dimension=256)
    losses = LanguageModel(LanguageModelParameters(scorer="language_model", model=str(folder), context=CONTEXT))
    losses.prepare(CORPUS)
    expected, expected_losses = features_of(scorer, TEXTS), losses.score(documents(TEXTS))[""]
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(features_of, scorer, TEXTS) for _ in range(4)]
        scored = [pool.submit(losses.score, documents(TEXTS)) for _ in range(4)]
        for one in found:
            assert_close(one.result(), expected, 1e-3)
        assert all(one.result()[""].equals(expected_losses) for one in scored)


def test_a_response_is_differentiated_after_its_prompt(tmp_path: Path) -> None:
    model = save_model(tmp_path, TEXTS)
    pairs = CorpusConfig(format="jsonl", paths=["none"], prompt="asked", response="answer")
    scorer = prepared(tmp_path, pairs, dimension=WHOLE)
    asked, answers = ["What is a tamis?", "日本語 😀"], ["A drum sieve.", "x" * 80]
    texts = [f"{one}\n\n{other}" for one, other in zip(asked, answers, strict=True)]
    table = pa.table({"asked": asked, "answer": answers})
    vectors, _ = vectors_of(scorer.score(documents(texts, table))[""])
    for vector, text, one in zip(vectors, texts, asked, strict=True):
        gradients = by_autograd(model, scorer, text, prompt=len(one) + 2)
        assert_close(vector[None].astype(np.float32), np.concatenate([m.ravel() for m in gradients.values()])[None])


def test_a_batch_that_does_not_fit_is_halved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = prepared(folder, dimension=256, batch_tokens=400)
    expected = features_of(scorer, TEXTS)
    model = GradientModel(causal_model(scorer._prepared.key), scorer._projections())
    whole, sizes = model._of_batch, []

    def scarce(batch: Any) -> Any:
        sizes.append(batch.inputs.size)
        if batch.inputs.size > 100:
            raise RuntimeError("can't allocate memory: you tried to allocate 1 byte")
        return whole(batch)

    monkeypatch.setattr(model, "_of_batch", scarce)
    monkeypatch.setattr(scorer, "_model", lambda: model)
    assert_close(features_of(scorer, TEXTS), expected, 1e-3)
    assert max(sizes) > 100 and sizes[-1] <= 100

    def short_only(batch: Any) -> Any:
        if batch.inputs.shape[1] == 40:
            raise RuntimeError("can't allocate memory: you tried to allocate 1 byte")
        return whole(batch)

    monkeypatch.setattr(model, "_of_batch", short_only)
    columns = scorer.score(documents(TEXTS))
    assert [value is None for value in columns["norm"].to_pylist()] == [False, True, False, True, False, False]
    assert columns["tokens"].to_pylist()[3] > 40


def test_inner_products_survive_projection_and_float16(folder: Path) -> None:
    texts = [text[i : i + 120] for text in TEXTS if len(text) > 60 for i in range(0, 60, 6)]
    whole = features_of(prepared(folder, dimension=WHOLE), texts)
    exact = (whole @ whole.T)[np.triu_indices(len(texts), 1)]
    errors = {}
    for dimension in (256, 4096):
        found = features_of(prepared(folder, dimension=dimension), texts)
        errors[dimension] = (
            np.abs((found @ found.T)[np.triu_indices(len(texts), 1)] - exact).mean() / np.abs(exact).mean()
        )
    assert 2 * errors[4096] < errors[256] < 1.5, errors


def test_seeds_give_other_projections_and_names_of_layers_the_same(folder: Path) -> None:
    first, again, other = (features_of(prepared(folder, dimension=100, seed=seed), TEXTS[:1]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert abs(first @ other.T).item() < 0.9 * np.linalg.norm(first) * np.linalg.norm(other)
    shapes = {"one": (30, 20), "two": (30, 20)}
    projections = layer_projections(shapes, 100, "random", 0, blow_up=2)
    assert not np.array_equal(projections["one"].inputs.matrix, projections["two"].inputs.matrix)
    alone = layer_projections({"two": (30, 20)}, 50, "random", 0, blow_up=2)["two"]
    np.testing.assert_array_equal(alone.inputs.matrix, projections["two"].inputs.matrix)


@pytest.mark.parametrize("head", [{}, {"scale": 3.0}, {"cap": 0.7}, {"bias": True, "scale": 0.5, "cap": 2.0}])
def test_the_loss_is_differentiated_as_autograd_does(head: dict[str, Any]) -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(50, 8), torch.randn(23, 8, requires_grad=True)
    bias = torch.randn(50, requires_grad=True)
    targets = torch.randint(0, 50, (23,))
    settings = head | {"bias": bias if head.get("bias") else None}
    logits = hidden @ weight.T + (bias if head.get("bias") else 0)
    before = logits.detach().requires_grad_()
    finished = before * head.get("scale", 1.0)
    cap = head.get("cap")
    finished = finished if cap is None else cap * torch.tanh(finished / cap)
    torch.nn.functional.cross_entropy(finished, targets, reduction="sum").backward()
    projection = torch.randn(50, 5)
    with torch.no_grad():
        found = loss_gradient(hidden.detach(), targets, Head(weight, **settings), 7, 11, projection)
    torch.testing.assert_close(found.hidden, before.grad @ weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.outputs, before.grad @ projection, rtol=1e-4, atol=1e-5)


def test_adams_step_is_that_of_less(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    model = save_model(tmp_path, TEXTS)
    plain = prepared(tmp_path, dimension=300, projection="coordinates")
    layers = plain._prepared.layers
    random = np.random.default_rng(0)
    state = {}
    for name, (inputs, outputs) in layers.items():
        state[f"exp_avg.{name}.weight"] = random.normal(0, 1e-2, (outputs, inputs)).astype(np.float32)
        state[f"exp_avg_sq.{name}.weight"] = random.uniform(0, 1e-3, (outputs, inputs)).astype(np.float32)
    save_file(state, tmp_path / "adam.safetensors")
    adam = prepared(tmp_path, dimension=300, update="adam", optimizer=str(tmp_path / "adam.safetensors"))
    expected = []
    for text in TEXTS:
        parts = []
        for name, gradient in by_autograd(model, plain, text).items():
            first = 0.9 * state[f"exp_avg.{name}.weight"] + 0.1 * gradient
            second = 0.999 * state[f"exp_avg_sq.{name}.weight"] + 0.001 * gradient**2
            step, one = first / np.sqrt(second + 1e-8), plain._projections()[name]
            chosen = step[one.outputs.chosen][:, one.inputs.chosen] if one.inputs.chosen is not None else step
            parts.append(chosen.ravel() * one.inputs.scale * one.outputs.scale)
        expected.append(np.concatenate(parts))
    expected[1] = np.zeros_like(expected[1])  # no tokens, no step
    assert_close(features_of(adam, TEXTS), np.stack(expected), 5e-3)
    assert adam.of_target(documents(TEXTS)).equals(plain.score(documents(TEXTS))[""])
    assert adam.fingerprint != plain.fingerprint
    sign = features_of(prepared(tmp_path, dimension=300, update="sign"), TEXTS)
    gradients = features_of(plain, TEXTS)
    seen = gradients != 0  # and not too small for float16
    np.testing.assert_array_equal(np.sign(sign)[seen], np.sign(gradients)[seen])
    assert len(np.unique(np.abs(sign[0]))) < 20  # only the scales of layers
    moments = load_adam_state(str(tmp_path / "adam.safetensors"), plain._projections())
    scales = coordinate_scales(plain._projections())
    still = adam_direction(np.zeros((1, sum(plain.blocks)), np.float32), scales, moments)
    assert (np.sign(still) == np.sign(moments.first)).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layers": ["*.mpl.*"]}, "no linear layer is called `*.mpl.*`"),
        ({"dimension": 3}, "fewer than the 14 layers"),
        ({"context": 65}, "at most 64 tokens"),
        ({"context": 20, "stride": 21}, "leaves tokens out"),
        ({"update": "adam", "optimizer": "nowhere"}, "cannot be read"),
    ],
)
def test_misuse_is_told_before_anything_is_read(folder: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("*", r"\*").replace(".", r"\.")):
        prepared(folder, **parameters)


def test_layers_that_not_every_token_goes_through_are_refused(folder: Path) -> None:
    scorer = prepared(folder, dimension=256)
    loaded = causal_models.load_causal_model(scorer._prepared.key)
    model = GradientModel(loaded, scorer._projections())
    sequences = tokenise(loaded.tokenizer, loaded.beginning, pa.array(TEXTS[:1], pa.large_string()))
    windows = cut_windows(sequences.lengths, sequences.first_scored, CONTEXT, STRIDE)
    layer = loaded.module.model.layers[0].mlp
    whole = layer.forward
    layer.forward = lambda hidden: whole(hidden.flatten(0, 1)).view_as(hidden)
    with pytest.raises(TamisError, match="does not read every token"):
        model.gradients(sequences, windows, 100)
    layer.forward = lambda hidden: hidden
    with pytest.raises(TamisError, match="was not used"):
        model.gradients(sequences, windows, 100)
