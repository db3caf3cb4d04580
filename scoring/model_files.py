"""The files of a Hugging Face model: where they are, whether they can be used, what they hold."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..connectors.errors import RecipeError, nearest, one_line
from .lora_adapter import CONFIG, WEIGHTS, read_adapter
from .scorer import digest

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_FROM_HUB = (
    *("config.json", "model*.safetensors*", CONFIG, WEIGHTS),
    *("tokenizer*", "*_tokens*.json", "vocab*", "merges.txt", "*.model"),
)
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LARGE = 16 << 20
"""Bytes from which on a file's hash is kept beside its size and time."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it is loaded.

    folder: with its files, which are the base model's where `adapter`, the folder of a LoRA adapter, is not empty;
    weights, tokenizer: hex digits over what they are; longest: tokens that it can read at once, None where its
    configuration names no limit; causal: whether it was saved as a causal language model; dimension: of its last layer;
    tokenizer_folder: with the tokenizer's files.
    """

    folder: str
    weights: str
    tokenizer: str
    longest: int | None
    causal: bool = True
    dimension: int = 0
    tokenizer_folder: str = ""
    adapter: str = ""


def require_packages() -> None:
    """Raise RecipeError when the packages of the extra `lm` are not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(f"{', '.join(missing)} cannot be imported; pip install 'tamis[lm]'", place="scorer")


def model_facts(name: str, causal: bool = True, adapters: bool = False) -> ModelFacts:
    """Look at a model's files, without reading its weights into memory.

    Args:
        name: of a folder, or else of a model on the Hugging Face hub, whose files are downloaded unless they are there.
        causal: refuse what is no causal language model.
        adapters: accept a LoRA adapter of a causal language model, and look at its base model too.

    Raises:
        RecipeError: there is no such model, or it is not of the kind wanted, or its weights are not in safetensors, or
            its tokenizer is no fast one.
    """
    require_packages()
    folder = _folder(name)
    if not (folder / CONFIG).is_file():
        return _facts(folder, folder, causal)
    if not adapters:
        raise RecipeError(f"model: {folder} is an adapter, where a whole model is needed; merge it into its base model")
    return _with_adapter(folder)


def adapter_folder(name: str) -> Path | None:
    """Return the folder of a model that is an adapter, None for another. name: as of `model_facts`."""
    folder = _folder(name)
    return folder if (folder / CONFIG).is_file() else None


def _with_adapter(folder: Path) -> ModelFacts:
    """Look at an adapter's files and at those of its base model, which may be in a folder seen from the adapter's."""
    if importlib.util.find_spec("peft") is None:
        raise RecipeError(f"{folder} is an adapter, which needs peft; pip install 'tamis[lora]'", place="scorer")
    if any((folder / name).is_file() for name in (_SINGLE, _INDEX)):
        raise RecipeError(f"model: {folder} holds a model and an adapter ({CONFIG}); keep each in a folder of its own")
    adapter = read_adapter(folder)
    if not (folder / WEIGHTS).is_file():
        raise RecipeError(f"model: {folder} lacks {WEIGHTS}; adapters are read from safetensors only")
    beside = folder / adapter.base
    try:
        base = beside.resolve() if beside.is_dir() else _folder(adapter.base, adapter.revision)
        if (base / CONFIG).is_file():
            raise RecipeError(f"{base} is an adapter itself")
        with_tokenizer = folder if (folder / "tokenizer.json").is_file() else base
        facts = _facts(base, with_tokenizer, causal=True)
    except RecipeError as error:
        raise RecipeError(f"model: the base model of {folder}: {str(error).removeprefix('model: ')}") from error
    weights = digest(facts.weights, adapter.settings, _sha256(folder / WEIGHTS))
    return replace(facts, weights=weights, adapter=str(folder))


