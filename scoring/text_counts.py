"""What is counted in a text, by name and number."""

import unicodedata
from typing import NamedTuple

COUNTS_VERSION = f"counts-1-unicode-{unicodedata.unidata_version}"
"""Changes whenever a count may change."""


class Counts(NamedTuple):
    """Columns of `text_counts`; all are counts, of characters where the name says so."""

    characters: int = 0
    white_space: int = 1
    digits: int = 2
    upper_case: int = 3
    tokens: int = 4
    words: int = 5
    word_characters: int = 6
    alphabetic: int = 7
    stop_words: int = 8
    distinct_stop_words: int = 9
    hashes: int = 10
    ellipses: int = 11
    lines: int = 12
    bullet_lines: int = 13
    ellipsis_lines: int = 14
    filled_lines: int = 15
    terminal_lines: int = 16
    javascript_lines: int = 17
    sentences: int = 18
    curly_brackets: int = 19
    lorem_ipsum: int = 20
    newline_pieces: int = 21
    duplicate_lines: int = 22
    duplicate_line_characters: int = 23
    paragraphs: int = 24
    duplicate_paragraphs: int = 25
    duplicate_paragraph_characters: int = 26
    distinct_tokens: int = 27
    top_2_gram: int = 28
    top_3_gram: int = 29
    top_4_gram: int = 30
    duplicate_5_grams: int = 31
    duplicate_6_grams: int = 32
    duplicate_7_grams: int = 33
    duplicate_8_grams: int = 34
    duplicate_9_grams: int = 35
    duplicate_10_grams: int = 36


C = Counts()
WORDS, NGRAMS, PIECES, PHRASES = 1, 2, 4, 8
"""Parts of the work, to be added: words and what is counted in them (n-grams and sentences need it), n-grams, duplicate
lines and paragraphs, C4's phrases. Characters and lines are always counted."""
