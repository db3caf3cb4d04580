"""Limits that a scheduled run must keep: a figure outside of them is an alert, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ..connectors.files import absolute
from ..connectors.settings import Settings
from .drift import cut_drift


class Limits(Settings):
    """The least and the most that is in order, both included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Limits:
        if self.min is None and self.max is None:
            raise ValueError("needs `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; every run would be an alert")
        return self

    def breach(self, what: str, value: float) -> str | None:
        """Return a line when a value is outside, or not a number."""
        if self.min is not None and not value >= self.min:
            return f"{what} is {value:.4g}, below {self.min:g}"
        if self.max is not None and not value <= self.max:
            return f"{what} is {value:.4g}, above {self.max:g}"
        return None


class Drift(Settings):
    """Comparison of the scores with those of another run."""

    against: str = Field(description="directory of the run to compare with; relative to the recipe")
    max: float = Field(0.25, gt=0, description="largest population stability index; above 0.25 is usually called large")


class Alert(Settings):
    """What is worth an alert (exit code 4), besides what fails a run."""

    kept_fraction: Limits | None = Field(None, description="kept documents, of those read")
    dead_fraction: Limits | None = Field(None, description="dead letters, of the documents read")
    effective_sample_size: Limits | None = Field(None, description="of the weights, of the kept documents")
    mean_score: dict[str, Limits] = Field({}, description="by score column, over the documents that have it")
    drift: Drift | None = Field(None, description="of each score, against another run")

    cut_drift: float | None = Field(
        None, gt=0, description="with `since`: largest change of the share that a frozen cut keeps, relative to it"
    )

    def resolved(self, base: Path) -> Alert:
        """Return the same with an absolute path of the run to compare with."""
        if self.drift is None:
            return self
        drift = self.drift.model_copy(update={"against": absolute(self.drift.against, base)})
        return self.model_copy(update={"drift": drift})

    @property
    def needs(self) -> list[str]:
        """Score columns whose means are limited."""
        return list(self.mean_score)

    def raised(self, manifest: Mapping[str, Any], means: Mapping[str, float], drift: Mapping[str, float]) -> list[str]:
        """Return a line for each figure outside its limits.

        manifest: with totals and weights; means: of the score columns; drift: population stability index by column.
        """
        count = {name: total["documents"] for name, total in manifest["totals"].items()}
        read, kept = max(count["read"], 1), max(count["kept"], 1)
        figures: list[tuple[Limits | None, str, float]] = [
            (self.kept_fraction, "the kept share of the documents", count["kept"] / read),
            (self.dead_fraction, "the share of dead letters", count["dead"] / read),
            (
                self.effective_sample_size,
                "the effective sample size, as a share of the kept documents,",
                manifest["weights"]["effective_sample_size"] / kept,
            ),
        ]
        for name, limits in self.mean_score.items():
            figures.append((limits, f"the mean of {name}", means.get(name, float("nan"))))
        lines = [limits.breach(what, value) for limits, what, value in figures if limits is not None]
        if self.drift is not None:
            limits = Limits(max=self.drift.max)
            where = f"against {self.drift.against}, by population stability index,"
            lines += [limits.breach(f"the drift of {name} {where}", value) for name, value in drift.items()]
        if self.cut_drift is not None:
            for step in manifest["steps"]:
                drifted = cut_drift(step["candidates"] or 0, step["kept"] or 0, step["cut_share"])
                lines.append(
                    Limits(max=self.cut_drift).breach(f"the drift of the frozen cut of {step['name']}", drifted)
                )
        return [line for line in lines if line is not None]
