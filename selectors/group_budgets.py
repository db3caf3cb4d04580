"""What the `allocate:` of a recipe gives each group of a corpus, and which of its bounds could not be met, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..connectors.errors import nearest, printable
from .allocate import Float64, Int64, allocate, repeats
from .budget import Allocate, Bounds, Keep, budget, share

NO_CEILING = 1 << 62

GROUPS_REPORTED = 1000
"""Of more groups than that only those with unmet bounds are reported, and of these so many."""


@dataclass(frozen=True)
class GroupBudgets:
    """The budgets of a step's groups, with what they come from; arrays are [groups], 8 bytes per group each.

    Attributes:
        weighted: whether all amounts are tokens instead of documents.
        total: what was split.
        sizes, floors, ceilings: what each group has, and its bounds; NO_CEILING where there is none.
        budgets: what each group gets.
        repeats: how often each of its documents counts, by weight.
        unknown: names in the recipe that no group has.
    """

    weighted: bool
    total: int
    sizes: Int64
    floors: Int64
    ceilings: Int64
    budgets: Int64
    repeats: Float64
    unknown: list[str]

    @property
    def unit(self) -> str:
        """Documents or tokens."""
        return "tokens" if self.weighted else "documents"


def group_budgets(
    keep: Keep, settings: Allocate, names: pa.Array, documents: Int64, tokens: Int64, weights: Float64 | None
) -> GroupBudgets:
    """Split a step's total over the groups.

    Args:
        keep: the total.
        settings: how it is split.
        names: of the groups, string[groups], sorted.
        documents, tokens: what there is of each group, int64[groups].
        weights: for the mode score_weighted, float64[groups].

    Returns:
        The budgets; a `min` that rounding or a `max` leaves no room for is met as far as that allows.

    Raises:
        ValueError: as `allocate`.
    """
    sizes = tokens if keep.weighted else documents
    total = int(budget(keep, documents.sum(keepdims=True), tokens.sum(keepdims=True))[0])
    floors, ceilings = np.empty_like(sizes), np.empty_like(sizes)
    low, high = _bounds(settings.default, total)
    floors[:], ceilings[:] = np.where(sizes > 0, low, 0), high  # names may be of groups that only targets have
    named = pc.index_in(pa.array(list(settings.per_group), pa.string()), names).to_pylist()
    for group, bounds in zip(named, settings.per_group.values(), strict=True):
        if group is not None:
            low, high = _bounds(bounds, total)
            floors[group], ceilings[group] = low, high
    return GroupBudgets(
        weighted=keep.weighted,
        total=total,
        sizes=sizes,
        floors=floors,
        ceilings=ceilings,
        budgets=allocate(sizes, total, settings.mode, weights, floors, ceilings),
        repeats=repeats(sizes, np.minimum(floors, ceilings), total, settings.repeat),
        unknown=[name for name, group in zip(settings.per_group, named, strict=True) if group is None],
    )


def _bounds(bounds: Bounds, total: int) -> tuple[int, int]:
    """Floor and ceiling in whole units: shares are rounded to the inside."""
    low = 0 if bounds.min is None else _amount(bounds.min, total, math.ceil)
    high = NO_CEILING if bounds.max is None else _amount(bounds.max, total, math.floor)
    if low == high + 1:
        low = high  # no whole number lies between the two shares; a floor above its ceiling otherwise is reported
    return low, high


def _amount(bound: Keep, total: int, rounded: Callable[[Any], int]) -> int:
    return rounded(share(bound.fraction) * total) if bound.fraction is not None else int(bound.amount or 0)


def notes(given: GroupBudgets, step: str, names: pa.Array) -> list[str]:
    """Return what a user should know about a split as a whole, a line each.

    Args:
        given: the split.
        step: the step's name.
        names: of the groups, string[groups].
    """
    lines = []
    for name in given.unknown:
        near = nearest(name, names.slice(0, GROUPS_REPORTED).to_pylist())
        lines.append(printable(f"{step}: allocate.per_group names `{name}`, which is no group of the corpus{near}"))
    short = given.total - int(given.budgets.sum())
    if short:
        left = f"{short:,} of {given.total:,} {given.unit} are left over"
        lines.append(f"{step}: {left}, since each group is at its max or whole")
    unmet = int(np.count_nonzero(_unmet(given)))
    if unmet:
        lines.append(f"{step}: {unmet:,} {'group does' if unmet == 1 else 'groups do'} not reach the min")
    return lines


def _unmet(given: GroupBudgets) -> NDArray[np.bool_]:
    """Which groups stay below their floor, even as their documents count."""
    return given.budgets * given.repeats < given.floors * (1 - 1e-12)


def group_report(given: GroupBudgets, names: pa.Array, kept: Int64, kept_measure: Int64) -> list[dict[str, Any]]:
    """Return what became of each group's bounds, for the manifest.

    Args:
        given: the split.
        names: of the groups, string[groups].
        kept: documents kept of each group by this step, int64[groups].
        kept_measure: the same in tokens where the budgets are, int64[groups].

    Returns:
        A mapping for each group that has something to give or should have, at most GROUPS_REPORTED: `unmet` says why
        its floor was not reached, None where it was.
    """
    unmet = _unmet(given)
    nothing = given.weighted & (given.budgets > 0) & (kept == 0)  # the first document alone exceeds the budget
    few = len(names) <= GROUPS_REPORTED
    wanted = (given.sizes > 0) | unmet if few else unmet | nothing
    columns = {
        "available": given.sizes,
        "floor": given.floors,
        "ceiling": given.ceilings,
        "budget": given.budgets,
        "kept": kept,
        **({"kept_tokens": kept_measure} if given.weighted else {}),
        "repeated": given.repeats,
    }
    rows = []
    for group in np.flatnonzero(wanted)[:GROUPS_REPORTED].tolist():
        reason = _reason(given, group) if unmet[group] else None
        if nothing[group]:
            reason = f"its first document is larger than its budget of {given.budgets[group]:,} tokens"
        figures = {name: column[group].item() for name, column in columns.items()}
        figures["ceiling"] = None if figures["ceiling"] == NO_CEILING else figures["ceiling"]
        rows.append({"group": names[group].as_py(), "unit": given.unit, **figures, "unmet": reason})
    return rows


def _reason(given: GroupBudgets, group: int) -> str:
    size, floor, ceiling, got = (
        int(array[group]) for array in (given.sizes, given.floors, given.ceilings, given.budgets)
    )
    wanted = f"{floor:,} {given.unit} wanted, {got:,} given: "
    if got == size < floor:
        repeated = float(given.repeats[group])
        times = f", which count {repeated:g} times" if repeated > 1 else ""
        return f"{wanted}the group has only {size:,}{times}"
    if got == ceiling < floor:
        return f"{wanted}its max is below its min"
    return f"{wanted}the min of all groups together exceed the total of {given.total:,}"
