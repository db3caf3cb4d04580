"""The judge against the model's own logits; one template for all documents, cut to the context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.keys import hash_bytes, text_buffers
from tamis.scoring.excess_loss_scorer import ExcessLoss, ExcessLossParameters
from tamis.scoring.judge_scorer import Judge, JudgeParameters
from tamis.scoring.language_model_scorer import LanguageModel, LanguageModelParameters
from tamis.scoring.scorer import Documents
from tiny_models import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["A tamis is a drum sieve.", "", "One document that is longer than the context of the model. " * 20, "é 日本語"]
CORPUS = CorpusConfig(format="jsonl", paths=["none"])
TEMPLATE = "Read: {document}\nGood?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    for kind, folder in zip(("llama", "gpt2"), made, strict=True):
        save_model(folder, TEXTS, kind, context=256)
    return made


def documents(texts: list[str]) -> Documents:
    text = pa.array(texts, pa.large_string())
    return Documents(text, hash_bytes(*text_buffers(text)))


def judge(folder: Path, **parameters: Any) -> Judge:
    settings = {"scorer": "judge", "model": str(folder), "template": TEMPLATE, "answer": " yes indeed"}
    scorer = Judge(JudgeParameters(**settings | parameters))
    scorer.prepare(CORPUS)
    return scorer


def test_judge_is_the_models_own_log_probability_of_the_answer(folders: list[Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    model = AutoModelForCausalLM.from_pretrained(folders[0])

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    context = 40
    found = judge(folders[0], context=context).score(documents(TEXTS))
    for row, text in enumerate(TEXTS):
        head, tail, answer = [tokenizer.bos_token_id, *ids("Read: ")], ids("\nGood?"), ids(" yes indeed")
        body = ids(text)[: context + 1 - len(head) - len(tail) - len(answer)]
        tokens = torch.tensor([*head, *body, *tail, *answer])
        with torch.inference_mode():
            log_probabilities = model(tokens[None]).logits[0].log_softmax(-1)
        places = torch.arange(len(tokens) - len(answer), len(tokens))
        expected = log_probabilities[places - 1, tokens[places]].sum().item()
        assert found[""][row].as_py() == pytest.approx(expected, abs=1e-4)
        assert found["tokens"][row].as_py() == len(body)


def test_judge_does_not_depend_on_batches_or_neighbours(folders: list[Path]) -> None:
    whole = judge(folders[0]).score(documents(TEXTS))[""].to_numpy()
    small = judge(folders[0], batch_tokens=64)
    alone = np.concatenate([small.score(documents([text]))[""].to_numpy() for text in TEXTS])
    np.testing.assert_allclose(alone, whole, atol=1e-4)


def test_judge_against_another_answer_is_their_log_softmax(folders: list[Path]) -> None:
    yes, no = (judge(folders[0], answer=answer).score(documents(TEXTS))[""].to_numpy() for answer in (" yes", " no"))
    both = judge(folders[0], answer=" yes", against=" no").score(documents(TEXTS))[""].to_numpy()
    short = [0, 1, 3]  # of the same length whatever the answer
    np.testing.assert_allclose(both[short], (yes - np.logaddexp(yes, no))[short], atol=1e-4)


def test_templates_that_cannot_work_are_refused(folders: list[Path]) -> None:
    for wrong in ({"template": "no place"}, {"template": "{document}{document}"}, {"answer": ""}, {"token_nll": True}):
        with pytest.raises(ValueError, match=r"template|answer|token_nll"):
            judge(folders[0], **wrong)
    assert judge(folders[0]).fingerprint != judge(folders[0], answer=" no").fingerprint


def test_excess_loss_is_the_difference_of_two_models(folders: list[Path]) -> None:
    losses = []
    for folder in folders:
        single = LanguageModel(LanguageModelParameters(scorer="language_model", model=str(folder), context=32))
        single.prepare(CORPUS)
        losses.append(single.score(documents(TEXTS))[""])
    model, reference = map(str, folders)
    scorer = ExcessLoss(ExcessLossParameters(scorer="excess_loss", model=model, reference=reference, context=32))
    scorer.prepare(CORPUS)
    found = scorer.score(documents(TEXTS))
    assert found["loss"].equals(losses[0])
    assert found["reference"].equals(losses[1])
    differences = [None if a is None else a - b for a, b in zip(*(loss.to_pylist() for loss in losses), strict=True)]
    assert found[""].to_pylist() == pytest.approx(differences)
    assert found[""][1].as_py() is None  # an empty document has no loss
    swapped = ExcessLoss(ExcessLossParameters(scorer="excess_loss", model=reference, reference=model, context=32))
    swapped.prepare(CORPUS)
    assert swapped.fingerprint != scorer.fingerprint
