"""What is told of influence on single examples of targets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A document of a target. number: its place in the target, from 0, and text; None where it cannot be read."""

    target: str
    key: int
    number: int | None
    text: str | None


@dataclass(frozen=True)
class OnExample:
    """The influence of the document in question on an example."""

    example: Example
    influence: float


@dataclass(frozen=True)
class OfDocument:
    """The influence of a document on the example in question. run: that it is of, where that is an earlier one."""

    key: int
    source: str
    row: int
    group: str | None
    kept: bool
    influence: float
    text: str | None
    run: str | None


@dataclass(frozen=True)
class Helped:
    """What a document does for the examples of one score's targets.

    targets: its score for each; kept, documents: examples that the state keeps, of so many; most, least: of these, by
    influence; missing: why there are none.
    """

    score: str
    targets: dict[str, float]
    kept: int
    documents: int
    most: list[OnExample]
    least: list[OnExample]
    missing: str | None = None


@dataclass(frozen=True)
class Helpers:
    """What documents do for one example.

    searched: documents that have a gradient, earlier ones included; most, least: by influence; missing: what was not
    searched, and why, in lines.
    """

    score: str
    example: Example
    searched: int
    most: list[OfDocument]
    least: list[OfDocument]
    missing: list[str]
