"""An adapter that was not trained has no gradient by its A, which is told before anything is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
import yaml
from peft import LoraConfig, get_peft_model
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.keys import hash_column
from tamis.jobs.recipe import make_job, read_recipe
from tamis.pipelines.warnings import recipe_warnings
from tamis.scoring.gradients_scorer import Gradients, GradientsParameters
from tamis.scoring.scorer import Documents
from tamis.scoring.vectors import vectors_of
from tiny_models import save_model
from transformers import AutoModelForCausalLM

TEXT = "A tamis is a drum sieve, and what is poured in is weighed by the mesh."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, an adapter as it begins, and the same with one B that is not zero."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "base", [TEXT])
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    model.save_pretrained(folder / "begun")
    with torch.no_grad():
        next(one for name, one in model.named_parameters() if "lora_B" in name)[0, 0] = 1e-3
    model.save_pretrained(folder / "trained")
    return folder


def warned(models: Path, model: str) -> list[str]:
    recipe = {
        "corpus": {"format": "jsonl", "paths": ["none.jsonl"]},
        "scores": {"features": {"scorer": "gradients", "model": model, "context": 64}},
        "output": {"path": "run"},
    }
    (models / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return recipe_warnings(make_job(read_recipe(models / "recipe.yaml")))


def test_only_an_untrained_adapter_is_told(models: Path) -> None:
    (line,) = warned(models, str(models / "begun"))
    assert line.startswith(f"`features`: the adapter {models / 'begun'} is untrained")
    assert warned(models, str(models / "trained")) == [] == warned(models, str(models / "base"))


@pytest.mark.parametrize(("adapter", "told"), [("begun", True), ("trained", False)])
def test_what_is_told_is_so(models: Path, adapter: str, told: bool) -> None:
    """The first matrices have no gradient where it is told, and have one else."""
    scorer = Gradients(
        GradientsParameters(scorer="gradients", model=str(models / adapter), layers=["*.lora_A.default"], dimension=8)
    )
    scorer.prepare(CorpusConfig(format="jsonl", paths=["none"]))
    text = pa.array([TEXT], pa.large_string())
    vectors, _ = vectors_of(scorer.score(Documents(text, hash_column(text)))[""])
    assert (not vectors.any()) == told
