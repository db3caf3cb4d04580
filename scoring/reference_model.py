"""The small reference model: what a recipe says of it, its sizes, its tokenizer and its first weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..connectors.errors import RecipeError, one_line
from ..connectors.files import absolute, is_local
from ..connectors.settings import Settings
from .model_files import ModelFacts, model_facts, require_packages

BOUNDARY = "<|endoftext|>"
"""The special token that begins a text, and ends the one before it."""

ALPHABET = 256
"""Tokens of a byte-level vocabulary before any merge."""


@dataclass(frozen=True)
class Size:
    """Shape of a model, and what it is trained with where the recipe does not say. inner: width of the MLP."""

    layers: int
    width: int
    heads: int
    inner: int
    learning_rate: float
    batch_tokens: int

    @property
    def parameters(self) -> int:
        """How many parameters it has beside the embeddings."""
        layer = 4 * self.width**2 + 3 * self.width * self.inner + 2 * self.width
        return self.layers * layer + self.width


SIZES = {
    "1m": Size(5, 128, 4, 384, 3e-3, 4_096),
    "4m": Size(5, 256, 4, 768, 2e-3, 16_384),
    "15m": Size(8, 384, 6, 1024, 1.5e-3, 32_768),
    "60m": Size(12, 640, 10, 1728, 1e-3, 65_536),
    "125m": Size(12, 768, 12, 2048, 6e-4, 131_072),
}
"""Named by about the parameters beside the embeddings; 125m is the shape of the paper (Ankner et al. 2024), whose 124 M
count the embeddings of a vocabulary of 50,000. Input and output embeddings are one matrix, of vocabulary x width.

size  layers  width  heads   MLP  without embeddings  with 8,192 tokens  with 50,257
1m         5    128      4   384           1,066,368          2,114,944    7,499,264
4m         5    256      4   768           4,262,656          6,359,808   17,128,448
15m        8    384      6  1024          14,162,304         17,308,032   33,460,992
60m       12    640     10  1728          59,489,920         64,732,800   91,654,400
125m      12    768     12  2048          84,953,856         91,245,312  123,551,232
"""

SizeName = Literal["1m", "4m", "15m", "60m", "125m"]

TOKENS_PER_PARAMETER = 5
"""Default of what a model is trained on, by its parameters beside the embeddings: for 1m 5.3 million tokens (20 minutes
on two cores), for 125m 425 million. Four times as many are what is worth its compute (Hoffmann et al. 2022,
https://arxiv.org/abs/2203.15556)."""

FINE_TUNING_RATE, FINE_TUNING_BATCH = 1e-4, 8_192


class ReferenceSettings(Settings):
    """What a recipe's `reference` says: a small model, trained on a keyed share of the corpus, or on a target.

    Source of the default: Ankner et al. 2024, "Perplexed by Perplexity" (https://arxiv.org/abs/2405.20541), which
    train the model on a part of the corpus that is not selected from. With `init` and `target` it is the conditional
    model of CoLoR-Filter (https://arxiv.org/abs/2406.10670), and the reference of RHO-LOSS and Rho-1.
    """

    path: str = Field(description="folder for the model; relative to the recipe")
    size: SizeName | None = Field(None, description="default 1m; not with `init`")
    tokens: int | None = Field(
        None,
        ge=1,
        description="to train on; default: by size, 5,331,840 for 1m; with `init` one reading of the documents",
    )
    fraction: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="share of the corpus, drawn by key, that trains the model and is not selected from",
    )
    vocabulary: int | None = Field(None, gt=ALPHABET + 1, description="tokens; default 8,192; not with `init`")
    context: int = Field(256, ge=2, description="tokens in a sequence")
    batch_tokens: int | None = Field(None, ge=1, description="tokens in a step; default by size, 4,096 for 1m")
    learning_rate: float | None = Field(None, gt=0, description="highest; default by size, 0.003 for 1m; 1e-4 for init")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    seed: int | None = Field(None, description="of the split, of the order and of the weights; default: the recipe's")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    init: str | None = Field(None, description="model to be trained further: a folder, or its name on the hub")
    target: str | None = Field(None, description="train on this one of `targets`, not on a share of the corpus")

    @model_validator(mode="after")
    def _shape_of_one_model(self) -> Self:
        for key in ("size", "vocabulary"):
            if self.init is not None and getattr(self, key) is not None:
                raise ValueError(f"`{key}` is for a model trained from its beginning; leave out `{key}` or `init`")
        return self

    @field_validator("path")
    @classmethod
    def _is_local(cls, path: str) -> str:
        if not is_local(path):
            raise ValueError(f"{path} is not a local path; copy the model to an object store when it is trained")
        return path

    def resolved(self, base: Path, seed: int) -> Self:
        """Return the same with absolute paths and all defaults that are known before the documents are read."""
        given: dict[str, Any] = {"path": absolute(self.path, base), "seed": seed if self.seed is None else self.seed}
        if self.init is not None:
            folder = base / Path(self.init).expanduser()
            given["init"] = str(folder) if folder.is_dir() else self.init
            defaults: dict[str, Any] = {"learning_rate": FINE_TUNING_RATE, "batch_tokens": FINE_TUNING_BATCH}
        else:
            size = SIZES[self.size or "1m"]
            defaults = {"size": "1m", "vocabulary": 8_192, "tokens": TOKENS_PER_PARAMETER * size.parameters}
            defaults |= {"learning_rate": size.learning_rate, "batch_tokens": size.batch_tokens}
        return self.model_copy(update=given | {k: v for k, v in defaults.items() if getattr(self, k) is None})


