"""What `tamis explain` prints of influence: examples that a document helps, documents that help one, and spans."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..connectors.decisions import DecisionFiles, Place
from ..connectors.errors import RecipeError, TamisError, one_line, printable
from ..connectors.run_directory import read_manifest
from ..pipelines.explain import Explanation
from ..pipelines.explain_influence import RunInfluence
from ..pipelines.explain_target import helpers
from ..pipelines.influence_answers import Example, Helped, Helpers

SHOWN = 100
"""Characters of each text that are shown."""


def has_influence(manifest: dict[str, Any]) -> bool:
    """Whether a run has a score of the scorer `influence`."""
    return any(one["scorer"] == "influence" for one in manifest["scorers"])


def influence_of(
    run: Path, manifest: dict[str, Any], found: Explanation, wanted: str | None, spans: str | None, top: int
) -> tuple[list[str], dict[str, Any]]:
    """Return what a document does for examples of the targets, as lines and as JSON has it.

    Args:
        run: its directory.
        manifest: of the run.
        found: about the document.
        wanted: one example to tell of alone.
        spans: `sentences` or `tokens`, to be told one by one.
        top: examples at each end.
    """
    if not has_influence(manifest):
        if wanted is None and spans is None:
            return [], {}
        raise RecipeError(f"{run} has no score of the scorer `influence`, which --target and --spans are about")
    influence = RunInfluence(run, manifest)
    place = _place(influence.files, found)
    helped = influence.helped(place, wanted, top)
    lines = [line for one in helped for line in _helped_lines(one)]
    content: dict[str, Any] = {"influence": [_helped_content(one) for one in helped]}
    if spans is not None:
        asked = influence.scores_on(wanted).items()
        parts = [_spans_of(influence, score, place, spans, number) for score, number in asked]
        lines += [line for of_score, _ in parts for line in of_score]
        content["spans"] = [one for _, one in parts]
    return lines, content


def helpers_of(run: Path, wanted: str, top: int, as_json: bool) -> str:
    """Return which documents of a run, and of those it continues, help an example of a target most and least.

    top: documents at each end.
    """
    manifest = read_manifest(run)
    if manifest is None:
        raise RecipeError(f"{run} holds no finished run: there is no manifest.json in it")
    found = helpers(RunInfluence(run, manifest), wanted, top)
    if as_json:
        return json.dumps({"helpers": [_helpers_content(one) for one in found]}, indent=1, allow_nan=False)
    return "\n".join(line for one in found for line in _helpers_lines(one))


def _place(files: DecisionFiles, found: Explanation) -> Place:
    copy = found.copies[found.chosen]
    for place in files.find([found.key]):
        row = files.row(place)
        if (row["source"], row["row"]) == (copy.source, copy.row):
            return place
    raise TamisError(f"the decisions do not hold {found.key:016x} any more; `tamis verify` checks all files")


def _spans_of(
    influence: RunInfluence, score: str, place: Place, kind: str, number: int | None
) -> tuple[list[str], dict[str, Any]]:
    # these import all scorers and the model's library, which an explanation without spans does not wait for
    from ..pipelines.explain_spans import document_spans
    from ..scoring.gradients_scorer import Gradients
    from ..scoring.influence_scorer import Influence
    from .recipe import Recipe, make_job

    job = make_job(Recipe.model_validate(influence.manifest["recipe"]))
    scorer = job.scorers[score]
    assert isinstance(scorer, Influence)
    bound = [scorer.bound[name] for name in scorer.parameters.checkpoints]
    gradients = [one for one in bound if isinstance(one, Gradients)]
    if len(gradients) < len(bound):
        raise TamisError(f"--spans: {score}: its gradients are of a classifier, which reads no tokens")
    try:
        for one in gradients:
            one.prepare(job.corpus)
        found = document_spans(influence, score, gradients, place, kind, number)  # type: ignore[arg-type]
    except TamisError as error:
        raise TamisError(f"--spans: {score}: {one_line(error)}") from error
    total = f"{found.influence:+.4g}, unnormalised {found.product:+.4g}"
    lines = [f"influence {score} of {kind} towards {printable(found.towards, SHOWN)}: together {total}"]
    lines += [f"  {one.influence:+.4g}  {printable(one.text, SHOWN) or repr(one.text)}" for one in found.spans]
    return lines, asdict(found)


def _helped_lines(found: Helped) -> list[str]:
    if found.missing is not None:
        return [f"influence {found.score}: cannot be told for single examples: {printable(found.missing)}"]
    towards = ", ".join(f"{printable(name, SHOWN)} {value:+.4g}" for name, value in found.targets.items())
    lines = [f"influence {found.score}: {towards}; of {found.kept:,} examples (of {found.documents:,})"]
    for name, part in (("helps most", found.most), ("helps least", found.least)):
        lines += [f"  {name}"] * bool(part)
        lines += [f"    {one.influence:+.4g}  {_example(one.example)}" for one in part]
    return lines


def _helpers_lines(found: Helpers) -> list[str]:
    lines = [f"influence {found.score} on {_example(found.example)}: {found.searched:,} documents"]
    for name, part in (("help most", found.most), ("help least", found.least)):
        lines += [f"  {name}"] * bool(part)
        for one in part:
            fate = "kept" if one.kept else "dropped"
            text = "" if one.text is None else f": {printable(one.text, SHOWN)}"
            fate += "" if one.run is None else f" in {printable(one.run, SHOWN)}"
            where = f"{printable(one.source, SHOWN)} row {one.row}"
            lines.append(f"    {one.influence:+.4g}  {one.key:016x} ({where}, {fate}){text}")
    return lines + [f"  {printable(line)}" for line in found.missing]


def _example(example: Example) -> str:
    number = f"{example.key:016x}" if example.number is None else f"{example.number}"
    text = "" if example.text is None else f": {printable(example.text, SHOWN)}"
    return f"{printable(example.target, SHOWN)}:{number}{text}"


def _helped_content(found: Helped) -> dict[str, Any]:
    content = asdict(found)
    for one in (*content["most"], *content["least"]):
        one["example"] = _example_content(one["example"])
    return content


def _helpers_content(found: Helpers) -> dict[str, Any]:
    content = asdict(found)
    content["example"] = _example_content(content["example"])
    for one in (*content["most"], *content["least"]):
        one |= {"key": f"{one['key']:016x}", "text": _shortened(one["text"])}
    return content


def _example_content(example: dict[str, Any]) -> dict[str, Any]:
    return example | {"key": f"{example['key']:016x}", "text": _shortened(example["text"])}


def _shortened(text: str | None) -> str | None:
    return None if text is None else text[:SHOWN]
