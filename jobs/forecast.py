"""What `tamis plan` prints: sources, store, passes, disk, and what would be kept."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from ..pipelines.estimate import Estimate

GROUPS_SHOWN = 30
MEGABYTE = 1e6


def forecast(found: Estimate) -> str:
    """Return an estimate as text."""
    console = Console(width=110, record=True, file=io.StringIO(), color_system=None, markup=False, emoji=False)
    console.print(_corpora(found))
    stored = [f"{name} {shards:,}" for name, shards in found.stored.items() if shards]
    shards = found.corpora["corpus"]["shards"]
    console.print(
        f"\nin the store, of {shards:,} shards: {', '.join(stored) or 'nothing'}", highlight=False, soft_wrap=True
    )
    console.print(_passes(found))
    peak = f", peak memory about {found.memory_bytes / MEGABYTE:,.0f} MB" if found.memory_bytes else ""
    console.print(f"in all about {_duration(found.seconds)}{peak}", highlight=False)
    for name, disk in found.disk.items():
        free = f", {disk['free'] / MEGABYTE:,.0f} MB free" if "free" in disk else ""
        console.print(f"disk for the {name}: about {disk['needed'] / MEGABYTE:,.0f} MB{free}", highlight=False)
    console.print(f"\nexpected, from {found.sampled:,} sampled documents:", highlight=False)
    for step in found.steps:
        seen = f" of {step['candidates']:,}" if step["candidates"] is not None else ""
        kept = f"keeps about {step['kept']:,}{seen}" if step["kept"] is not None else "(a threshold)"
        console.print(f"  {step['name']}: {kept}", highlight=False)
    if len(found.groups) > 1:
        console.print(_groups(found))
    for line in found.warnings:
        console.print(f"warning: {line}", highlight=False, soft_wrap=True)
    return console.export_text().rstrip("\n")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(columns[0])
    for name in columns[1:]:
        table.add_column(name, justify="right")
    return table


def _corpora(found: Estimate) -> Table:
    table = _table("", "files", "shards", "MB", "documents", "tokens")
    for name, corpus in found.corpora.items():
        about = "" if corpus.get("documents_exact", True) else "~"
        documents = f"{about}{corpus['documents']:,}" if corpus["documents"] is not None else ""
        tokens = f"~{corpus['tokens']:,}" if corpus["tokens"] is not None else ""
        size = f"{corpus['bytes'] / MEGABYTE:,.0f}"
        table.add_row(name, f"{corpus['files']:,}", f"{corpus['shards']:,}", size, documents, tokens)
    return table


def _passes(found: Estimate) -> Table:
    table = _table("pass", "of the corpus", "MB to read", "time", "peak memory")
    for one in found.passes:
        memory = f"{one.memory_bytes / MEGABYTE:,.0f} MB" if one.memory_bytes else ""
        size = f"{one.bytes / MEGABYTE:,.0f}" if one.bytes else ""
        table.add_row(one.stage, f"{one.share:.0%}", size, _duration(one.seconds), memory)
    return table


def _groups(found: Estimate) -> Table:
    table = _table("  group", "documents", "kept")
    for group in sorted(found.groups, key=lambda group: (-group["documents"], group["group"]))[:GROUPS_SHOWN]:
        table.add_row(f"  {group['group'] or '(none)'}", f"~{group['documents']:,}", f"~{group['kept']:,}")
    if len(found.groups) > GROUPS_SHOWN:
        table.add_row(f"  … {len(found.groups) - GROUPS_SHOWN} more with --json")
    return table
