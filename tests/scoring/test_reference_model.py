"""The reference model's sizes, its tokenizer, and what a recipe says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tamis.connectors.errors import RecipeError
from tamis.scoring import model_files
from tamis.scoring.reference_model import (
    BOUNDARY,
    SIZES,
    ReferenceSettings,
    Size,
    new_model,
    parameter_counts,
    prepare_reference,
    train_tokenizer,
)

TEXTS = [["the old man and the sea", "the young man", "naïve 日本 \x00\n\n  "], [], ["and the sea " * 20]]
EXPECTED = {
    "1m": (1_066_368, 2_114_944),
    "4m": (4_262_656, 6_359_808),
    "15m": (14_162_304, 17_308_032),
    "60m": (59_489_920, 64_732_800),
    "125m": (84_953_856, 91_245_312),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_the_parameters_that_are_told(name: str) -> None:
    with torch.device("meta"):
        model = new_model(SIZES[name], 8192, 256, 0, 0)
    total, inner = parameter_counts(model)
    assert (inner, total) == EXPECTED[name]
    assert inner == SIZES[name].parameters
    assert inner == pytest.approx(float(name[:-1]) * 1e6, rel=0.07) or name == "125m"


def test_weights_are_a_function_of_the_seed() -> None:
    size = Size(1, 32, 2, 64, 1e-3, 256)
    state = torch.random.get_rng_state()
    first, again, other = (new_model(size, 300, 16, 0, seed) for seed in (1, 1, 2))
    assert (torch.random.get_rng_state() == state).all()
    weights = [model.model.embed_tokens.weight for model in (first, again, other)]
    assert (weights[0] == weights[1]).all() and (weights[0] != weights[2]).any()


def test_the_tokenizer_is_lossless_and_begins_texts(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 270)
    tokenizer.save_pretrained(tmp_path)
    loaded = model_files.load_tokenizer(tmp_path)
    assert loaded.bos_token == loaded.eos_token == BOUNDARY
    assert 257 < len(loaded) <= 270
    assert loaded.backend_tokenizer.to_str() == train_tokenizer(TEXTS, 270).backend_tokenizer.to_str()
    for text in ["the sea", "naïve \t\r\n 🙂 \x00"]:
        ids = loaded(text)["input_ids"]
        assert ids[0] == loaded.bos_token_id and loaded.bos_token_id not in ids[1:]
        assert loaded.decode(ids[1:], clean_up_tokenization_spaces=False) == text


def test_defaults_follow_the_size_or_the_model_that_is_trained_further(tmp_path: Path) -> None:
    small = ReferenceSettings(path="m").resolved(tmp_path, 7)
    assert small.path == str(tmp_path / "m") and small.seed == 7
    assert (small.size, small.vocabulary, small.tokens) == ("1m", 8192, 5_331_840)
    large = ReferenceSettings(path="m", size="125m", seed=3, batch_tokens=5).resolved(tmp_path, 7)
    assert (large.seed, large.batch_tokens, large.learning_rate) == (3, 5, 6e-4)
    further = ReferenceSettings(path="m", init="some/model").resolved(tmp_path, 7)
    assert (further.size, further.tokens, further.init, further.learning_rate) == (None, None, "some/model", 1e-4)
    assert ReferenceSettings.model_validate(large.model_dump()).resolved(tmp_path, 0) == large
    with pytest.raises(ValidationError, match="leave out `size` or `init`"):
        ReferenceSettings(path="m", init="x", size="1m")
    with pytest.raises(ValidationError, match="not a local path"):
        ReferenceSettings(path="s3://bucket/m")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ReferenceSettings(path="m", init=str(tmp_path)).resolved(tmp_path, 0)
    with pytest.raises(RecipeError, match=r"^reference.init: .* has no config.json|^reference.init: .* lacks"):
        prepare_reference(settings)
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match=r"^reference.device: torch finds no GPU"):
            prepare_reference(ReferenceSettings(path="m", device="cuda"))
    monkeypatch.setattr(model_files, "PACKAGES", ("no_such_torch",))
    with pytest.raises(RecipeError, match=r"^reference: no_such_torch cannot be imported; pip install 'tamis\[lm\]'"):
        prepare_reference(settings)
