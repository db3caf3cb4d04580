"""Parameters of the scorer `gradients`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from .model_parameters import ModelParameters

Update = Literal["sgd", "sign", "adam"]
Storage = Literal["float16", "int8"]


class GradientsParameters(ModelParameters):
    """Parameters of `scorer: gradients`."""

    path_keys: ClassVar[tuple[str, ...]] = ("optimizer", "fitted")

    scorer: Literal["gradients"]
    layers: list[str] = Field(
        ["all"],
        min_length=1,
        description="names of linear layers, * for anything; all: but the head, and of a LoRA adapter its own alone "
        "(names end in lora_A.default and lora_B.default); head: it alone",
    )
    dimension: int = Field(4096, ge=1, le=1 << 16, description="numbers in all, stored in 2 bytes each, or 1")
    storage: Storage = Field("float16", description="of each number; int8: half of the bytes")
    stride: int | None = Field(None, ge=1, description="new tokens in each window of a longer document; default: all")
    max_tokens: int | None = Field(None, ge=1, description="tokens of a document that are read; default: all")
    projection: Literal["random", "coordinates", "pca"] | None = Field(
        None,
        description="random signs; coordinates of the gradient; or pca, what gradients of a sample have most of; "
        "default: random, and coordinates for sign and adam",
    )
    fitted: str | None = Field(None, description="of pca: a saved state to use instead of fitting")
    update: Update = Field("sgd", description="what of the gradient: itself, its signs, or the step Adam would make")
    optimizer: str | None = Field(None, description="of adam: safetensors with exp_avg.NAME and exp_avg_sq.NAME")
    seed: int = Field(0, ge=0, lt=1 << 31, description="of the projection; the same for all that is compared")

    @model_validator(mode="after")
    def _fits(self) -> GradientsParameters:
        if (self.optimizer is not None) != (self.update == "adam"):
            raise ValueError("`update: adam` needs `optimizer`, and nothing else does")
        if self.fitted is not None and self.projection != "pca":
            raise ValueError("`fitted` is of `projection: pca`")
        if self.update != "sgd" and self.projection in ("random", "pca"):
            raise ValueError(f"`update: {self.update}` is of single coordinates; say `projection: coordinates`")
        return self
