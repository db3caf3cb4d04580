"""What is told of a trained reference model, in its folder and by the command."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ..scoring.packed_tokens import PackedTokens
from ..scoring.reference_model import parameter_counts
from ..scoring.training import Progress, Schedule
from ..selectors.reference_split import VALIDATION_SHARE, ReferenceSplit
from .reference_tokens import TokenFile


def split_figures(
    corpus: str, split: ReferenceSplit | None, documents: TokenFile, data: PackedTokens, held_out: PackedTokens | None
) -> dict[str, Any]:
    """Return which documents a model was trained on and measured with, and how many these are.

    corpus: name of what they are of; split: None where they are all of it.
    """
    used = {"documents": len(held_out.keys), "tokens": len(held_out) * held_out.context} if held_out else None
    return {
        "of": corpus,
        "fraction": split.fraction if split else None,
        "seed": data.seed,
        "documents": len(documents.keys),
        "tokens": int(documents.lengths.sum()),
        "training": {"documents": len(data.keys), "tokens": data.total},
        "validation": {"share": VALIDATION_SHARE, "measured_with": used},
    }


def training_figures(
    model: Any, data: PackedTokens, schedule: Schedule, progress: Progress, device: str
) -> dict[str, Any]:
    """Return how large a model is, how it was trained, and its losses."""
    total, inner = parameter_counts(model)
    tokens = schedule.steps * schedule.rows * data.context
    first, last = progress.curve[0], progress.curve[-1]
    return {
        "tamis_version": version("tamis"),
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {
            "parameters": total,
            "without_embeddings": inner,
            "vocabulary": model.config.get_text_config().vocab_size,
            "context": data.context,
        },
        "training": {
            **asdict(schedule),
            "tokens": tokens,
            "epochs": tokens / data.total,
            "device": device,
            "seconds": round(progress.seconds, 3),
            "tokens_per_second": round(tokens / max(progress.seconds, 1e-9), 1),
        },
        "loss_unit": "nats per token",
        "training_loss": last.training_loss,
        "validation_loss": last.validation_loss,
        "validation_loss_before": first.validation_loss,
        "curve": [asdict(point) for point in progress.curve],
    }
