"""What `tamis diff` prints: the changes between two runs, in lines or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..connectors.errors import RecipeError, printable
from ..connectors.run_directory import read_manifest
from ..pipelines.diff import Drift, compare, drifts
from ..selectors.changes import NOTICED, Changes, Count, Fate, GroupChange, Reweighted, Shown
from ..selectors.drift import LARGE, MODERATE, reading

GROUPS_SHOWN = 30
TRANSITIONS_SHOWN = 30
KEYS_SHOWN = 60
"""So many of each are in the text; JSON has all."""

VALUE_SHOWN = 100
"""Characters of a recipe's value."""

ELSEWHERE = (("output", "path"), ("store",))
"""Recipe keys that say where a run goes, not what it is; two runs always differ in the first."""

TOTALS = ("read", "kept", "dropped", "dead")


@dataclass(frozen=True)
class KeyChange:
    """A recipe key that differs. key: dotted path, a step by its name; old, new: None where it is not set."""

    key: str
    old: Any
    new: Any


@dataclass(frozen=True)
class SourceChanges:
    """Source files of the corpus and the targets: numbers of those added, removed, and of another state."""

    added: int
    removed: int
    changed: int


@dataclass(frozen=True)
class Diff:
    """All that differs between two runs. old, new: their directories; totals: as in the manifests."""

    old: str
    new: str
    warnings: list[str]
    totals: dict[str, dict[str, dict[str, int]]]
    recipe: list[KeyChange]
    sources: SourceChanges
    documents: Changes
    drift: list[Drift]


def diff_runs(old: Path, new: Path, show: int, as_json: bool) -> str:
    """Return what differs between two finished runs, to be printed.

    Args:
        old: directory of the run that is compared with.
        new: directory of the other run.
        show: so many keys of each kind of change.
        as_json: one JSON object instead of lines.

    Returns:
        The text, without a line break at its end.

    Raises:
        RecipeError: one of them holds no finished run.
        TamisError: a file of a run is gone or damaged.
    """
    found = diff(old, new, show)
    return json.dumps(as_dictionary(found), allow_nan=False) if as_json else as_text(found)


def diff(old: Path, new: Path, show: int) -> Diff:
    """Compare two finished runs; arguments and errors as `diff_runs`."""
    runs = [(run, _manifest(run)) for run in (old, new)]
    before, after = (manifest for _, manifest in runs)
    return Diff(
        old=str(old),
        new=str(new),
        warnings=_warnings(before["recipe"], after["recipe"]),
        totals={side: manifest["totals"] for side, manifest in (("old", before), ("new", after))},
        recipe=recipe_changes(before, after),
        sources=_source_changes(before, after),
        documents=compare(runs, show),
        drift=drifts(runs),
    )


def _manifest(run: Path) -> dict[str, Any]:
    manifest = read_manifest(run)
    if manifest is None:
        raise RecipeError(f"{run} holds no finished run: there is no manifest.json in it")
    return manifest


