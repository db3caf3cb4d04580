# ruff: noqa: RUF001 (letters that look alike are the point)
import re
import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tamis.scoring.lowercase import character_tables
from tamis.scoring.tokenizer import TOKENIZER_VERSION, token_spans, tokenize

WORDPUNCT = re.compile(r"\w+|[^\w\s]+")
ALL = [point for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
VARIED = ALL[: 0x20000 - 0x800]
TRICKY = list(
    "aZ09_ \t\n\x0b\x1c\x1f\x85\xa0.,'%-:\x00\x7fßİıΣσςΑά\u0301\u0307\u0345ʰ\u00ad\u200b\u200d\u203fKÅȺé字ह\u094d😀𐐀ﬀǅ"
)
PINNED = [9853942125793721192, 7509184731253891659, 2118667929048053464, 5748798533372515617, 2612417840835175085]
SENTENCES = [
    "Don't stop_it, 3.14%!!! NAÏVE Café cafe\u0301 İstanbul",
    "ΑΣ ΑΣ. ΑΣ\u0301. ΑΣΑ ΣΣ Σ ' ΑΣ' ΑΣ'Α Α'Σ ΑΣ\u00adΑ Α\u0345Σ",
    "हिन्दी भाषा 字漢字 한국어 ไทย Straße \u212aelvin 😀👩\u200d👩\u200d👧 x‿y Ⱥⱦ",
    "x" * 200 + "É" * 70 + "." * 70 + " " * 70 + "Σ" * 70,
    "",
    " \t\n",
]
TEXTS = st.one_of(
    st.text(max_size=200),
    st.text(alphabet=st.sampled_from(TRICKY), max_size=200),
    st.text(st.characters(codec="ascii")),
)


def oracle(value: str) -> list[str]:
    return WORDPUNCT.findall(value.lower())


def spans(text: pa.Array) -> list[list[str]]:
    found = token_spans(text)
    data = found.data.tobytes()
    tokens = [data[a:b].decode() for a, b in zip(found.starts, found.ends, strict=True)]
    return [tokens[a:b] for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


@given(st.lists(TEXTS, max_size=5))
@example(SENTENCES)
@settings(deadline=None, max_examples=300)
def test_tokens_are_those_of_re_on_the_lower_cased_text(values):
    expected = [oracle(value) for value in values]
    text = pa.array(values, pa.large_string())
    assert spans(text) == expected
    tokens = tokenize(text)
    assert tokens.counts.tolist() == [len(each) for each in expected]
    assert tokens.offsets[-1] == tokens.hashes.size
    # Equal tokens have equal hashes, and different ones different hashes.
    by_token = dict(zip([token for each in expected for token in each], tokens.hashes.tolist(), strict=True))
    assert [by_token[token] for each in expected for token in each] == tokens.hashes.tolist()
    assert len(set(by_token.values())) == len(by_token)


@pytest.mark.parametrize(
    ("pattern", "points"),
    [("{}", ALL), ("A{}Σ ", ALL), (" {}Σ ", ALL), ("AΣ{} ", VARIED), ("AΣ{}A ", VARIED), ("x{}y ", VARIED)],
    ids=["alone", "cased, then", "only", "then", "cased, then, cased", "in a word"],
)
def test_every_code_point_in_one_text(pattern, points):
    value = "".join(pattern.format(chr(point)) for point in points)
    expected = oracle(value)
    found = token_spans(pa.array([value], pa.large_string()))
    data = found.data.tobytes()
    lengths = found.ends - found.starts
    assert lengths.tolist() == [len(token.encode()) for token in expected]
    assert data == value.lower().encode()
    assert tokenize(pa.array([value], pa.large_string())).counts.tolist() == [len(expected)]


def test_lower_case_never_needs_more_than_its_share_of_scratch():
    properties, lower = character_tables()
    assert all(
        2 * len(chr(point).lower().encode()) <= 3 * len(chr(point).encode())
        for point in range(0x80, lower.size)
        if not 0xD800 <= point < 0xE000
    )
    assert properties.size == sys.maxunicode + 1
    assert max(point for point in ALL if chr(point).lower() != chr(point)) == lower.size - 1


@given(st.lists(TEXTS, min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_slices_and_batches_change_nothing(values, data):
    text = pa.array(values)
    whole = tokenize(text)
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    part = tokenize(text[start:stop])
    assert np.array_equal(part.hashes, whole.hashes[whole.offsets[start] : whole.offsets[stop]])
    assert np.array_equal(part.counts, whole.counts[start:stop])
    assert spans(text[start:stop]) == [oracle(value) for value in values[start:stop]]


@pytest.mark.parametrize("shift", range(0, 70, 3))
def test_tokens_at_every_offset_of_the_eight_and_sixty_four_byte_steps(shift):
    values = ["é" * (shift % 4) + "a" * shift + " " + "Bc" * n + "." * n + "É" for n in range(70)]
    assert spans(pa.array(values)) == [oracle(value) for value in values]


def test_texts_do_not_run_into_each_other():
    assert spans(pa.array(["ab", "cd", "", "é", "É."])) == [["ab"], ["cd"], [], ["é"], ["é", "."]]
    # A sigma at the end of its text is final whatever the next text starts with.
    assert spans(pa.array(["ΑΣ", "Α", "Α", "Σ"])) == [["ας"], ["α"], ["α"], ["σ"]]


def test_hashes_spread_evenly_over_buckets_and_bits():
    words = [f"w{n}" for n in range(100_000)] + [f"{n}" for n in range(100_000)]
    hashes = tokenize(pa.array([" ".join(words)])).hashes
    assert np.unique(hashes).size == 200_000
    for shift in (0, 16, 32, 52):
        observed = np.bincount((hashes >> np.uint64(shift) & np.uint64(4095)).astype(np.int64), minlength=4096)
        chi_square = ((observed - 200_000 / 4096) ** 2 / (200_000 / 4096)).sum()
        assert abs(chi_square - 4095) < 5 * np.sqrt(2 * 4095)


def test_one_changed_letter_changes_half_of_the_bits():
    first = tokenize(pa.array([f"{n:08d}" for n in range(20_000)])).hashes
    second = tokenize(pa.array([f"{n:07d}".rjust(8, "x") for n in range(20_000)])).hashes
    flipped = (first ^ second)[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    assert np.abs(flipped.mean(axis=0) - 0.5).max() < 0.03


def test_bytes_that_are_no_utf8_are_read_without_leaving_the_buffer():
    junk = [bytes([lead]) * n for lead in (0x80, 0xC3, 0xE2, 0xF0, 0xFF) for n in range(1, 6)] + [b"\xe0\x81\x89"]
    text = pa.array(junk * 50, pa.large_binary())
    assert (tokenize(text).counts <= [len(value) for value in junk * 50]).all()
    assert token_spans(text).data.size <= sum(len(value) for value in junk * 50) * 3 // 2 + 16


def test_version_names_the_unicode_version():
    assert re.fullmatch(r"wordpunct-\d+-unicode-" + re.escape(unicodedata.unidata_version), TOKENIZER_VERSION)


def test_hashes_are_pinned():
    # A change here invalidates every stored score: raise the number in TOKENIZER_VERSION with it.
    assert tokenize(pa.array(["Alice met naïve Αντώνιος!"])).hashes.tolist() == PINNED
