"""What the sentences and tokens of one document add to its influence: its model is run on that document again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..connectors.decisions import Place
from ..connectors.errors import TamisError
from ..scoring.gradients_scorer import Gradients
from ..scoring.spans import sentence_spans, span_of_tokens
from .explain_influence import RunInfluence
from .read_again import document_again

Kind = Literal["sentences", "tokens"]


@dataclass(frozen=True)
class Span:
    """Part of a text, from character `begin` to before `end`. influence: its share of the document's score, by the
    losses of its own tokens; product: the same before the document's is divided by its norm."""

    begin: int
    end: int
    text: str
    influence: float
    product: float


@dataclass(frozen=True)
class Spans:
    """The parts of a document. towards: the target, or the example of one; influence, product: sums over the spans."""

    score: str
    towards: str
    kind: Kind
    influence: float
    product: float
    spans: list[Span]


def document_spans(
    found: RunInfluence, score: str, scorers: Sequence[Gradients], place: Place, kind: Kind, number: int | None
) -> Spans:
    """Share a document's influence out over its sentences or tokens.

    Towards an example, or else the target that it helps most, by its score. Raises TamisError where the model, the
    document's source or its stored gradients are not what they were.

    Args:
        found: of the run.
        score: name of a score of `influence`.
        scorers: the gradients that it works on, prepared, in its order.
        place: of the document.
        kind: which parts.
        number: of the example in the score's state; None: the target.
    """
    state, vectors = found.state(score), found.vectors(score, place)
    for scorer, fingerprint in zip(scorers, state.gradients, strict=True):
        if scorer.fingerprint != fingerprint:
            raise TamisError(f"{score}: the model of its gradients is not what it was in the run")
    if number is None:
        best = int(np.argmax(state.on_targets(vectors)[0]))
        towards, queries = f"target {state.names[best]}", [of_one[best] for of_one in state.queries]
    else:
        towards = f"example {int(state.keys[number]):016x} of target {state.names[int(state.targets[number])]}"
        queries = [of_one[number] for of_one in state.examples]
    row = found.files.row(place)
    needs = sorted({name for scorer in scorers for name in scorer.needs})
    document = document_again(found.corpus, row["source"], found.version(row["source"]), row["row"], row["key"], needs)
    text = str(document.text[0].as_py())
    bounds = sentence_spans(text) if kind == "sentences" else scorers[0].characters(text)
    influence, product = np.zeros(len(bounds)), np.zeros(len(bounds))
    for scorer, query, share, divisor in zip(scorers, queries, state.shares, state.divisors(vectors), strict=True):
        values = scorer.on_tokens(document, query)[0].astype(np.float64)
        places = scorer.characters(text)
        if kind == "tokens" and not np.array_equal(places, bounds):
            raise TamisError(f"{score}: its checkpoints have tokenizers of their own; ask for --spans sentences")
        owners = np.arange(len(values)) if kind == "tokens" else span_of_tokens(places, bounds)
        sums = share * np.bincount(owners, values, len(bounds))
        product += sums
        influence += sums / (divisor[0] or 1.0)
    spans = [
        Span(begin, end, text[begin:end], float(one), float(whole))
        for (begin, end), one, whole in zip(bounds.tolist(), influence, product, strict=True)
        if end > begin
    ]
    return Spans(score, towards, kind, float(influence.sum()), float(product.sum()), spans)
