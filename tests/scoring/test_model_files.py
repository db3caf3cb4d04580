"""Models that cannot be used are refused in one line, before anything is loaded; files name a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from tamis.connectors.errors import RecipeError
from tamis.scoring import model_files
from tamis.scoring.model_files import model_facts
from tiny_models import save_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    save_model(folder, ["some text to learn from"])
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def only_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def configured(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def index(content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(content)

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only_pickle, "weights in pickle files only, which can run code; save it again as safetensors"),
        (remove("model.safetensors"), "lacks model.safetensors"),
        (remove("config.json"), "has no config.json"),
        (remove("tokenizer.json"), "tokenizer"),
        (configured(model_type="t5"), "is a t5, which is no causal language model"),
        (configured(architectures=["LlamaModel"]), "holds a LlamaModel, which is no causal.* LlamaForCausalLM"),
        (
            configured(model_type="ours", auto_map={"AutoConfig": "code.Config"}),
            "needs code of its own, which is not run",
        ),
        (configured(vocab_size=20), "the tokenizer in .* has .* tokens, the model only 20"),
        (index('{"weight_map": {"a": "model-1.safetensors"}}'), "lacks model-1.safetensors"),
        (index('{"weight_map": {"a": "../../x.safetensors"}}'), "lacks ../../x.safetensors"),
        (index("[]"), "is no index of weights"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(folder: Path, change: Callable[[Path], None], message: str) -> None:
    model_facts(str(folder))
    change(folder)
    with pytest.raises(RecipeError, match=message) as caught:
        model_facts(str(folder))
    assert "\n" not in str(caught.value)


def test_names_that_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="there is no folder"):
        model_facts(str(tmp_path / "none"))
    code = (
        "from tamis.scoring.model_files import model_facts\n"
        "from tamis.connectors.errors import RecipeError\n"
        "try: model_facts('nobody/nothing')\n"
        "except RecipeError as error: print(error)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("model: nobody/nothing is no folder, and was not had from the Hugging Face hub")


def test_without_the_packages_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RecipeError, match=r"torch cannot be imported; pip install 'tamis\[lm\]'"):
        model_facts("anything")


def test_facts_follow_the_content(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model_files, "_LARGE", 1000)
    first = model_facts(str(folder))
    kept = list((tmp_path / "cache" / "tamis" / "sha256").iterdir())
    assert len(kept) == 1
    assert model_facts(str(folder)) == first
    folder.rename(tmp_path / "moved")
    moved = model_facts(str(tmp_path / "moved"))
    assert (moved.weights, moved.tokenizer, moved.longest) == (first.weights, first.tokenizer, 64)
    weights = load_file(tmp_path / "moved" / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, tmp_path / "moved" / "model.safetensors", metadata={"format": "pt"})
    changed = model_facts(str(tmp_path / "moved"))
    assert changed.weights != first.weights
    assert changed.tokenizer == first.tokenizer
    for path in kept:
        path.write_text("damaged")
    assert model_facts(str(tmp_path / "moved")) == changed
