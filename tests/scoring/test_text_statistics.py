"""Counts of text against plain Python on odd texts, and words against what spaCy's tokenizer gives."""
# ruff: noqa: RUF001

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tamis.connectors.keys import hash_bytes, text_buffers
from tamis.scoring.scorer import Documents
from tamis.scoring.text_bits import STRINGS, text_bits
from tamis.scoring.text_counts import NGRAMS, PHRASES, PIECES, WORDS, Counts
from tamis.scoring.text_statistics import text_counts
from tamis.scoring.text_statistics_scorer import STATISTICS, TextStatistics, TextStatisticsParameters, compression
from tamis.scoring.word_rules import STOP_WORDS, character_classes, word_rules
from tamis.scoring.words import cut_chunk

SENTENCES = "It was the best of times. It was the worst of times! Was it? \"Yes,\" he said. 'No.' And so on."
TEXTS = [
    "",
    " ",
    "\n",
    "\n\n\n",
    " \t\u3000\n \r\n",
    "word",
    "the",
    "The the THE.",
    "no final newline\nat all",
    "one\r\ntwo\r\n\r\nthree\r\n",
    "old Mac\rlines\rhere",
    "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029 all breaks\x85in\u2028one\u2029text",
    "• bullet\n- hyphen\n  • indented\n* star\n-\n—",
    "ends in dots...\nends in one…\n... begins\nfour....\nsix......\n. . .",
    "emoji 😀😀 👩\u200d👩\u200d👧 and flags 🇳🇱🇩🇪!",
    "combining e\u0301 a\u0308o\u0302 marks\u0301, İstanbul ΣΑΣ ß ﬁ",
    "中文字符，没有空格。第二句！ 한국어 문장입니다. これは文です。",
    "Ünïcödé wörds wíth áccents, Ελληνικά και русский язык. Ещё раз.",
    "١٢٣ ४५६ 789 ½ ² ٪",
    "a" * 5000,
    "x" * 1001 + " is too long for a line of C4.",
    "é" * 700 + " is not, but for its bytes it is.",
    "x y z. " * 400,
    "same line\n" * 20,
    "same line\n\n" * 20 + "other",
    "\n\nparagraph one\n\n\nparagraph one\n \nparagraph one\n\n",
    "a b c d e f g h i j k l " * 7,
    "repeat this once more and again " * 3 + "unlike all of that " + "repeat this once more and again",
    "#hash # ## #\n# Title\n#",
    "{curly} {{two}} }not{",
    "Lorem ipsum dolor sit amet, it is.\nLOREM  IPSUM is none of that.\nNo lorem ipsum",
    "Turn on JavaScript to see this page.\nWe use cookies on this page.\nThe Terms of Use are here for you.\n"
    + SENTENCES,
    "Cited as it is.[1]\nCited twice here.[edit][12]\nAnd with space. [3]\nNeeds some.[citation needed]\n[][]\n]\nx]",
    SENTENCES,
    SENTENCES.replace(" ", "\n"),
    SENTENCES + "\n" + SENTENCES.upper() + "\n\n" + SENTENCES,
    'only two\nNot. Enough. Words? here... no...\nBut this one counts. And this!"',
    "\x00 nul \x7f del \u200b zero\ufeff width",
    "tab\tseparated\tvalues\n1\t2\t3\n" * 5,
    "word" * 15 + "\n" + "64 bytes are a block, so that this line goes on past the first one of them, and more.",
    ("y" * 63 + " ") * 3 + ("z" * 64 + "\n") * 3,
    "." * 130 + "\n" + "…" * 50,
    ")" * 70 + "(" * 70,
    "cannot Cannot. cannot, id. Id, a. a, A. I, x) NASA. iPhonE. Dr. Dr, co. Co? vs. etc. students' no_ . , |",
    "this.aNode = aNode;\nthis.bNode = bNode;\n" * 2 + "y" * 63 + ". " + "z" * 64 + ", " + "ab" * 40 + "!",
]
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")

SPACY = {
    "I don't know.": "I do n't know .",
    "He said, “It’s (almost) done!”": "He said , “ It ’s ( almost ) done ! ”",
    "Dr. Smith's e-mail is a.b@c.org, i.e. not http://x.org/a-b?c=d#e": (
        "Dr. Smith 's e - mail is a.b@c.org , i.e. not http://x.org/a-b?c=d#e"
    ),
    "$5.00 or 10% of 3km at 5pm...": "$ 5.00 or 10 % of 3 km at 5 pm ...",
    "U.S.-based and/or x=y, foo(bar): a/b 1/2 1-2": "U.S.-based and/or x = y , foo(bar ): a / b 1/2 1 - 2",
    "def f(self, x[0]): return 'a'+\"b\"": "def f(self , x[0 ] ): return ' a'+\"b \"",
    "well--known ~tilde C++ #tag @user end.Start cannot": "well -- known ~tilde C++ # tag @user end . Start can not",
    "can't've you'd've y'all won't": "ca n't 've you 'd 've y' all wo n't",
    "the U.S. and NASA. etc. 5. A. (see p. 3).": "the U.S. and NASA . etc . 5 . A. ( see p. 3 ) .",
}
"""Texts, and their tokens with a space between them, as `spacy.blank("en")` of spaCy 3.8 gives them."""


