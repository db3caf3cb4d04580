"""The scorers that recipes can name. A new scorer is one file in this folder and one entry here."""

from __future__ import annotations

from .dsir_scorer import DSIR
from .scorer import Scorer

SCORERS: dict[str, type[Scorer]] = {scorer.name: scorer for scorer in (DSIR,)}
