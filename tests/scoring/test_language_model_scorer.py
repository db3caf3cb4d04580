"""The language model scorer against full logits of each document, whatever the batches; and what goes wrong."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.keys import hash_bytes, text_buffers
from tamis.scoring import language_model_scorer
from tamis.scoring.causal_model import causal_model, loaded_models
from tamis.scoring.language_model_scorer import LanguageModel, LanguageModelParameters
from tamis.scoring.scorer import Documents
from tiny_models import save_model
from transformers import AutoTokenizer, BertConfig, BertLMHeadModel

TEXTS = [
    "A tamis is a drum sieve: what is poured in is weighed by the mesh.",
    "",
    "e\u0301 日本語 😀\x00\r\n\t",
    "x",
    "One document that is longer than the context of the model, so that it is read in windows. " * 6,
    "The committee will publish its report when all members have read it.\n\nUntil then it says nothing.",
]
CORPUS = CorpusConfig(format="jsonl", paths=["none"])
PAIRS = CorpusConfig(format="jsonl", paths=["none"], prompt="asked", response="answer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, TEXTS)
    return folder


def documents(texts: list[str], table: pa.Table | None = None) -> Documents:
    text = pa.array(texts, pa.large_string())
    return Documents(text, hash_bytes(*text_buffers(text)), table=table)


def prepared(folder: Path, corpus: CorpusConfig = CORPUS, **parameters: Any) -> LanguageModel:
    scorer = LanguageModel(LanguageModelParameters(scorer="language_model", model=str(folder), **parameters))
    scorer.prepare(corpus)
    return scorer


def scored(folder: Path, texts: list[str], **parameters: Any) -> dict[str, list[Any]]:
    columns = prepared(folder, **parameters).score(documents(texts))
    return {suffix: column.to_pylist() for suffix, column in columns.items()}


def assert_close(found: list[float | None], expected: list[float | None], tolerance: float) -> None:
    np.testing.assert_allclose(np.array(found, float), np.array(expected, float), rtol=tolerance)


def by_hand(
    model: Any, folder: Path, text: str, context: int, stride: int, prompt: str = ""
) -> list[tuple[float, float]]:
    """Loss and entropy of each scored token, from full logits of one window after another."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tokens = head + encoded["input_ids"]
    given = len(head) + sum(end <= len(prompt) for _, end in encoded["offset_mapping"]) if prompt else 1
    found: list[tuple[float, float]] = []
    start = reached = 0
    while reached < len(tokens) - 1:
        window = torch.tensor([tokens[start : start + context]])
        with torch.no_grad():
            distributions = model(window).logits[0].double().log_softmax(-1)
        for position in range(reached + 1, min(start + context, len(tokens) - 1) + 1):
            row = distributions[position - start - 1]
            if position >= given:
                found.append((-row[tokens[position]].item(), -(row.exp() * row).sum().item()))
        reached = min(start + context, len(tokens) - 1)
        start += stride
    return found


@pytest.mark.parametrize(
    ("kind", "beginning"),
    [("llama", True), ("llama", False), ("gpt2", False), ("gemma2", True), ("cohere2", True), ("granite", True)],
)
def test_columns_are_those_of_full_logits(tmp_path: Path, kind: str, beginning: bool) -> None:
    model = save_model(tmp_path, TEXTS, kind, beginning=beginning)
    found = scored(tmp_path, TEXTS, context=40, stride=30, token_nll=True)
    for i, text in enumerate(TEXTS):
        expected = by_hand(model, tmp_path, text, 40, 30)
        assert found["tokens"][i] == len(expected)
        if not expected:
            assert [found[suffix][i] for suffix in ("", "perplexity", "bits_per_byte", "entropy")] == [None] * 4
            assert found["token_nll"][i] is None
            continue
        losses, entropies = np.array(expected).T
        assert found[""][i] == pytest.approx(losses.mean(), rel=1e-5)
        assert found["perplexity"][i] == pytest.approx(np.exp(losses.mean()), rel=1e-4)
        assert found["bits_per_byte"][i] == pytest.approx(losses.sum() / math.log(2) / len(text.encode()), rel=1e-5)
        assert found["entropy"][i] == pytest.approx(entropies.mean(), rel=1e-4)
        tokens = found["token_nll"][i]
        assert (tokens[0] is None) == (not beginning)
        assert tokens[not beginning :] == pytest.approx(losses, rel=1e-3, abs=1e-3)


def test_a_response_is_scored_after_its_prompt(folder: Path) -> None:
    model, tokenizer = save_model(folder, TEXTS), AutoTokenizer.from_pretrained(folder)
    asked = ["What is a tamis?", "", "日本語 😀 " * 30, "nothing"]
    answer = ["A drum sieve.", "No prompt", "é " + "and a long answer " * 9, ""]
    joined = [f"{a}\n\n{b}" for a, b in zip(asked, answer, strict=True)]
    scorer = prepared(folder, PAIRS, context=32, stride=16, token_nll=True)
    assert scorer.needs == ["answer"]
    assert scorer.fingerprint != prepared(folder, context=32, stride=16, token_nll=True).fingerprint
    table = pa.table({"asked": asked, "answer": answer})
    found = {suffix: column.to_pylist() for suffix, column in scorer.score(documents(joined, table)).items()}
    for i, text in enumerate(joined):
        expected = by_hand(model, folder, text, 32, 16, asked[i] + "\n\n")
        assert found["tokens"][i] == len(expected) == len(tokenizer(answer[i], add_special_tokens=False)["input_ids"])
        if not expected:
            assert found[""][i] is None
            continue
        losses = [loss for loss, _ in expected]
        assert found[""][i] == pytest.approx(np.mean(losses), rel=1e-5)
        bits = sum(losses) / math.log(2) / len(answer[i].encode())
        assert found["bits_per_byte"][i] == pytest.approx(bits, rel=1e-5)
        given = len(found["token_nll"][i]) - len(expected)
        assert found["token_nll"][i][:given] == [None] * given
        assert None not in found["token_nll"][i][given:]


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
@pytest.mark.parametrize("slice_bytes", [60, 1 << 20])
def test_scores_do_not_depend_on_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batch_tokens: int, slice_bytes: int
) -> None:
    texts = TEXTS * 3
    expected = scored(folder, texts, context=40)
    monkeypatch.setattr(language_model_scorer, "SLICE_BYTES", slice_bytes)
    order = np.random.default_rng(0).permutation(len(texts))
    found = scored(folder, [texts[i] for i in order], context=40, batch_tokens=batch_tokens)
    tolerance = prepared(folder).tolerance / 10
    for suffix, values in expected.items():
        assert_close(found[suffix], [values[i] for i in order], tolerance)


