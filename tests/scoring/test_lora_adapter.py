"""LoRA adapters are models: their gradients are those of PEFT's own, their losses those of the merged model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.keys import hash_column
from tamis.scoring.causal_model import causal_model
from tamis.scoring.gradients_scorer import Gradients, GradientsParameters
from tamis.scoring.language_model_scorer import LanguageModel, LanguageModelParameters
from tamis.scoring.model_files import model_facts
from tamis.scoring.scorer import Documents
from tamis.scoring.vectors import vectors_of
from tiny_models import save_model
from transformers import AutoModelForCausalLM

TEXTS = [
    "A tamis is a drum sieve.",
    "The committee will publish its report.",
    "x",
    "Le tamis retient ce qui est trop gros.",
]
CORPUS = CorpusConfig(format="jsonl", paths=["none"])
WHOLE = 1 << 16
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(folder: Path, base: Path, **settings: Any) -> Path:
    """Save an adapter with weights as after training: neither factor is zero."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `base` and `adapter`, which names it as `../base`."""
    folder = tmp_path_factory.mktemp("pair")
    save_model(folder / "base", TEXTS)
    save_adapter(folder / "adapter", folder / "base", r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    configured(base_model_name_or_path="../base")(folder / "adapter")
    return folder


@pytest.fixture
def own(pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pair, tmp_path / "own"))


def configured(**values: object) -> Callable[[Path], None]:
    def change(adapter: Path) -> None:
        config = json.loads((adapter / CONFIG).read_text())
        (adapter / CONFIG).write_text(json.dumps(config | values))

    return change


def documents(texts: list[str]) -> Documents:
    text = pa.array(texts, pa.large_string())
    return Documents(text, hash_column(text))


def gradients(adapter: Path, **parameters: Any) -> Gradients:
    settings = {"dimension": WHOLE} | parameters
    scorer = Gradients(GradientsParameters(scorer="gradients", model=str(adapter), **settings))
    scorer.prepare(CORPUS)
    return scorer


def vectors(scorer: Gradients) -> NDArray[np.float32]:
    found, there = vectors_of(scorer.score(documents(TEXTS))[""])
    assert there.all()
    return found.astype(np.float32)


def by_peft(base: Path, adapter: Path, scorer: Gradients) -> NDArray[np.float32]:
    """Return the mean gradient of each document, one at a time, under the model that PEFT loads."""
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    loaded = causal_model(scorer._prepared.key)
    layers = dict(model.get_base_model().named_modules())
    rows = []
    for text in TEXTS:
        model.requires_grad_(True).zero_grad()
        tokens = torch.tensor([[loaded.beginning, *loaded.tokenizer.encode(text, add_special_tokens=False).ids]])
        model(tokens, labels=tokens).loss.backward()
        found = []
        for name, (inputs, _) in scorer._prepared.layers.items():
            slope = layers[name].weight.grad
            found.append((slope if slope.shape[1] == inputs else slope.T).flatten())
        rows.append(torch.cat(found).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("kind", "settings", "layers", "number"),
    [
        ("llama", {"r": 4, "target_modules": ["q_proj", "down_proj"], "bias": "none"}, ["all"], 8),
        ("llama", {"r": 2, "target_modules": ["v_proj"]}, ["*v_proj*", "*.0.mlp.up_proj"], 7),
        (
            "gpt2",
            {"r": 4, "target_modules": ["c_attn"], "use_rslora": True, "rank_pattern": {"h.0.attn.c_attn": 3}},
            ["all"],
            4,
        ),
        ("llama", {"r": 3, "target_modules": ["o_proj"], "layers_to_transform": [1], "lora_dropout": 0.5}, ["all"], 2),
    ],
)
def test_gradients_are_those_of_one_document_at_a_time_by_peft(
    tmp_path: Path, kind: str, settings: dict[str, Any], layers: list[str], number: int
) -> None:
    save_model(tmp_path / "base", TEXTS, kind)
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", **settings)
    scorer = gradients(adapter, layers=layers)
    assert len(scorer.blocks) == number
    expected = by_peft(tmp_path / "base", adapter, scorer)
    assert expected.any(axis=1).all()
    assert (np.abs(vectors(scorer) - expected) <= 2e-3 * np.abs(expected).max(axis=1, keepdims=True)).all()


def test_what_tokens_add_is_the_product_of_the_whole(pair: Path) -> None:
    scorer = gradients(pair / "adapter", dimension=300)
    found = vectors(scorer)
    influences, sequences = scorer.on_tokens(documents(TEXTS), found[0])
    sums = np.bincount(sequences.documents, influences, len(TEXTS))
    np.testing.assert_allclose(sums, found @ found[0], rtol=1e-2, atol=1e-3 * float(found[0] @ found[0]))


