"""What `tamis train-reference` does and prints: the reference model of a recipe, trained, and its figures."""

from __future__ import annotations

import json
import math
from typing import Any

from ..connectors.errors import RecipeError
from ..pipelines.job import Reporter
from ..pipelines.reference import ReferenceJob, ReferenceTraining, Trained
from ..pipelines.runner import Engine
from .recipe import Recipe


def reference_job(recipe: Recipe) -> ReferenceJob:
    """Return what a resolved recipe's `reference` asks for; raises RecipeError where it has none."""
    if recipe.reference is None:
        example = "{path: models/reference, size: 1m, fraction: 0.02}"
        raise RecipeError(f"reference: is missing; add it, for example {example}", place="")
    skip = recipe.errors.unreadable_shards == "skip"
    return ReferenceJob(recipe.reference, recipe.corpus, recipe.targets, skip)


def train_reference(recipe: Recipe, engine: Engine, reporter: Reporter, overwrite: bool, as_json: bool) -> str:
    """Train the reference model of a recipe, unless it is there; return what is printed, its path in the last line."""
    trained = ReferenceTraining(reference_job(recipe), engine, reporter, overwrite).execute()
    return _as_json(trained) if as_json else _as_text(trained)


def _as_json(trained: Trained) -> str:
    return json.dumps({"path": str(trained.path), "new": trained.new, **trained.figures}, allow_nan=False)


def _as_text(trained: Trained) -> str:
    if not trained.new:
        return str(trained.path)
    figures = trained.figures
    training, split, model = figures["training"], figures["split"], figures["model"]
    lines = [
        f"{model['parameters']:,} parameters trained on {training['tokens']:,} tokens in {training['steps']:,} steps "
        f"and {training['seconds']:,.0f} s ({training['tokens_per_second']:,.0f} tokens/s, {training['device']})",
        f"documents: {split['training']['documents']:,} of {split['of']} with {split['training']['tokens']:,} tokens, "
        f"each read {training['epochs']:.2g} times; {split['documents'] - split['training']['documents']:,} held out",
        _losses(figures),
        str(trained.path),
    ]
    return "\n".join(lines)


def _losses(figures: dict[str, Any]) -> str:
    loss, before = figures["validation_loss"], figures["validation_loss_before"]
    if loss is None:
        return f"training loss {figures['training_loss']:.3f} nats per token; no documents for validation"
    perplexity = math.exp(min(loss, 700.0))
    return f"validation loss {loss:.3f} nats per token, perplexity {perplexity:,.1f} (before training {before:.3f})"
