"""Vectors are those of the plain library, whatever the batches; hashed ones need nothing; misuse is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError
from tamis.connectors.keys import hash_column
from tamis.scoring.causal_model import model_of_worker
from tamis.scoring.embedding_scorer import Embedding, EmbeddingParameters
from tamis.scoring.encoder_model import load_encoder
from tamis.scoring.scorer import Documents
from tamis.scoring.vectors import vectors_of
from tiny_models import byte_tokenizer, save_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

CORPUS = CorpusConfig(format="parquet", paths=["x.parquet"], text="text")
TEXTS = [
    "A sieve keeps what is coarse and lets fall what is fine.",
    "short",
    "",
    "   \n ",
    "Of many numbers 1, 2, 3 and 4 the fifth one is missing; so is the sixth, and nobody asked for the seventh. " * 3,
    "Ein Sieb aus Pferdehaar, gespannt wie eine Trommel.",
]


def documents_of(texts: list[str]) -> Documents:
    array = pa.array(texts, pa.large_string())
    return Documents(array, hash_column(array))


def scorer_of(**settings: Any) -> Embedding:
    scorer = Embedding(EmbeddingParameters(scorer="embedding", **settings))
    scorer.prepare(CORPUS)
    return scorer


def vectors_by(scorer: Embedding, texts: list[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    return vectors_of(scorer.score(documents_of(texts))[""])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights whose tokenizer puts <cls> and <sep> around texts."""
    folder = tmp_path_factory.mktemp("encoder")
    backend = byte_tokenizer(TEXTS).backend_tokenizer
    backend.add_special_tokens(["<cls>", "<sep>"])
    ids = [(name, backend.token_to_id(name)) for name in ("<cls>", "<sep>")]
    backend.post_processor = TemplateProcessing(single="<cls> $A <sep>", special_tokens=ids)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<cls>", sep_token="<sep>", pad_token="<s>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertModel(BertConfig(vocab_size=len(tokenizer) + 3, max_position_embeddings=64, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    save_model(folder, TEXTS)
    return folder


def plain(folder: Path, text: str, pooling: str, context: int) -> NDArray[np.float64]:
    """The vector by the library, one text at a time and without padding."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=context)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(input_ids=inputs["input_ids"]).last_hidden_state[0].double().numpy()
    vector = {"mean": hidden.mean(0), "cls": hidden[0], "last_token": hidden[-1]}[pooling]
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last_token"])
@pytest.mark.parametrize("context", [64, 9])
def test_an_encoders_vectors_are_those_of_the_library(encoder: Path, pooling: Any, context: int) -> None:
    scorer = scorer_of(model=str(encoder), pooling=pooling, context=context)
    vectors, there = vectors_by(scorer, TEXTS)
    assert there.tolist() == [True, True, False, False, True, True]
    for text, vector in zip([TEXTS[i] for i in np.flatnonzero(there)], vectors, strict=True):
        assert np.allclose(vector, plain(encoder, text, pooling, context), atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_long_texts_are_read_in_windows(encoder: Path, pooling: Any) -> None:
    scorer = scorer_of(model=str(encoder), pooling=pooling, context=9, long="mean")
    vectors, there = vectors_by(scorer, TEXTS)
    assert there.tolist() == [True, True, False, False, True, True]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(encoder)
    model = AutoModel.from_pretrained(encoder).eval()
    for text, vector in zip([TEXTS[i] for i in np.flatnonzero(there)], vectors, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        total = np.zeros(32)
        for start in range(0, len(ids), 7):  # two of nine are <cls> and <sep>
            window = [tokenizer.cls_token_id, *ids[start : start + 7], tokenizer.sep_token_id]
            with torch.no_grad():
                hidden = model(input_ids=torch.tensor([window])).last_hidden_state[0].double().numpy()
            one = hidden.mean(0) if pooling == "mean" else hidden[0]
            total += len(window) * one / np.linalg.norm(one)
        assert np.allclose(vector, total / np.linalg.norm(total), atol=2e-3)
    short, _ = vectors_by(scorer, ["short"])
    assert np.allclose(short[0], vectors[1], atol=1e-3)


def test_a_causal_model_gives_its_last_token(causal: Path) -> None:
    vectors, _ = vectors_by(scorer_of(model=str(causal)), TEXTS)
    assert np.allclose(vectors[0], plain(causal, TEXTS[0], "last_token", 64), atol=1e-3)
    assert np.allclose(vectors[2], plain(causal, TEXTS[4], "last_token", 64), atol=1e-3)


def test_batches_order_and_neighbours_change_nothing_beyond_the_tolerance(encoder: Path) -> None:
    whole, _ = vectors_by(scorer_of(model=str(encoder)), TEXTS)
    one_by_one, _ = vectors_by(scorer_of(model=str(encoder), batch_tokens=1), TEXTS)
    turned, _ = vectors_by(scorer_of(model=str(encoder)), TEXTS[::-1])
    tolerance = scorer_of(model=str(encoder)).tolerance
    assert np.abs(whole - one_by_one).max() <= tolerance and np.abs(whole - turned[::-1]).max() <= tolerance


def test_the_prefix_is_read_with_the_text(encoder: Path) -> None:
    with_prefix, there = vectors_by(scorer_of(model=str(encoder), prefix="query: "), TEXTS)
    assert np.allclose(with_prefix[1], plain(encoder, "query: short", "mean", 64), atol=1e-3)
    assert there.tolist() == [True, True, False, False, True, True]


def test_what_does_not_fit_into_memory_is_halved_and_then_left_out(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorer_of(model=str(encoder), context=63)  # a model of its own
    whole, _ = vectors_by(scorer, TEXTS)
    model = model_of_worker(scorer._key, load_encoder)
    network = model.network

    def small(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if tokens.numel() > 40:
            raise torch.OutOfMemoryError("no room")
        return network(tokens, mask)

    monkeypatch.setattr(model, "network", small)
    vectors, there = vectors_by(scorer, TEXTS)
    assert there.tolist() == [True, True, False, False, False, True]
    assert np.allclose(vectors, whole[[0, 1, 3]], atol=1e-3)


def test_vectors_that_are_no_numbers_are_null(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of(model=str(encoder), context=62)
    model = model_of_worker(scorer._key, load_encoder)
    network = model.network
    monkeypatch.setattr(model, "network", lambda tokens, mask: network(tokens, mask) * torch.nan)
    assert not vectors_by(scorer, TEXTS)[1].any()


def test_hashed_vectors_need_no_model() -> None:
    scorer = scorer_of(dimension=64)
    vectors, there = vectors_by(scorer, [*TEXTS, "SHORT"])
    assert there.tolist() == [True, True, False, False, True, True, True]
    assert vectors.shape == (5, 64) and np.array_equal(vectors[1], vectors[4])
    assert np.allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-3)
    assert scorer.tolerance == 0


def test_fingerprints_follow_what_changes_values_and_nothing_else(encoder: Path, causal: Path) -> None:
    def of(**settings: Any) -> str:
        return scorer_of(**settings).fingerprint

    model = {"model": str(encoder)}
    different = [
        of(),
        of(ngrams=2),
        of(dimension=128),
        of(**model),
        of(**model, pooling="cls"),
        of(**model, prefix="a "),
        of(**model, context=32),
        of(**model, long="mean"),
        of(model=str(causal)),
    ]
    assert len(set(different)) == len(different)
    assert of(**model) == of(**model, pooling="mean", batch_tokens=7, context=64)


def test_misuse_is_refused(encoder: Path, tmp_path: Path) -> None:
    for settings, match in (
        ({"prefix": "x"}, "`prefix` is not for `model: hashed`"),
        ({"model": "m", "dimension": 128}, "`dimension` is not for `model: m`"),
        ({"dimension": 100}, "no multiple of 64"),
    ):
        with pytest.raises(ValidationError, match=match):
            scorer_of(**settings)
    with pytest.raises(RecipeError, match="reads at most 64 tokens, not 65"):
        scorer_of(model=str(encoder), context=65)
    with pytest.raises(RecipeError, match="there is no folder"):
        scorer_of(model=str(tmp_path / "nothing/here/at all"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(RecipeError, match="pickle files only"):
        scorer_of(model=str(tmp_path))