def test_losses_are_those_of_the_merged_model(own: Path) -> None:
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(own / "base"), own / "adapter")
    shutil.copytree(own / "base", own / "merged")
    model.merge_and_unload().save_pretrained(own / "merged")
    found = {}
    for name in ("base", "adapter", "merged"):
        scorer = LanguageModel(LanguageModelParameters(scorer="language_model", model=str(own / name)))
        scorer.prepare(CORPUS)
        found[name] = np.asarray(scorer.score(documents(TEXTS))[""])
    np.testing.assert_allclose(found["adapter"], found["merged"], rtol=1e-4)
    assert (np.abs(found["adapter"] - found["base"]) > 1e-2 * found["base"]).any()


def change_weight(path: Path) -> None:
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, path, metadata={"format": "pt"})


def test_fingerprints_follow_base_and_adapter_and_not_their_place(own: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        return gradients(folder / "adapter", dimension=100).fingerprint

    seen = [gradients(own / "base", dimension=100).fingerprint, fingerprint(own)]
    own.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert fingerprint(moved) == seen[-1]
    shutil.copytree(moved / "base", tmp_path / "elsewhere")
    configured(base_model_name_or_path=str(tmp_path / "elsewhere"))(moved / "adapter")
    assert fingerprint(moved) == seen[-1]
    change_weight(tmp_path / "elsewhere" / "model.safetensors")
    seen.append(fingerprint(moved))
    change_weight(moved / "adapter" / WEIGHTS)
    seen.append(fingerprint(moved))
    configured(lora_alpha=5)(moved / "adapter")
    seen.append(fingerprint(moved))
    save_model(tmp_path / "other", ["tokens of another text, another text"])
    for path in (tmp_path / "other").glob("tokenizer*"):
        shutil.copy(path, moved / "adapter")
    seen.append(fingerprint(moved))
    assert len(set(seen)) == len(seen)


def only_pickle(adapter: Path) -> None:
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()


def with_a_model(adapter: Path) -> None:
    shutil.copy(adapter.parent / "base" / "model.safetensors", adapter)


def base_is_adapter(adapter: Path) -> None:
    shutil.copy(adapter / CONFIG, adapter.parent / "base")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only_pickle, "lacks adapter_model.safetensors; .* from safetensors only"),
        (with_a_model, "holds a model and an adapter"),
        (base_is_adapter, "the base model of .*adapter: .* is an adapter itself"),
        (
            lambda adapter: (adapter.parent / "base" / "model.safetensors").unlink(),
            "base model of .* lacks model.safet",
        ),
        (lambda adapter: (adapter / CONFIG).write_text("[]"), "is no configuration of an adapter"),
        (configured(base_model_name_or_path="../none/such"), "the base model of .*: there is no folder ../none/such"),
        (configured(base_model_name_or_path=None), "names no base model"),
        (configured(peft_type="IA3"), "is a IA3 adapter; only LORA is supported"),
        (configured(use_dora=True), "no plain LoRA adapter: use_dora is True"),
        (configured(modules_to_save=["lm_head"]), "no plain LoRA adapter: modules_to_save"),
        (configured(megatron_config={"a": 1}, megatron_core="antigravity"), "no plain LoRA adapter: megatron_config"),
        (configured(init_lora_weights="pissa"), "no plain LoRA adapter: init_lora_weights is 'pissa'"),
        (configured(target_modules=["elsewhere"]), "adapter .* does not fit its base model: .*elsewhere"),
        (configured(target_modules=["lm_head"]), "changes the model's head"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(own: Path, change: Callable[[Path], None], message: str) -> None:
    gradients(own / "adapter")
    change(own / "adapter")
    with pytest.raises(RecipeError, match=message) as caught:
        gradients(own / "adapter")
    assert "\n" not in str(caught.value)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, "has unknown weights: .*down_proj"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"]}, "lacks .*k_proj"),
        ({"r": 3}, "size mismatch"),
    ],
)
def test_weights_of_another_adapter_are_refused(own: Path, settings: dict[str, Any], message: str) -> None:
    configured(**settings)(own / "adapter")
    with pytest.raises(TamisError, match=message) as caught:
        vectors(gradients(own / "adapter"))
    assert "\n" not in str(caught.value)


def test_without_peft_one_line_names_the_extra(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r"is an adapter, which needs peft; pip install 'tamis\[lora\]'"):
        gradients(pair / "adapter")
    gradients(pair / "base")


def test_where_a_whole_model_is_needed_an_adapter_is_refused(pair: Path) -> None:
    with pytest.raises(RecipeError, match="is an adapter, where a whole model is needed"):
        model_facts(str(pair / "adapter"))
