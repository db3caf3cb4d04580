"""LoRA adapters in PEFT's format: two small matrices beside each of some linear layers of a base model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from ..connectors.errors import RecipeError, one_line

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "default"
"""Of the adapter in the model: its layers are called `....lora_A.default` and `....lora_B.default`."""

_SHAPING = (
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
)
_WITHOUT_EFFECT = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "lora_dropout",
    "init_lora_weights",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
}
_KEEP_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base model's weights as they are."""


class Adapter(NamedTuple):
    """base, revision: of the base model, as the adapter names it; settings: what shapes it, of peft.LoraConfig."""

    base: str
    revision: str | None
    settings: dict[str, Any]


def read_adapter(folder: Path) -> Adapter:
    """Return what an adapter's configuration says; raises RecipeError for what is no plain LoRA of linear layers."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base, kind = config["base_model_name_or_path"], config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"model: {folder / CONFIG} is no configuration of an adapter: {one_line(error)}") from error
    if kind != "LORA":
        raise RecipeError(f"model: {folder} is a {kind} adapter; only LORA is supported")
    # what is unknown could change the model, or (`megatron_config`) import a module that the file names
    others = config.keys() - _WITHOUT_EFFECT - set(_SHAPING)
    refused = sorted(key for key in others if config[key] not in (None, False, "none", [], {}))
    if config.get("init_lora_weights", True) not in _KEEP_THE_BASE:
        refused.append("init_lora_weights")
    if refused:
        raise RecipeError(f"model: {folder} is no plain LoRA adapter: {refused[0]} is {config[refused[0]]!r}")
    revision = config.get("revision")
    if not isinstance(base, str) or not base or not isinstance(revision, str | None):
        raise RecipeError(f"model: {folder / CONFIG} names no base model (base_model_name_or_path)")
    return Adapter(base, revision, {key: config[key] for key in _SHAPING if key in config})


def add_adapter_layers(model: Any, folder: Path) -> None:
    """Put an adapter's layers into a base model, in place, with random weights.

    Args:
        model: of transformers, with a head; its weights may be on the device `meta`.
        folder: of the adapter.

    Raises:
        RecipeError: the adapter is no plain LoRA, or does not fit the model, or changes its head.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    try:
        config = LoraConfig(**read_adapter(folder).settings, init_lora_weights=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers in a way that will go
            inject_adapter_in_model(config, model, NAME)
    except (ValueError, TypeError, RuntimeError) as error:
        raise RecipeError(f"model: the adapter {folder} does not fit its base model: {one_line(error)}") from error
    if not isinstance(model.get_output_embeddings(), torch.nn.Linear):
        raise RecipeError(f"model: the adapter {folder} changes the model's head, which is not supported")


def load_adapter(model: Any, folder: Path) -> None:
    """Put an adapter with its weights into a base model, in place, in the base's type of numbers.

    Args:
        model: of transformers, with a head.
        folder: of the adapter.

    Raises:
        RecipeError: as `add_adapter_layers`; or its weights are not those that its configuration describes.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    add_adapter_layers(model, folder)
    try:
        found: Any = set_peft_model_state_dict(model, load_file(folder / WEIGHTS), NAME)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecipeError(f"model: {folder / WEIGHTS} cannot be used: {one_line(error)}") from error
    missing = [name for name in found.missing_keys if f".{NAME}." in name]
    if missing or found.unexpected_keys:
        name = sorted(missing or found.unexpected_keys)[0]
        raise RecipeError(f"model: {folder / WEIGHTS} {'lacks' if missing else 'has unknown weights:'} {name}")


def is_untrained(folder: Path) -> bool:
    """Whether every B of an adapter is zero, as before training: A has no gradient then, and B's are of a random A.

    folder: of an adapter; False also where its weights cannot be read, which loading it tells.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = [name for name in file.keys() if ".lora_B." in name]  # noqa: SIM118
            return bool(names) and not any(bool(file.get_tensor(name).any()) for name in names)
    except (OSError, SafetensorError):
        return False
