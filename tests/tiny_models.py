"""Tiny causal language models with real tokenizers, built on the spot and saved in Hugging Face format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Cohere2Config,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

BEGINNING = "<s>"

_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def byte_tokenizer(texts: Iterable[str], vocabulary: int = 400, beginning: bool = True) -> PreTrainedTokenizerFast:
    """Train byte-level BPE; beginning: with a token that begins a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BEGINNING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **({"bos_token": BEGINNING} if beginning else {}))


def tiny_config(kind: str, vocabulary: int, context: int) -> PretrainedConfig:
    """Return the configuration of a tiny model of a kind."""
    if kind == "gpt2":
        return GPT2Config(vocab_size=vocabulary, n_positions=context, n_embd=32, n_layer=2, n_head=4, bos_token_id=0)
    sizes = _SMALL | {"vocab_size": vocabulary, "max_position_embeddings": context}
    if kind == "gemma2":
        return Gemma2Config(**sizes, head_dim=8, sliding_window=16, final_logit_softcapping=0.5)
    if kind == "cohere2":
        return Cohere2Config(**sizes, logit_scale=3.0, sliding_window=16)
    if kind == "granite":
        return GraniteConfig(**sizes, logits_scaling=0.25)
    return LlamaConfig(**sizes, tie_word_embeddings=False)


def save_model(
    folder: Path, texts: Iterable[str], kind: str = "llama", context: int = 64, beginning: bool = True
) -> Any:
    """Save a model with random weights, large enough that its predictions differ, and its tokenizer."""
    tokenizer = byte_tokenizer(texts, beginning=beginning)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, len(tokenizer) + 5, context))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
