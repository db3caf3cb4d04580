"""What `tamis explain` prints: a document's way through a run, in lines or as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from ..connectors.corpus_config import CorpusConfig
from ..connectors.decisions import Standing
from ..connectors.errors import RecipeError, printable
from ..connectors.run_directory import read_manifest
from ..pipelines.explain import Copy, Explanation, Score, UnknownDocumentError, Winner, explain
from ..selectors.methods import METHODS
from ..selectors.steps import NO_SCORE, Step
from ..selectors.verdicts import Trial, Verdict
from .explain_influence import influence_of

TEXT_SHOWN = 300
"""Characters of the document that are shown."""

TOP = 5
"""Examples of a target, or documents, that are told at each end of their influence."""

_METHODS: dict[str, type[Step]] = {get_args(step.model_fields["method"].annotation)[0]: step for step in METHODS}


def explain_run(
    run: Path, wanted: str, as_json: bool, target: str | None = None, spans: str | None = None, top: int = TOP
) -> str:
    """Return what a run, or one that it continues, did with a document. wanted: key in 16 hex digits, or id.

    target, spans, top: see `influence_of`.

    Raises RecipeError when there is no finished run, TamisError when no document has that key or id.
    """
    manifest = read_manifest(run)
    if manifest is None:
        raise RecipeError(f"{run} holds no finished run: there is no manifest.json in it")
    try:
        return _explained(run, manifest, wanted, as_json, target, spans, top)
    except UnknownDocumentError:
        earlier = Path(manifest["since"]["run"]) if manifest.get("since") else None
        if earlier is None or read_manifest(earlier) is None:
            raise
    return explain_run(earlier, wanted, as_json, target, spans, top)


def _explained(
    run: Path, manifest: dict[str, Any], wanted: str, as_json: bool, target: str | None, spans: str | None, top: int
) -> str:
    # not by Recipe: it imports all scorers, and this must be quick
    steps = [_METHODS[step["method"]].model_validate(step) for step in manifest["recipe"]["select"]]
    corpus = CorpusConfig.model_validate(manifest["recipe"]["corpus"])
    found = explain(run, manifest, wanted, steps, corpus)
    lines, influence = influence_of(run, manifest, found, target, spans, top)
    if as_json:
        return json.dumps(as_dictionary(found) | influence, indent=1, allow_nan=False)
    return "\n".join([as_text(found), *lines])


def as_dictionary(found: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON has it: keys as hex digits, infinite numbers as text, text as it is shown."""
    content = asdict(found)
    content["key"] = f"{found.key:016x}"
    if found.lost_to is not None:
        content["lost_to"]["key"] = f"{found.lost_to.key:016x}"
    content["text"] = None if found.text is None else found.text[:TEXT_SHOWN]
    for verdict, described in zip(found.verdicts, content["verdicts"], strict=True):
        described["says"] = verdict_line(verdict, found.lost_to)
        del described["lost_to"]  # a position, which only Tamis knows; the document is told apart
        for trial, entry in zip(verdict.trials, described["trials"], strict=True):
            entry["margin"] = trial.margin
    return dict(_finite(content))