def test_threads_share_a_model_that_pickles_without_it(folder: Path) -> None:
    scorer = prepared(folder)
    expected = scorer.score(documents(TEXTS))
    sent = pickle.dumps(scorer)
    assert len(sent) < 2000
    with ThreadPoolExecutor(3) as pool:
        copies = [pickle.loads(sent) for _ in range(6)]
        found = list(pool.map(lambda copy: copy.score(documents(TEXTS)), copies))
    for columns in found:
        assert_close(columns[""].to_pylist(), expected[""].to_pylist(), 1e-5)
    assert len(loaded_models(scorer._prepared.key)) == 1


def test_what_does_not_fit_is_halved_and_in_the_end_left_out(tmp_path: Path) -> None:
    save_model(tmp_path, [*TEXTS, "of its own"])
    scorer = prepared(tmp_path, context=60, batch_tokens=400)
    model = causal_model(scorer._prepared.key)
    expected = scorer.score(documents(TEXTS * 3))
    network, sizes = model.network, []

    def small(tokens: torch.Tensor) -> torch.Tensor:
        """The network on a device with memory for 45 tokens."""
        sizes.append(tokens.numel())
        if tokens.numel() > 45:
            raise torch.OutOfMemoryError("out of memory")
        return network(tokens)

    model.network = small
    found = scorer.score(documents(TEXTS * 3))
    assert sizes[0] > 300
    assert sizes[1] <= sizes[0] // 2
    sizes.clear()
    assert scorer.score(documents(TEXTS * 3)) == found
    assert max(sizes) <= 60  # windows of the context, one by one: what did not fit is not tried again
    too_long = [tokens > 45 for tokens in expected["tokens"].to_pylist()]
    assert any(too_long)
    for before, after, long in zip(expected[""].to_pylist(), found[""].to_pylist(), too_long, strict=True):
        assert after == (None if long else pytest.approx(before))
    assert found["tokens"] == expected["tokens"]

    def broken(tokens: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a mistake")

    model.network = broken
    with pytest.raises(RuntimeError, match="a mistake"):
        scorer.score(documents(TEXTS))


def test_a_model_that_sees_what_follows_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, TEXTS)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(**sizes, vocab_size=500, max_position_embeddings=64, tie_word_embeddings=False)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(TamisError, match=r"its logits are not its head's|tokens see those after them"):
        scored(tmp_path, TEXTS)


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, TEXTS)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TamisError, match=r"lack the weights lm_head\.weight"):
        scored(tmp_path, TEXTS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"context": 65}, "context: the model reads at most 64 tokens, not 65"),
        ({"stride": 65}, "stride: 65 leaves tokens out of windows of 64"),
        ({"device": "cuda"}, "device: torch finds no GPU"),
    ],
)
def test_parameters_that_do_not_fit_the_model_are_refused(
    folder: Path, parameters: dict[str, Any], message: str
) -> None:
    if "device" in parameters and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RecipeError, match=message):
        prepared(folder, **parameters)


def test_bfloat16_is_near_and_is_another_score(folder: Path) -> None:
    scorer = prepared(folder, device="cpu", dtype="bfloat16")
    assert scorer.fingerprint != prepared(folder, device="cpu").fingerprint
    found, expected = scorer.score(documents(TEXTS)), scored(folder, TEXTS, device="cpu")
    assert_close(found["entropy"].to_pylist(), expected["entropy"], 0.05)


def test_the_fingerprint_is_of_what_changes_values(folder: Path) -> None:
    base = prepared(folder).fingerprint
    assert prepared(folder, batch_tokens=7, context=64, stride=32).fingerprint == base
    assert len({base, *(prepared(folder, **p).fingerprint for p in ({"context": 63}, {"stride": 1}))}) == 3


def test_a_folder_is_seen_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    there = LanguageModelParameters(scorer="language_model", model="models/tiny")
    assert there.resolved(tmp_path).model == str(tmp_path / "models" / "tiny")
    assert there.resolved(tmp_path / "models") == there
    with pytest.raises(ValueError, match="`stride: 9` leaves tokens out of windows of `context: 8`"):
        LanguageModelParameters(scorer="language_model", model="x", context=8, stride=9)


def test_torch_is_imported_when_it_is_used() -> None:
    code = (
        "import sys, tamis.scoring.language_model_scorer as module\n"
        "module.LanguageModel(module.LanguageModelParameters(scorer='language_model', model='x')).columns\n"
        "print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
