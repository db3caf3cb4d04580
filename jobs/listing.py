"""What `tamis list` prints, taken from the code that runs."""

from __future__ import annotations

import inspect
from typing import Literal, get_args, get_origin

from ..connectors.corpus_config import CorpusConfig
from ..connectors.settings import Settings
from ..scoring.catalogue import SCORERS
from ..selectors.budget import Allocate, Keep
from ..selectors.methods import METHODS
from ..selectors.stabilise import STABILISERS
from ..selectors.weigh import WEIGHERS


def listing() -> str:
    """Return scorers, selection methods and weighers with what they do, need and take."""
    lines = ["Corpora and targets (corpus: {format: …})", *_keys(CorpusConfig, "")]
    lines.append("Scorers (scores: NAME: {scorer: …})")
    for name, scorer in sorted(SCORERS.items()):
        column = scorer.primary
        lines += [f"  {name}: {_first_line(scorer)}", f"      needs: {scorer.requires}"]
        lines += [f"      column NAME: {column.type}, {column.unit}, keep {column.direction}"]
        lines += _keys(scorer.Parameters, "scorer")
    lines.append("Selection methods (select: - {method: …})")
    for step in METHODS:
        lines += [f"  {_method(step)}: {_first_line(step)}", *_keys(step, "method")]
    for key, part in (("keep", Keep), ("allocate", Allocate)):
        lines += [f"  {key} of these: {_first_line(part)}", *_keys(part, "")]
    lines.append("Weighers (weigh: {method: …})")
    for weigher in WEIGHERS:
        lines += [f"  {_method(weigher)}: {_first_line(weigher)}", *_keys(weigher, "method")]
    lines.append("  stabilise, a list of these:")
    for stabiliser in STABILISERS:
        lines += [f"  {_method(stabiliser)}: {_first_line(stabiliser)}", *_keys(stabiliser, "method")]
    return "\n".join(lines)


def _first_line(described: type) -> str:
    return (inspect.getdoc(described) or "").split("\n", 1)[0]


def _method(model: type[Settings]) -> str:
    return str(get_args(model.model_fields["method"].annotation)[0])


def _keys(model: type[Settings], named: str) -> list[str]:
    lines = []
    for key, field in model.model_fields.items():
        if key != named:
            default = "required" if field.is_required() else f"default {_plain(field.default)}"
            choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            parts = [field.description, ", ".join(map(str, choices)) if len(choices) > 1 else None]
            told = "; ".join(filter(None, parts))
            lines.append(f"      {key} ({default}){': ' + told if told else ''}")
    return lines


def _plain(default: object) -> str:
    return repr(default.model_dump(exclude_none=True) if isinstance(default, Settings) else default)