def tokens(text: str) -> list[str]:
    """The kernel's tokens."""
    found = []
    for chunk in text.split():
        data = chunk.encode()
        doc = np.frombuffer(data + b" " * 72, np.uint8).copy()
        bits = np.empty(STRINGS * (len(data) // 64 + 2), np.uint64)
        text_bits(doc, len(data), character_classes(), bits)
        cuts = np.empty(len(data) + 1, np.int64)
        pieces = cut_chunk(doc, 0, len(data), bits, character_classes(), word_rules(), cuts)
        ends = [0, *cuts[:pieces].tolist()]
        found += [data[start:end].decode() for start, end in pairwise(ends)]
    return found


def duplicates(pieces: list[str]) -> tuple[int, int, int]:
    repeated = [piece for place, piece in enumerate(pieces) if piece in pieces[:place]]
    return len(pieces), len(repeated), sum(map(len, repeated))


def top_ngram(words: list[str], order: int) -> int:
    ngrams = Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
    if not ngrams:
        return 0
    ngram, count = max(ngrams.items(), key=lambda item: item[1])  # the first of equals
    return len(" ".join(ngram)) * count


def duplicate_ngrams(words: list[str], order: int) -> int:
    seen, characters, place = set(), 0, 0
    while place + order <= len(words):
        ngram = tuple(words[place : place + order])
        if ngram in seen:
            characters += sum(map(len, ngram))
            place += order
        else:
            seen.add(ngram)
            place += 1
    return characters


def keeps_c4(line: str) -> bool:
    low = line.lower()
    cleaned = re.sub(r"(\[[0-9]*\]|\[edit\]|\[citation needed\])+$", "", line)
    return (
        cleaned.endswith((".", "?", "!", '"', "'"))
        and not cleaned.endswith("...")
        and len(line.split()) >= 3
        and max(map(len, line.split())) <= 1000
        and "javascript" not in low
        and not any(policy in low for policy in POLICIES)
    )


def sentences(line: str) -> int:
    """Sentences of a line: one begins at the first token that is no punctuation after one that is a full stop or so."""
    count, ended = 1, False
    for token in tokens(line):
        if token in ".!?。！？":
            ended = True
        elif ended and not all(unicodedata.category(c)[0] == "P" for c in token):
            count, ended = count + 1, False
    return count


def is_symbol(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "P" or category == "Cc" or (category[0] == "S" and character < "\x80")


def expected(text: str) -> Counts:
    """All counts of a text by plain Python, but for the cutting of words."""
    found = tokens(text)
    words = [token for token in found if not all(map(is_symbol, token))]
    lines = [line.strip() for line in text.splitlines()]
    filled = [line for line in lines if line]
    ends = [re.sub(r"(\[[0-9]*\]|\[edit\]|\[citation needed\])+$", "", line) for line in filled]
    pieces = duplicates(re.split("\n+", text))
    paragraphs = duplicates(re.split("\n{2,}", text.strip()))
    return Counts(
        len(text),
        sum(map(str.isspace, text)),
        sum(unicodedata.category(c) == "Nd" for c in text),
        sum(map(str.isupper, text)),
        len(found),
        len(words),
        sum(map(len, words)),
        sum(any(map(str.isalpha, token)) for token in found),
        sum(token in STOP_WORDS for token in found),
        len(set(found) & set(STOP_WORDS)),
        text.count("#"),
        text.count("...") + text.count("…"),
        len(lines),
        sum(line.startswith(("•", "-")) for line in lines),
        sum(line.endswith(("...", "…")) for line in lines),
        len(filled),
        sum(line.endswith((".", "?", "!", '"', "'")) and not line.endswith("...") for line in ends),
        sum("javascript" in line.lower() for line in lines),
        sum(sentences(line) for line in filled if keeps_c4(line)),
        text.count("{"),
        sum("lorem ipsum" in line.lower() for line in lines),
        *pieces,
        *paragraphs,
        len(set(found)),
        *(top_ngram(found, order) for order in (2, 3, 4)),
        *(duplicate_ngrams(found, order) for order in range(5, 11)),
    )


def counted(texts: list[str], parts: int = WORDS | NGRAMS | PIECES | PHRASES) -> list[Counts]:
    return [Counts(*row) for row in text_counts(pa.array(texts, pa.large_string()), parts).tolist()]


def test_counts_are_those_of_plain_python() -> None:
    for text, row in zip(TEXTS, counted(TEXTS), strict=True):
        assert row == expected(text), text[:200]


ODD = "the to don't e.g. x word Ünïcödé 12 3km ... … . ! , # { - • ( ) [1] 's \" / = 😀 \u0301 中文 。"
OTHERS_OF_TEXT = ["http://a.bc/d", "javascript", "Lorem ipsum", "use cookies", "y" * 70]
SPACES_OF_TEXT = ["\n", "\n\n", "\r\n", "\r", " ", "  ", "\t", "\u2028", "\x85", "\u3000"]
PIECES_OF_TEXT = st.sampled_from([*ODD.split(" "), *OTHERS_OF_TEXT, *SPACES_OF_TEXT])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(PIECES_OF_TEXT, max_size=60).map("".join), max_size=5))
@example(["a\n\nb", "\r\n\n"])
def test_counts_of_any_text(texts: list[str]) -> None:
    assert counted(texts) == [expected(text) for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=150))