def prepare_reference(settings: ReferenceSettings) -> tuple[str, ModelFacts | None]:
    """Check that the model can be trained here; return its device, and the facts of the model that it begins from.

    Raises RecipeError for missing packages, no GPU, or an `init` that cannot be used or reads too little at once.
    """
    try:
        require_packages()
    except RecipeError as error:
        raise RecipeError(f"reference: {error}") from error
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("reference.device: torch finds no GPU; say auto or cpu")
    device = "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
    if settings.init is None:
        return device, None
    try:
        facts = model_facts(settings.init)
    except RecipeError as error:
        raise RecipeError(f"reference.init: {str(error).removeprefix('model: ')}") from error
    if facts.longest is not None and settings.context > facts.longest:
        raise RecipeError(f"reference.context: the model reads at most {facts.longest:,} tokens at once")
    return device, facts


def train_tokenizer(batches: Iterable[list[str]], vocabulary: int) -> Any:
    """Train byte-level BPE, as a tokenizer of transformers that begins a text with `BOUNDARY`.

    Args:
        batches: texts; as they come, in lists, of which one is held at a time beside the counts of words.
        vocabulary: most tokens, those of the bytes and `BOUNDARY` included; a small text has fewer.

    Source: Sennrich et al. 2016 over bytes as in GPT-2, by the library `tokenizers`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOUNDARY],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(batches, trainer)
    boundary = tokenizer.token_to_id(BOUNDARY)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOUNDARY} $A", pair=f"{BOUNDARY} $A {BOUNDARY} $B", special_tokens=[(BOUNDARY, boundary)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOUNDARY, eos_token=BOUNDARY)


def new_model(size: Size, vocabulary: int, context: int, boundary: int, seed: int) -> Any:
    """Return a Llama-style model with random weights, a function of the seed, in float32 on the CPU.

    Args:
        size: its shape.
        vocabulary: rows of the embeddings.
        context: most tokens that it says it reads.
        boundary: id of the token that begins and ends a text.
        seed: of the weights; the process's own random state is left as it is.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=boundary,
        eos_token_id=boundary,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def load_for_training(folder: str) -> Any:
    """Load a model to be trained further, in float32 on the CPU; raises RecipeError when that fails."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # the command has its own
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever the model's files make the library raise
        raise RecipeError(f"reference.init: {folder} cannot be loaded: {one_line(error)}") from error
    model, found = loaded
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise RecipeError(f"reference.init: {folder}: its files lack the weights {missing}")
    return model


def parameter_counts(model: Any) -> tuple[int, int]:
    """Return how many parameters a model has, and how many of them are beside its embeddings."""
    total = sum(parameter.numel() for parameter in model.parameters())
    embeddings = {id(layer.weight): layer.weight.numel() for layer in _embeddings(model) if layer is not None}
    return total, total - sum(embeddings.values())


def _embeddings(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()
