"""The errors that a user can cause and mend; the command line prints them as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TamisError(Exception):
    """Something failed; the message says what, where and how to mend it."""


class RecipeError(TamisError):
    """The recipe or the arguments are wrong; found before data is read.

    A message about a key of the recipe begins with its path, as `select.0.keep: …`: jobs puts file and line before it.

    place: path of the key, where the message does not begin with it.
    """

    def __init__(self, message: str, place: str | None = None) -> None:
        super().__init__(message)
        self.place = message.partition(": ")[0] if place is None else place


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
    return printable(str(error)) or type(error).__name__


def printable(text: str, length: int | None = None) -> str:
    """Return text as one line that a terminal can show: runs of white space as a space, control characters escaped.

    length: of what is kept of the text, in characters; None keeps all.
    """
    line = " ".join(text[:length].split()) + (" …" if length is not None and len(text) > length else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
