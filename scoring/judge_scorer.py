"""The scorer `judge`: how likely a language model says yes when it is asked about a document."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..connectors.keys import text_buffers
from .causal_model import CausalModel, causal_model
from .language_model_scorer import SLICE_BYTES, LanguageModel, LanguageModelParameters
from .scorer import Documents, ScoreColumn
from .token_sequences import TokenSequences, text_slices
from .windows import cut_windows

DOCUMENT = "{document}"
TEMPLATE = f"""Text:
{DOCUMENT}

Question: Is the text above well written, and would a language model learn something of use from it? Answer yes or no.
Answer:"""


class JudgeParameters(LanguageModelParameters):
    """Parameters of `scorer: judge`."""

    scorer: Literal["judge"]  # type: ignore[assignment]
    template: str = Field(TEMPLATE, description=f"what the model is asked; `{DOCUMENT}` stands for the text")
    answer: str = Field(" yes", description="whose log-probability is the score, as it follows the template")

    against: str | None = Field(None, description="another answer, ` no`: then only these two are compared")

    @model_validator(mode="after")
    def _asks_about_the_document(self) -> JudgeParameters:
        if self.template.count(DOCUMENT) != 1:
            raise ValueError(f"`template` needs `{DOCUMENT}` once, where the text comes")
        if not self.answer:
            raise ValueError("`answer` is empty; say what the model should answer, for example ` yes`")
        if self.token_nll or self.stride is not None:
            raise ValueError("judge reads one window and predicts the answer alone: leave out `token_nll` and `stride`")
        return self


class Judge(LanguageModel):
    """Log-probability of an answer after a template that holds the document.

    The document is cut so that template, document and answer fit into `context`; template, document and answer are
    tokenised apart, so that the answer's tokens are the same for all documents.

    Source: Ask-LLM (Sachdeva et al. 2024, https://arxiv.org/abs/2402.09668) scores by the probability of `yes` after
    such a question; QualT5 (Chang et al. 2024, https://arxiv.org/abs/2407.12170) by that of `true` against `false` from
    an encoder-decoder trained for it, which cannot be loaded here. The template is our own.
    """

    name = "judge"
    version = 1
    Parameters = JudgeParameters
    primary = ScoreColumn("", pa.float64(), "nats", "higher", "log-probability of the answer")
    parameters: JudgeParameters  # type: ignore[assignment]

    @property
    def columns(self) -> list[ScoreColumn]:
        """The log-probability, and how many tokens of the document the model saw."""
        return [self.primary, ScoreColumn("tokens", pa.int32(), "tokens", "none", "of the document that were read")]

    @property
    def numerics(self) -> Mapping[str, object]:
        """Those of the model, and what it is asked."""
        p = self.parameters
        return {**super().numerics, "template": p.template, "answer": p.answer, "against": p.against}

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the columns; a document whose batch does not fit into memory has a null score."""
        if self._prepared is None:
            raise RuntimeError("a judge is prepared before it scores")
        model, context = causal_model(self._prepared.key), self._prepared.context
        parts = [*self.parameters.template.split(DOCUMENT), self.parameters.answer, self.parameters.against or ""]
        before, after, *answers = (model.tokenizer.encode(part, add_special_tokens=False).ids for part in parts)
        head = ([] if model.beginning is None else [model.beginning]) + before
        # the last token of an answer is predicted and not read
        room = max(context + 1 - len(head) - len(after) - max(map(len, answers)), 0)
        scores, read = [], []
        for part in text_slices(np.diff(text_buffers(documents.text)[0]), SLICE_BYTES):
            texts = documents.text[part.start : part.stop].to_pylist()
            encodings = model.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            bodies = [encoding.ids[:room] for encoding in encodings]
            asked = [np.array([*head, *body, *after], np.int32) for body in bodies]
            losses = [self._losses(model, asked, answer) for answer in answers if answer]
            # log-softmax of the two answers where there are two
            score = -losses[0] if len(losses) == 1 else -np.logaddexp(0, losses[0] - losses[1])
            scores.append(pa.array(score, from_pandas=True))
            read.append(pa.array([len(body) for body in bodies], pa.int32()))
        return {
            "": pa.concat_arrays([pa.array([], pa.float64()), *scores]),
            "tokens": pa.concat_arrays([pa.array([], pa.int32()), *read]),
        }

    def _losses(self, model: CausalModel, asked: list[NDArray[np.int32]], answer: list[int]) -> NDArray[np.float64]:
        """Return the loss of an answer after each question, float64[n], NaN where it did not fit into memory."""
        assert self._prepared is not None
        started = time.perf_counter()
        rows = [np.append(row, np.array(answer, np.int32)) for row in asked]
        lengths = np.array([len(row) for row in rows], np.int64)
        first = np.maximum(lengths - len(answer), 1)
        sequences = TokenSequences(np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)]), first)
        longest = int(lengths.max())  # a template that exceeds the context is read whole
        found = model.losses(sequences, cut_windows(lengths, first, longest, longest), self._prepared.batch_tokens)
        predicted = ~np.isnan(found.nll)
        total = np.bincount(sequences.documents[predicted], found.nll[predicted], len(rows))
        model.usage.add(ran=time.perf_counter() - started)
        return np.where(found.too_large, np.nan, total)
