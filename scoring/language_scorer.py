"""The scorer `language`: the probability that a document is in the wanted language."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Literal

import pyarrow as pa
from pydantic import Field, field_validator

from ..connectors.errors import nearest
from .language import PACKAGE, MissingPackageError, known_languages, language_probabilities
from .scorer import Documents, ScoreColumn, Scorer, ScorerParameters


class LanguageParameters(ScorerParameters):
    """Parameters of `scorer: language`."""

    scorer: Literal["language"]
    language: str = Field("en", validate_default=True, description="code after ISO 639, as en, de or zh")
    characters: int = Field(4000, ge=1, description="how many to look at, from the start of each document")

    @field_validator("language")
    @classmethod
    def _known(cls, language: str) -> str:
        try:
            known = known_languages()
        except MissingPackageError as error:
            raise ValueError(str(error)) from error
        if language not in known:
            raise ValueError(f"the model does not know the language `{language}`{nearest(language, known)}")
        return language


class Language(Scorer):
    """Probability that a document is in the wanted language, after the fastText model lid.176.

    FineWeb keeps English pages from 0.65 on. Source code and tables come out low, since they are in no language.
    """

    name = "language"
    version = 1
    Parameters = LanguageParameters
    requires = "text; pip install 'tamis[language]'"
    primary = ScoreColumn("", pa.float64(), "probability", "higher", "that the text is in the wanted language")
    parameters: LanguageParameters

    @property
    def columns(self) -> list[ScoreColumn]:
        """The probability."""
        return [self.primary]

    @property
    def numerics(self) -> Mapping[str, object]:
        """The model comes with the package."""
        return {**super().numerics, PACKAGE: version(PACKAGE)}

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the probability; null for a document without letters."""
        p = self.parameters
        return {"": pa.array(language_probabilities(documents.text, p.language, p.characters), from_pandas=True)}
