"""Parameters that all scorers with a model of Hugging Face format have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from ..connectors.errors import RecipeError
from .model_files import ModelFacts
from .scorer import ScorerParameters

CONTEXT = 1024
"""Default of the tokens in a window, for models that can read as many."""


class ModelParameters(ScorerParameters):
    """Which model, how much it reads at once, and what computes."""

    model: str = Field(
        description="folder of a causal language model in Hugging Face format, or of a LoRA adapter of one in PEFT's, "
        "or its name on the hub"
    )
    context: int | None = Field(
        None, ge=1, description="tokens that the model reads at once; default: 1024, or what it can where that is less"
    )
    batch_tokens: int | None = Field(
        None, ge=1, description="tokens in a batch, padding included; default: 1,024 on a CPU, 32,768 on a GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of matrix products; auto: bfloat16 on a GPU, float32 on a CPU"
    )

    def resolved(self, base: Path) -> Self:
        """Return the same with absolute paths, where `model` is a folder seen from `base`; else it is a hub name."""
        found = super().resolved(base)
        folder = base / Path(self.model).expanduser()
        return found.model_copy(update={"model": str(folder)}) if folder.is_dir() else found

    def context_of(self, facts: ModelFacts, default: int = CONTEXT) -> int:
        """Return `context`, or the default for a model; raises RecipeError for more than it can read."""
        context = self.context or min(default, facts.longest or default)
        if facts.longest is not None and context > facts.longest:
            raise RecipeError(f"context: the model reads at most {facts.longest:,} tokens, not {context:,}")
        return context


def stride_within(stride: int, context: int) -> int:
    """Return a stride; raises RecipeError where it leaves tokens out."""
    if stride > context:
        raise RecipeError(f"stride: {stride:,} leaves tokens out of windows of {context:,}; say at most that")
    return stride