def _facts(folder: Path, with_tokenizer: Path, causal: bool) -> ModelFacts:
    weights = _weight_files(folder)
    config = _config(folder)
    other_kind = _no_causal_model(config)
    if causal and other_kind is not None:
        raise RecipeError(f"model: {folder} {other_kind}")
    text_config = config.get_text_config()
    tokenizer = load_tokenizer(with_tokenizer)
    known, read = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=True), text_config.vocab_size
    if known > read:
        raise RecipeError(f"model: the tokenizer in {with_tokenizer} has {known:,} tokens, the model only {read:,}")
    hashes = {path.name: _sha256(path) for path in [folder / "config.json", *weights]}
    fingerprint = digest(tokenizer.backend_tokenizer.to_str(), tokenizer.bos_token_id)
    longest = getattr(text_config, "max_position_embeddings", None)
    if not causal and longest:  # RoBERTa's positions begin at 2, which only its tokenizer's limit tells
        longest = min(longest, tokenizer.model_max_length)
    return ModelFacts(
        str(folder),
        digest(hashes),
        fingerprint,
        longest if longest and longest > 0 else None,
        other_kind is None and bool(config.architectures),
        int(getattr(text_config, "word_embed_proj_dim", None) or getattr(text_config, "hidden_size", None) or 0),
        str(with_tokenizer),
    )


def load_tokenizer(folder: Path) -> Any:
    """Load a model's fast tokenizer; raises RecipeError when it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever the tokenizer's files make the library raise
        raise RecipeError(f"model: the tokenizer in {folder} cannot be loaded: {one_line(error)}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise RecipeError(f"model: {folder} has no fast tokenizer (tokenizer.json); save one there")
    return tokenizer


def _folder(name: str, revision: str | None = None) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if not _HUB_NAME.fullmatch(name):
        raise RecipeError(f"model: there is no folder {name}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_FROM_HUB)))
    except (OSError, ValueError) as error:
        reason = one_line(error).partition(". ")[0]
        raise RecipeError(f"model: {name} is no folder, and was not had from the Hugging Face hub: {reason}") from error


def _weight_files(folder: Path) -> list[Path]:
    names = {_SINGLE}
    if not (folder / _SINGLE).is_file() and (folder / _INDEX).is_file():
        try:
            names = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(f"model: {folder / _INDEX} is no index of weights: {one_line(error)}") from error
    missing = sorted(name for name in names if Path(name).name != name or not (folder / name).is_file())
    if not missing:
        return [folder / name for name in sorted(names)]
    if names == {_SINGLE} and any(found for pattern in _PICKLES for found in folder.glob(pattern)):
        raise RecipeError(
            f"model: {folder} has its weights in pickle files only, which can run code; save it again as safetensors"
        )
    raise RecipeError(f"model: {folder} lacks {', '.join(missing[:3])}")


def _config(folder: Path) -> Any:
    """Load a model's configuration; raises RecipeError where it has none, or needs code of its own."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise RecipeError(f"model: {folder} has no config.json")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever the configuration makes the library raise
        reason = one_line(error)
        if "trust_remote_code" in reason:
            reason = "it needs code of its own, which is not run"
        raise RecipeError(f"model: {folder} cannot be used: {reason}") from error


def _no_causal_model(config: Any) -> str | None:
    """Say why a model is no causal language model with its head; None where it is one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    if config.model_type not in CLASSES:
        return f"is a {config.model_type}, which is no causal language model"
    causal = {name for value in CLASSES.values() for name in ([value] if isinstance(value, str) else value)}
    saved = list(config.architectures or [])
    if not saved or causal.intersection(saved):
        return None
    wanted = CLASSES[config.model_type]
    hint = f" (known for {config.model_type}: {wanted})" if isinstance(wanted, str) else nearest(saved[0], causal)
    return f"holds a {saved[0]}, which is no causal language model with its head{hint}"


def _sha256(path: Path) -> str:
    """Return a file's SHA-256 as hex digits; of a large file it is kept in the user's cache, by path, size and time."""
    state = path.stat()
    if state.st_size < _LARGE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    name = digest(str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ino)
    kept = Path(base) / "tamis" / "sha256" / name
    try:
        known = kept.read_text(encoding="ascii")
        if re.fullmatch("[0-9a-f]{64}", known):
            return known
    except (OSError, UnicodeDecodeError):
        pass  # not kept yet, or damaged: it is computed anew
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    _keep(kept, found)
    return found


def _keep(path: Path, content: str) -> None:
    """Write a small file at once, where that is allowed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="ascii") as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError:
        return  # a cache that cannot be written costs time, nothing else