def _warnings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say where keys of the two runs are not made of the same."""
    made = [
        [recipe["corpus"].get(name) for name in ("id", "chunk") + (() if recipe["corpus"].get("id") else ("text",))]
        for recipe in (old, new)
    ]
    if made[0] == made[1]:
        return []
    return ["the runs make their keys of other things (`id`, `text` or `chunk` differ), so that few documents match"]


def recipe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[KeyChange]:
    """Return the keys of two manifests' resolved recipes that differ, and `--limit`, in the order of their names.

    Steps are compared by name, wherever they stand; their order is the key `select`. What only says where a run goes
    is left out.
    """
    flat = [dict(_flat(_by_name(manifest["recipe"]))) for manifest in (old, new)]
    for manifest, keys in zip((old, new), flat, strict=True):
        keys["--limit"] = manifest.get("limit")
        keys |= {"select": names} if (names := [s["name"] for s in manifest["recipe"].get("select", [])]) else {}
        for place in ELSEWHERE:
            keys.pop(".".join(place), None)
    names = sorted(flat[0].keys() | flat[1].keys())
    pairs = [(name, flat[0].get(name), flat[1].get(name)) for name in names]
    return [KeyChange(name, before, after) for name, before, after in pairs if before != after]


def _by_name(recipe: Mapping[str, Any]) -> dict[str, Any]:
    steps = {step["name"]: {k: v for k, v in step.items() if k != "name"} for step in recipe.get("select", [])}
    return {**recipe, "select": steps}


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield dotted paths and values; lists are values."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _source_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> SourceChanges:
    states = [
        {(source["corpus"], source["path"]): source["fingerprint"] for source in manifest["sources"]}
        for manifest in (old, new)
    ]
    both = states[0].keys() & states[1].keys()
    return SourceChanges(
        added=len(states[1]) - len(both),
        removed=len(states[0]) - len(both),
        changed=sum(states[0][file] != states[1][file] for file in both),
    )


def as_dictionary(found: Diff) -> dict[str, Any]:
    """Return the changes as JSON has them: keys as hex digits."""
    content = asdict(found)
    for shown in content["documents"]["shown"].values():
        for entry in shown:
            entry["key"] = f"{entry['key']:016x}"
    for entry in content["drift"]:
        entry["reading"] = _reading(entry["stability"])
    return content


def as_text(found: Diff) -> str:
    """Return the changes in lines that a terminal can show, whatever the runs hold."""
    changes = found.documents
    lines = [f"old: {printable(found.old)}", f"new: {printable(found.new)}"]
    lines += [f"warning: {line}" for line in found.warnings]
    lines += ["totals", *(f"  {name:8}{_total(found, name)}" for name in TOTALS)]
    lines += _recipe_lines(found)
    lines += ["documents", *_document_lines(changes)]
    lines += _listed("fates", [_transition(*t) for t in _transitions(changes)], TRANSITIONS_SHOWN)
    largest = sorted(changes.groups, key=lambda group: (-_changed(group), group.group))
    lines += _listed("groups", [_group(group) for group in largest], GROUPS_SHOWN)
    for kind, shown in changes.shown.items():
        lines += [kind, *(f"  {_shown(entry)}" for entry in shown)] if shown else []
    lines += ["score drift, of documents read", *(f"  {_drift(drift)}" for drift in found.drift)] if found.drift else []
    return "\n".join(lines)


def _total(found: Diff, name: str) -> str:
    before, after = (found.totals[side][name] for side in ("old", "new"))
    parts = [f"{before[unit]:,} -> {after[unit]:,} {unit}" for unit in ("documents", "tokens")]
    return ", ".join(parts)


def _recipe_lines(found: Diff) -> list[str]:
    lines = [f"  {printable(c.key)}: {_value(c.old)} -> {_value(c.new)}" for c in found.recipe]
    sources = found.sources
    if sources != SourceChanges(0, 0, 0):
        lines.append(
            f"  source files: {sources.added:,} added, {sources.removed:,} removed, {sources.changed:,} changed"
        )
    shown = _listed("recipe and sources", [line[2:] for line in lines], KEYS_SHOWN)
    return shown or ["recipe and sources: the same"]


def _value(value: Any) -> str:
    return "(not set)" if value is None else printable(json.dumps(value, ensure_ascii=False), VALUE_SHOWN)


def _document_lines(changes: Changes) -> list[str]:
    lines = [
        f"  entered     {_count(changes.entered)}",
        f"  left        {_count(changes.left)}",
        f"  reweighted  {_reweighted(changes.reweighted)}",
        f"  same fate and weight  {changes.same:,}",
    ]
    if changes.regrouped or changes.recounted:
        lines.append(
            f"  of those kept in both, {changes.regrouped:,} have another group, {changes.recounted:,} other tokens"
        )
    return lines


def _count(count: Count) -> str:
    return f"{count.documents:,} documents, {count.tokens:,} tokens"


def _reweighted(changed: Reweighted) -> str:
    line = _count(Count(changed.documents, changed.tokens))
    if not changed.documents:
        return line
    line += f": {changed.raised:,} up, {changed.lowered:,} down, {changed.noticed:,} by more than {NOTICED:.0%}"
    if changed.least is None or changed.most is None:
        return line
    return f"{line}; new over old {changed.least:.4g} to {changed.most:.4g}"


def _transitions(changes: Changes) -> list[tuple[Fate, Fate, str]]:
    return [
        (t.old, t.new, _count(Count(t.documents, t.new_tokens if t.new.fate != "not read" else t.old_tokens)))
        for t in changes.transitions
    ]


def _transition(old: Fate, new: Fate, count: str) -> str:
    return f"{_fate(old)} -> {_fate(new)}: {count}"


def _fate(fate: Fate) -> str:
    return fate.fate if fate.reason is None else f"dropped by {printable(fate.reason, 100)}"


def _changed(group: GroupChange) -> int:
    return group.entered.documents + group.left.documents + group.reweighted.documents


def _group(group: GroupChange) -> str:
    counts = [f"{getattr(group, kind).documents:,} {kind}" for kind in ("entered", "left", "reweighted")]
    return (
        f"{printable(group.group, 100) or '(none)'}: {', '.join(counts)}; kept {group.old.documents:,} -> "
        f"{group.new.documents:,} documents, {group.old.tokens:,} -> {group.new.tokens:,} tokens"
    )


def _listed(title: str, lines: list[str], most: int) -> list[str]:
    """A title and its first lines, or nothing where there are none."""
    rest = [f"  … {len(lines) - most:,} more in --json"] if len(lines) > most else []
    return [title, *(f"  {line}" for line in lines[:most]), *rest] if lines else []


def _shown(entry: Shown) -> str:
    group = f", group `{printable(entry.group, 100)}`" if entry.group else ""
    if entry.old == entry.new:
        return f"{entry.key:016x}{group}: weight {entry.old_weight:.6g} -> {entry.new_weight:.6g}"
    kept = f", weight {entry.new_weight or entry.old_weight:.6g}"
    return f"{entry.key:016x}{group}: {_fate(entry.old)} -> {_fate(entry.new)}{kept}"


def _reading(stability: float | None) -> str:
    return reading(float("nan") if stability is None else stability)


def _drift(drift: Drift) -> str:
    """By convention a stability index below MODERATE is stable, one above LARGE a large change."""
    counted = f"{'a keyed sample of ' if drift.sample else ''}{drift.old:,} -> {drift.new:,} documents"
    missing = (
        f", {drift.old_missing:,} -> {drift.new_missing:,} without" if drift.old_missing + drift.new_missing else ""
    )
    other = "" if drift.same_scorer else "; the scorer or its fitted state differs"
    if drift.stability is None or drift.by_chance is None or drift.distance is None:
        return f"{drift.score}: cannot be compared; {counted}{missing}{other}"
    return (
        f"{drift.score}: stability index {drift.stability:.4f} ({_reading(drift.stability)}; by convention below "
        f"{MODERATE} is stable, above {LARGE} large; by chance {drift.by_chance:.4f}), Kolmogorov-Smirnov distance "
        f"{drift.distance:.4f}; {counted}{missing}{other}"
    )
