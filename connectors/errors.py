"""The errors that a user can cause and mend; the command line prints them as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TamisError(Exception):
    """Something failed; the message says what, where and how to mend it."""


class RecipeError(TamisError):
    """The recipe or the arguments are wrong; found before data is read."""


class ChangedError(TamisError):
    """A source file is not what it was when the run was planned; never skipped."""


class StoppedError(TamisError):
    """Work was given up because another worker failed or the user interrupted; never the cause itself."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " (nearest: X)" for the known name most like `word`, else " (known: …)", for error messages."""
    names = sorted(known)
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if match:
        return f" (nearest: {match[0]})"
    return f" (known: {', '.join(names[:20])})" if names else ""


def one_line(error: BaseException) -> str:
    """Return an error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
