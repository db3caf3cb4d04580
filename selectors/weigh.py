"""The `weigh:` part of a recipe: how kept documents are weighted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..connectors.settings import Settings
from .steps import MIN_TEMPERATURE


class Uniform(Settings):
    """Every kept document weighs 1."""

    method: Literal["uniform"] = "uniform"

    @property
    def needs(self) -> list[str]:
        """No score."""
        return []


class Importance(Settings):
    """Weights proportional to exp(score / temperature), mean one over the kept documents.

    A kept document without the score weighs 1, the mean.
    """

    method: Literal["importance"]
    by: str
    temperature: float = Field(1.0, ge=MIN_TEMPERATURE, description="above 1 flattens the weights")

    @property
    def needs(self) -> list[str]:
        """The score that is a log weight."""
        return [self.by]


AnyWeigher = Annotated[Uniform | Importance, Field(discriminator="method")]
WEIGHERS: tuple[type[Settings], ...] = (Uniform, Importance)