def test_counts_of_any_characters(text: str) -> None:
    assert counted([text]) == [expected(text)]


@pytest.mark.parametrize(("text", "wanted"), SPACY.items())
def test_words_are_those_of_spacy(text: str, wanted: str) -> None:
    assert tokens(text) == wanted.split()


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Z", "Cc"]), min_size=1, max_size=100))
def test_tokens_make_up_the_chunk(chunk: str) -> None:
    assert "".join(tokens(chunk)) == "".join(chunk.split())


def test_a_batch_is_its_documents() -> None:
    whole = text_counts(pa.array(TEXTS, pa.large_string()))
    alone = np.concatenate([text_counts(pa.array([text], pa.large_string())) for text in TEXTS])
    backwards = text_counts(pa.array(TEXTS[::-1], pa.large_string()))[::-1]
    sliced = text_counts(pa.array(["cut off", *TEXTS, "too"], pa.string())[1:-1])
    for other in (alone, backwards, sliced):
        np.testing.assert_array_equal(whole, other)


def test_parts_leave_out_only_their_columns() -> None:
    whole = text_counts(pa.array(TEXTS, pa.large_string()))
    for parts in range(16):
        some = text_counts(pa.array(TEXTS, pa.large_string()), parts)
        np.testing.assert_array_equal(some, np.where(some.any(axis=0), whole, 0))
    assert not text_counts(pa.array(TEXTS, pa.large_string()), 0)[:, Counts._fields.index("words")].any()


def test_nulls_are_refused() -> None:
    with pytest.raises(ValueError, match="1 nulls"):
        text_counts(pa.array(["a", None], pa.large_string()))


def scored(columns: list[str] | None = None) -> dict[str, pa.Array]:
    text = pa.array(TEXTS, pa.large_string())
    scorer = TextStatistics(TextStatisticsParameters(scorer="text_statistics", columns=columns))
    result = scorer.score(Documents(text, hash_bytes(*text_buffers(text))))
    assert [column.suffix for column in scorer.columns] == list(result)
    assert [column.type for column in scorer.columns] == [array.type for array in result.values()]
    return result


def test_ratios_are_the_nearest_doubles() -> None:
    result, counts = scored(), counted(TEXTS)
    for suffix, array in result.items():
        statistic = STATISTICS[suffix or "words"]
        for value, row in zip(array.to_pylist(), counts, strict=True):
            over = getattr(row, statistic.over) if statistic.over else 1
            assert value == (getattr(row, statistic.count) / over if over else 0), suffix


@pytest.mark.parametrize("suffix", [name for name in STATISTICS if name != "words"])
def test_any_column_alone_is_the_same(suffix: str) -> None:
    alone, whole = scored([suffix]), scored(list(STATISTICS))
    assert list(alone) == ["", suffix]
    assert alone[suffix] == whole[suffix] and alone[""] == whole[""]


def test_compression_sees_repetition() -> None:
    values = compression(pa.array(["", "abc" * 1000, SENTENCES], pa.large_string()))
    assert values[0] == 0
    assert values[1] > 50 > values[2] > 0.5


def test_fingerprints_follow_the_columns() -> None:
    def fingerprint(columns: list[str] | None) -> str:
        return TextStatistics(TextStatisticsParameters(scorer="text_statistics", columns=columns)).fingerprint

    assert fingerprint(["digits", "lines"]) == fingerprint(["lines", "digits"])
    assert fingerprint(None) == fingerprint([name for name in STATISTICS if name != "compression"])
    assert len({fingerprint(columns) for columns in (None, [], ["lines"], ["compression"])}) == 4


@pytest.mark.parametrize(
    ("columns", "message"), [(["line"], r"no column `line` \(nearest: lines\)"), (["lines", "lines"], "named twice")]
)
def test_wrong_columns_are_named(columns: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextStatisticsParameters(scorer="text_statistics", columns=columns)
