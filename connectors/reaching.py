"""Reaching remote file systems: what may pass is tried again, and what stays names the URL."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec

from .errors import RecipeError, TamisError, one_line

_Found = TypeVar("_Found")

ATTEMPTS = 5
"""Tries of what a remote file system is asked to do."""

PAUSE = 0.5
"""Seconds before the second try, doubled before each further one, and shortened by up to a half, at random."""

_PERMANENT = (
    TamisError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ImportError,
    NotImplementedError,
    TypeError,
    ValueError,
)

_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
"""What botocore raises, by name, since it may not be installed."""


def remote(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it; raises RecipeError when it cannot be reached."""
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise RecipeError(f"{url}: {one_line(error)}; `pip install` what fsspec needs for this protocol") from error
    return filesystem, path


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Name the URL in what a back end raises: clients have errors of their own, of which OSError is no base.

    What is missing stays a FileNotFoundError; all else is a TamisError.
    """
    try:
        yield
    except TamisError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, one_line(error), url) from error
    except PermissionError as error:
        raise TamisError(f"{url}: no access ({one_line(error)}); check the credentials in the environment") from error
    except Exception as error:
        raise TamisError(f"{url}: cannot be reached: {one_line(error)}") from error


def reach(url: str, act: Callable[[], _Found]) -> _Found:
    """Return what an action gives, tried again for errors that may pass; the last one is raised as `reaching` does."""
    for attempt in range(ATTEMPTS - 1):
        try:
            with reaching(url):
                return act()
        except (FileNotFoundError, TamisError) as error:
            cause = error.__cause__
            if cause is None or isinstance(cause, _PERMANENT) or type(cause).__name__ in _NO_CREDENTIALS:
                raise
        time.sleep(PAUSE * 2**attempt * random.uniform(0.5, 1))
    with reaching(url):
        return act()
