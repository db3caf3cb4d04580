"""The scorer `text_statistics`: the cheap signals of the published quality filters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ..connectors.errors import nearest
from .scorer import Documents, ScoreColumn, Scorer, ScorerParameters
from .text_counts import COUNTS_VERSION, NGRAMS, PHRASES, PIECES, WORDS, Counts
from .text_statistics import text_counts

Direction = Literal["higher", "lower", "none"]
PRIMARY = "words"
COMPRESSION = "compression"


@dataclass(frozen=True)
class Statistic:
    """A column: one count, or the ratio of two.

    part: what `text_counts` must do for it.
    """

    count: str
    over: str | None
    unit: str
    direction: Direction
    summary: str
    part: int = 0


STATISTICS: dict[str, Statistic] = {
    PRIMARY: Statistic("words", None, "words", "none", "words: tokens that are not punctuation alone", WORDS),
    "characters": Statistic("characters", None, "characters", "none", "length"),
    "mean_word_length": Statistic("word_characters", "words", "characters", "none", "mean length of a word", WORDS),
    "lines": Statistic("lines", None, "lines", "none", "lines, empty ones too"),
    "hash_ratio": Statistic("hashes", "tokens", "per token", "lower", "number signs (#) for each token", WORDS),
    "ellipsis_ratio": Statistic("ellipses", "tokens", "per token", "lower", "ellipses for each token", WORDS),
    "bullet_lines": Statistic("bullet_lines", "lines", "share of the lines", "lower", "begin with a bullet or hyphen"),
    "ellipsis_lines": Statistic("ellipsis_lines", "lines", "share of the lines", "lower", "end with an ellipsis"),
    "alphabetic": Statistic("alphabetic", "tokens", "share of the tokens", "higher", "hold a letter", WORDS),
    "stop_words": Statistic("distinct_stop_words", None, "words", "higher", "how many of Gopher's 8 occur", WORDS),
    "stop_word_share": Statistic("stop_words", "words", "share of the words", "higher", "are one of the 8", WORDS),
    "digits": Statistic("digits", "characters", "share of the characters", "lower", "decimal digits"),
    "upper_case": Statistic("upper_case", "characters", "share of the characters", "lower", "capital letters"),
    "white_space": Statistic("white_space", "characters", "share of the characters", "none", "white space"),
    "duplicate_lines": Statistic(
        "duplicate_lines", "newline_pieces", "share of the lines", "lower", "stand in the text before", PIECES
    ),
    "duplicate_line_characters": Statistic(
        "duplicate_line_characters", "characters", "share of the characters", "lower", "in repeated lines", PIECES
    ),
    "duplicate_paragraphs": Statistic(
        "duplicate_paragraphs", "paragraphs", "share of the paragraphs", "lower", "stand in the text before", PIECES
    ),
    "duplicate_paragraph_characters": Statistic(
        "duplicate_paragraph_characters",
        "characters",
        "share of the characters",
        "lower",
        "in repeated paragraphs",
        PIECES,
    ),
    **{
        f"top_{n}_gram": Statistic(
            f"top_{n}_gram", "characters", "share of the characters", "lower", f"in the most frequent {n}-gram", NGRAMS
        )
        for n in (2, 3, 4)
    },
    **{
        f"duplicate_{n}_grams": Statistic(
            f"duplicate_{n}_grams", "characters", "share of the characters", "lower", f"in repeated {n}-grams", NGRAMS
        )
        for n in range(5, 11)
    },
    "type_token_ratio": Statistic("distinct_tokens", "tokens", "per token", "none", "distinct tokens", NGRAMS),
    "terminal_punctuation": Statistic(
        "terminal_lines", "filled_lines", "share of the lines with words", "higher", "end a sentence, after C4"
    ),
    "sentences": Statistic(
        "sentences", None, "sentences", "higher", "sentences in the lines that C4 would keep", WORDS | PHRASES
    ),
    "curly_brackets": Statistic("curly_brackets", None, "characters", "lower", "opening curly brackets"),
    "lorem_ipsum": Statistic("lorem_ipsum", None, "lines", "lower", "lines with lorem ipsum", PHRASES),
    "javascript_lines": Statistic(
        "javascript_lines", "filled_lines", "share of the lines with words", "lower", "mention javascript", PHRASES
    ),
    COMPRESSION: Statistic(
        COMPRESSION, None, "bytes per byte", "none", "size over compressed size (zstd 1); high where repetitive"
    ),
}
"""All statistics by suffix; the shares of nothing are 0."""


class TextStatisticsParameters(ScorerParameters):
    """Parameters of `scorer: text_statistics`."""

    scorer: Literal["text_statistics"]
    columns: list[str] | None = Field(
        None, description=f"which to compute; default: all but {COMPRESSION}, which takes as long as all others"
    )

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: list[str] | None) -> list[str] | None:
        for column in columns or ():
            if column not in STATISTICS:
                raise ValueError(f"there is no column `{column}`{nearest(column, STATISTICS)}")
        if columns is not None and len(set(columns)) != len(columns):
            raise ValueError("a column is named twice; name it once")
        return columns


class TextStatistics(Scorer):
    """Cheap statistics of text: the signals of Gopher's and C4's filters, and a few more.

    The primary column is the number of words, the one that every published set of rules begins with and all others are
    read against; any other is `<name>_<column>`. Recipes with the published thresholds: gopher.yaml and c4.yaml.
    """

    name = "text_statistics"
    version = 1
    Parameters = TextStatisticsParameters
    requires = "text"
    primary = ScoreColumn(
        "", pa.int64(), STATISTICS[PRIMARY].unit, STATISTICS[PRIMARY].direction, STATISTICS[PRIMARY].summary
    )
    parameters: TextStatisticsParameters

    @property
    def _suffixes(self) -> list[str]:
        """The chosen columns but for the primary one, always in the same order."""
        chosen = self.parameters.columns
        return [
            suffix
            for suffix in STATISTICS
            if suffix != PRIMARY and (suffix in chosen if chosen is not None else suffix != COMPRESSION)
        ]

    @property
    def columns(self) -> list[ScoreColumn]:
        """The number of words, then the chosen ones."""
        columns = [self.primary]
        for suffix in self._suffixes:
            statistic = STATISTICS[suffix]
            kind = pa.int64() if statistic.over is None and suffix != COMPRESSION else pa.float64()
            columns.append(ScoreColumn(suffix, kind, statistic.unit, statistic.direction, statistic.summary))
        return columns

    @property
    def numerics(self) -> Mapping[str, object]:
        """Columns do not depend on each other, but stored scores are read as a whole."""
        numerics: dict[str, object] = {"columns": self._suffixes, "counts": COUNTS_VERSION}
        if COMPRESSION in self._suffixes:
            numerics["zstd"] = pa.__version__  # other versions may compress to other sizes
        return numerics

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the columns; memory: 300 bytes per document of the batch, and what `text_counts` needs."""
        parts = STATISTICS[PRIMARY].part
        for suffix in self._suffixes:
            parts |= STATISTICS[suffix].part
        counts = text_counts(documents.text, parts)
        columns = {"": pa.array(counts[:, Counts._fields.index("words")])}
        for suffix in self._suffixes:
            if suffix == COMPRESSION:
                columns[suffix] = pa.array(compression(documents.text))
            else:
                columns[suffix] = pa.array(_values(counts, STATISTICS[suffix]))
        return columns


def _values(counts: NDArray[np.int64], statistic: Statistic) -> NDArray[np.int64] | NDArray[np.float64]:
    count = counts[:, Counts._fields.index(statistic.count)]
    if statistic.over is None:
        return count
    over = counts[:, Counts._fields.index(statistic.over)]
    # Ratios of two integers below 2**53 are the nearest doubles, as Python's are, so that limits are met exactly alike.
    return np.divide(count, over, out=np.zeros(count.size), where=over > 0)


def compression(text: pa.Array) -> NDArray[np.float64]:
    """Bytes of each text over those of its zstd frame at level 1; 0 for an empty text.

    Args:
        text: n texts (large_string) without nulls.

    Returns:
        float64[n]. Short texts come out low, since a frame takes some bytes of its own.
    """
    codec = pa.Codec("zstd", compression_level=1)
    sizes = np.asarray(pa.compute.binary_length(text).to_numpy(zero_copy_only=False), np.float64)
    # The loop is over calls that take microseconds each, and release the lock of the interpreter.
    compressed = [codec.compress(value.as_buffer()).size for value in text]
    return sizes / np.maximum(compressed, 1) if len(text) else sizes
