"""Base of everything that a recipe is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator

from .errors import nearest


class AtKeyError(ValueError):
    """Something is wrong with one key of the mapping, or item of the list, that is validated.

    key: which; a message of the recipe gives its line.
    """

    def __init__(self, key: object, message: str) -> None:
        super().__init__(message)
        self.key = str(key)


class Settings(BaseModel):
    """A part of a recipe: immutable, and an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _know_all_keys(cls, values: object) -> object:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise AtKeyError(key, f"unknown key `{key}`{nearest(str(key), cls.model_fields)}")
        return values
