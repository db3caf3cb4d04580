"""The scorer `excess_loss`: what one language model loses on a document beyond what another one does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from ..connectors.corpus_config import CorpusConfig
from .language_model_scorer import LanguageModel, LanguageModelParameters
from .scorer import Documents, ScoreColumn, Scorer, ScorerParameters


class ExcessLossParameters(ScorerParameters):
    """Parameters of `scorer: excess_loss`; those not named here are of both models, as in `language_model`."""

    scorer: Literal["excess_loss"]
    model: str = Field(description="CoLoR-Filter: the prior; RHO-LOSS: the model in training; folder or hub name")
    reference: str = Field(
        description="CoLoR-Filter: the prior fine-tuned on the target; RHO-LOSS: trained on held-out text"
    )
    context: int | None = Field(None, ge=1, description="as of `language_model`")
    stride: int | None = Field(None, ge=1, description="as of `language_model`")
    batch_tokens: int | None = Field(None, ge=1, description="as of `language_model`")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def resolved(self, base: Path) -> Self:
        """Return the same with absolute paths, where the models are folders."""
        models = {"model": self._of(self.model), "reference": self._of(self.reference)}
        return self.model_copy(update={key: model.resolved(base).model for key, model in models.items()})

    @property
    def both(self) -> tuple[LanguageModelParameters, LanguageModelParameters]:
        """Parameters of the two models."""
        return self._of(self.model), self._of(self.reference)

    def _of(self, model: str) -> LanguageModelParameters:
        shared = self.model_dump(exclude={"scorer", "model", "reference"})
        return LanguageModelParameters(scorer="language_model", model=model, **shared)


class ExcessLoss(Scorer):
    """Mean loss per token under `model`, minus that under `reference`.

    High where the reference finds learnable what the model has not learnt (or, for CoLoR-Filter, where fine-tuning on
    the target has lowered the loss). With tokenizers of different kinds the two are per token of their own.

    Source: RHO-LOSS (Mindermann et al. 2022, https://arxiv.org/abs/2206.07137); CoLoR-Filter (Brandfonbrener et al.
    2024, https://arxiv.org/abs/2406.10670), there over sequences of one length.
    """

    name = "excess_loss"
    version = 2
    Parameters = ExcessLossParameters
    sized = "tokens"
    requires = "two causal language models in safetensors; pip install 'tamis[lm]'"
    primary = ScoreColumn("", pa.float64(), "nats per token", "higher", "loss beyond that of the reference")
    parameters: ExcessLossParameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._models = [LanguageModel(one) for one in parameters.both]

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """Both losses round."""
        return sum(model.tolerance for model in self._models)

    @property
    def columns(self) -> list[ScoreColumn]:
        """The difference, and the two losses."""
        return [
            self.primary,
            ScoreColumn("loss", pa.float64(), "nats per token", "lower", "mean loss under `model`"),
            ScoreColumn("reference", pa.float64(), "nats per token", "lower", "mean loss under `reference`"),
            ScoreColumn("tokens", pa.int32(), "tokens", "none", "that were to be predicted, by the model with fewer"),
        ]

    @property
    def needs(self) -> list[str]:
        """The response, where the corpus has one."""
        return self._models[0].needs

    @property
    def numerics(self) -> Mapping[str, object]:
        """Those of both models."""
        return {"model": dict(self._models[0].numerics), "reference": dict(self._models[1].numerics)}

    def prepare(self, corpus: CorpusConfig) -> None:
        """Look at both models' files; raises RecipeError for what cannot be used."""
        for model in self._models:
            model.prepare(corpus)

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the columns; null where one of the models has no loss."""
        first, second = (model.score(documents) for model in self._models)
        loss, reference = first[""], second[""]
        tokens = pc.min_element_wise(first["tokens"], second["tokens"])
        return {"": pc.subtract(loss, reference), "loss": loss, "reference": reference, "tokens": tokens}

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Those of both models, and a warning where they cut text differently."""
        lines = [line for model in self._models for line in model.findings(keys, share)]
        first, second = (model.tokenizer_fingerprint for model in self._models)
        if first != second:
            lines.append("the two models have different tokenizers: losses per token are of different tokens")
        return lines
