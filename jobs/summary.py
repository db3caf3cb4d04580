"""What a run prints at its end: kept and read by group, and how much closer to the target the selection is."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from ..connectors.errors import printable

GROUPS_SHOWN = 30

UNMET_SHOWN = 10
"""So many groups of a step that did not reach their `min` are named."""


def summary(manifest: dict[str, Any]) -> str:
    """Return the table and the figures of a manifest, as text."""
    console = Console(width=100, record=True, file=io.StringIO(), color_system=None, markup=False, emoji=False)
    groups = manifest["groups"]
    if isinstance(groups, list) and len(groups) > 1:
        console.print(_table(groups))
    totals = manifest["totals"]
    parts = [f"{totals[name]['documents']:,} {name}" for name in ("kept", "dropped", "dead")]
    console.print(f"{totals['read']['documents']:,} documents read: {', '.join(parts)}", highlight=False)
    if manifest.get("since"):
        console.print(f"continues {printable(manifest['since']['run'])}", highlight=False, soft_wrap=True)
    for score, figures in manifest["similarity"].items():
        for name, value in figures.items():
            console.print(f"{score}: {name.replace('_', ' ')} {value:+.4f} nats per n-gram", highlight=False)
    for name, count in manifest.get("above_zero", {}).items():
        console.print(
            f"{name}: above zero in {count['read']:,} documents read, {count['kept']:,} kept", highlight=False
        )
    if (line := _weights(manifest.get("weights", {}), totals["kept"]["documents"])) is not None:
        console.print(line, highlight=False, soft_wrap=True)
    for line in _unmet(manifest.get("steps", [])):
        console.print(line, highlight=False, soft_wrap=True)
    return console.export_text().rstrip("\n")


def _weights(weights: dict[str, Any], kept: int) -> str | None:
    """A line about weights that are not all alike."""
    if not weights.get("coefficient_of_variation"):
        return None
    heavy = f"the heaviest 1 % of the documents hold {weights['top_1_percent_share']:.1%}"
    return f"weights: worth {weights['effective_sample_size']:,.0f} of {kept:,} equally weighted documents; {heavy}"


def _unmet(steps: list[dict[str, Any]]) -> list[str]:
    """A line for each group whose bounds a step could not meet."""
    lines = []
    for step in steps:
        unmet = [group for group in step.get("groups") or [] if group["unmet"]]
        for group in unmet[:UNMET_SHOWN]:
            lines.append(f"{step['name']}: {printable(group['group']) or '(none)'}: {group['unmet']}")
        if len(unmet) > UNMET_SHOWN:
            lines.append(f"{step['name']}: … {len(unmet) - UNMET_SHOWN} more in the manifest")
    return lines


def _table(groups: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("group")
    for name in ("documents read", "share", "documents kept", "share", "tokens kept"):
        table.add_column(name, justify="right")
    read = sum(group["documents"] for group in groups)
    kept = sum(group["kept"] for group in groups)
    largest = sorted(groups, key=lambda group: (-group["documents"], group["group"]))
    for group in largest[:GROUPS_SHOWN]:
        table.add_row(
            group["group"] or "(none)",
            f"{group['documents']:,}",
            f"{group['documents'] / max(read, 1):.1%}",
            f"{group['kept']:,}",
            f"{group['kept'] / max(kept, 1):.1%}",
            f"{group['kept_tokens']:,}",
        )
    if len(groups) > GROUPS_SHOWN:
        table.add_row(f"… {len(groups) - GROUPS_SHOWN} more in the manifest")
    return table
