"""The linear layers of causal language models, by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..connectors.errors import RecipeError, nearest, one_line
from .lora_adapter import NAME, add_adapter_layers

HEAD = "head"
"""Name of the layer that makes logits of the last hidden states."""

_OF_ADAPTERS = (f".lora_A.{NAME}", f".lora_B.{NAME}")


def layers_of(folder: str, adapter: str = "") -> dict[str, tuple[int, int]]:
    """Return a model's linear layers, without its weights; raises RecipeError where they cannot be told.

    folder: with its configuration; adapter: folder of a LoRA adapter, whose layers are added.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            if adapter:
                add_adapter_layers(model, Path(adapter))
            return linear_layers(model)
    except (ValueError, RuntimeError, AttributeError) as error:
        raise RecipeError(f"model: the layers of {folder} cannot be told: {one_line(error)}") from error


def linear_layers(module: Any) -> dict[str, tuple[int, int]]:
    """Return the linear layers of a model, in its order: how many numbers each reads and gives, the head's last.

    module: of transformers, with a head; its weights may be on the device `meta`.
    """
    head = module.get_output_embeddings()
    found = {name: _shape(layer) for name, layer in module.named_modules() if is_linear(layer) and layer is not head}
    return found | {HEAD: _shape(head)}


def chosen_layers(layers: dict[str, tuple[int, int]], patterns: list[str]) -> dict[str, tuple[int, int]]:
    """Return the layers that a pattern names, in the model's order.

    Args:
        layers: of `linear_layers`.
        patterns: names, where * stands for anything; `all`: every layer of an adapter, or without one every layer but
            the head.

    Raises:
        RecipeError: a pattern names none.
    """
    trained = {name for name in layers if name.endswith(_OF_ADAPTERS)} or layers.keys() - {HEAD}
    names: set[str] = set()
    for pattern in patterns:
        found = trained if pattern == "all" else {name for name in layers if fnmatchcase(name, pattern)}
        if not found:
            raise RecipeError(f"layers: no linear layer is called `{pattern}`{nearest(pattern, layers)}")
        names |= found
    return {name: shape for name, shape in layers.items() if name in names}


def is_linear(layer: Any) -> bool:
    """Whether a layer is a matrix product: of torch, or GPT-2's, whose weight is transposed."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, torch.nn.Linear | Conv1D)


def _shape(layer: Any) -> tuple[int, int]:
    from transformers.pytorch_utils import Conv1D

    first, second = layer.weight.shape
    return (first, second) if isinstance(layer, Conv1D) else (second, first)