def _finite(value: Any) -> Any:
    """JSON has no infinite numbers."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def as_text(found: Explanation) -> str:
    """Return an explanation in lines that a terminal can show, whatever the document holds."""
    copy = found.copies[found.chosen]
    named = f" (id `{printable(found.id, 100)}`)" if found.id is not None else ""
    group = "" if found.group is None else f"group `{printable(found.group, 100)}`, "
    lines = [
        f"document {found.key:016x}{named}",
        f"  source  {printable(copy.source)} row {copy.row}",
        f"  size    {group}{found.tokens:,} tokens",
        f"  text    {_text(found)}",
        f"  fate    {_fate(copy)}",
    ]
    lines += ["scores", *(f"  {_score(score)}" for score in found.scores)] if found.scores else []
    said = [verdict_line(verdict, found.lost_to) for verdict in found.verdicts]
    lines += ["steps", *(f"  {i}. {line}" for i, line in enumerate(said, 1))]
    if found.documents > 1:
        listed = "" if found.documents == len(found.copies) else f", of which the first {len(found.copies)} are"
        lines.append(f"{found.documents:,} documents have this key{listed}")
        lines += [f"  {printable(c.source)} row {c.row}: {_fate(c)}" for c in found.copies]
    return "\n".join(lines)


def _text(found: Explanation) -> str:
    if found.text is None:
        return f"cannot be shown: {printable(found.text_missing or '')}"
    return printable(found.text, TEXT_SHOWN) or "(white space only)"


def _fate(copy: Copy) -> str:
    if not copy.kept:
        return "dropped: it lacks a score (no_score)" if copy.reason == NO_SCORE else f"dropped by {copy.reason}"
    where = f", {copy.output[0]} row {copy.output[1]}" if copy.output else ""
    return f"kept, weight {copy.weight:.4g}{where}"


def _score(score: Score) -> str:
    if score.value is None or score.corpus is None or score.group is None:
        return f"{score.name} could not be computed"
    among = "" if score.exact else f" (in a sample of {score.corpus.documents:,})"
    keep = "" if score.direction == "none" else f", keep {score.direction}"
    standing = f"above {_share(score.corpus)} of the corpus and {_share(score.group)} of its group"
    return f"{score.name} {score.value:.6g} ({score.unit}{keep}): {standing}{among}"


def _share(standing: Standing) -> str:
    """A percentage, rounded down: only what is above everything else comes to 100 %."""
    if not standing.documents:
        return "none"
    return f"{math.floor(10_000 * standing.below / standing.documents) / 100:.2f} %"


def verdict_line(verdict: Verdict, lost_to: Winner | None = None) -> str:
    """Return in one line what a step did with a document, and by how much. lost_to: see `Explanation`."""
    if verdict.reason == NO_SCORE:
        return f"{verdict.step} ({verdict.method}) dropped it: it lacks a score that the step needs"
    if verdict.lost_to is not None and lost_to is not None:
        then = "" if lost_to.kept else f", and was dropped by {lost_to.reason} then"
        where = f"{printable(lost_to.source)} row {lost_to.row}"
        return f"{verdict.step} ({verdict.method}) dropped it: {lost_to.key:016x} ({where}) stays in its place{then}"
    if verdict.method == "deduplicate":
        return f"{verdict.step} ({verdict.method}) passed it: it is the copy that stays, or has none"
    outcome = "passed it" if verdict.reason is None else "dropped it"
    trials = "; ".join(_trial(trial, verdict) for trial in verdict.trials)
    return f"{verdict.step} ({verdict.method}) {outcome}: {trials}"


def _trial(trial: Trial, verdict: Verdict) -> str:
    whole = verdict.within_group * "its group" or "the corpus"
    line = f"{trial.measured} {trial.value:.6g}, "
    if trial.low is None and trial.high is None:
        return f"{line}and {'all that was left' if trial.inside else 'nothing'} of {whole} was kept"
    of_group = " of its group" if verdict.within_group else ""
    names = ("the minimum", "the maximum") if verdict.method == "threshold" else (f"the cut{of_group} at",) * 2
    gaps = []
    if trial.low is not None and (trial.inside or trial.value <= trial.low):
        gaps.append(_gap(trial.value - trial.low, f"{names[0]} {trial.low:.6g}"))
    if trial.high is not None and (trial.inside or trial.value >= trial.high):
        gaps.append(_gap(trial.value - trial.high, f"{names[1]} {trial.high:.6g}"))
    if trial.score is not None:
        temperature = verdict.temperature or 1.0
        noise = trial.value - trial.score / temperature
        gaps.append(f"made of the score {trial.score:.6g} / temperature {temperature:.4g} + noise {noise:.4g}")
    return line + ", ".join(gaps)


def _gap(distance: float, bound: str) -> str:
    if distance == 0:
        return f"exactly {bound}" if bound.startswith("the m") else f"exactly {bound}, where keys decide"
    return f"{abs(distance):.3g} {'above' if distance > 0 else 'below'} {bound}"
