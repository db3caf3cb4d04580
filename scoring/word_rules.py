"""Words as the published quality filters see them: a tokenizer that separates punctuation, in one pass over UTF-8.

DataTrove evaluates the rules of Gopher and C4 on the tokens of spaCy's rule-based English tokenizer. This is an
independent implementation of the same rules: white space separates chunks; of a chunk, punctuation is cut off at both
ends, then contractions (`don't` is `do n't`), units after digits, and hyphens, slashes and the like between letters.
Abbreviations and web addresses stay whole. What is not implemented: emoticons of more than two characters, addresses by
number, and the contractions that lack their apostrophe and are not English words (`dont` stays whole).
"""

import functools
import unicodedata
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..connectors.keys import constant, load64

_U64 = np.uint64
_HASH_1, _HASH_2 = _U64(0x9E3779B97F4A7C15), _U64(0xD6E8FEB86659FD93)
MAX_EXCEPTION = 16  # bytes

SPACE, BREAK, LETTER, UPPER, LOWER, DIGIT = 1, 2, 4, 8, 16, 32
PREFIX, SUFFIX, QUOTE, ICON, CURRENCY, SYMBOL, PUNCTUATION, STOP = 64, 128, 256, 512, 1024, 2048, 4096, 8192
"""Properties of a character; STOP ends a sentence."""

ALPHABETIC, WORD, PUNCTUATION_TOKEN, STOP_TOKEN = 1, 2, 4, 8
"""Kinds of a token: holds a letter; is not symbols alone; is punctuation alone; ends a sentence. The upper four bits
are the number of the stop word that it is, from 1."""

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Of Rae et al. 2021, A1.1; lower-case, as in DataTrove."""

_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # where str.splitlines() cuts
_MARKS = ",:;!?¿؟¡()[]{}<>_#*&…。？！，、；：～·।،۔؛٪"  # noqa: RUF001
_QUOTE_MARKS = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"  # noqa: RUF001
_STOPS = "!.?։؟۔܀܁܂߹।॥၊။።፧፨᙮᜵᜶᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？。｡"  # noqa: RUF001
_ASCII_UNITS = "km m dm cm mm ha nm yd in ft kg g mg t lb oz kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K"
_UNITS = _ASCII_UNITS.split()
_ASCII_FACES = ":) :( (: ): :] [: :} =) =( =] =[ ]= ;) (; ''"
_FACES = _ASCII_FACES.split()

EXCEPTIONS = 4096
STOP_WORDS_AT = 2 * EXCEPTIONS
UNITS_AT = STOP_WORDS_AT + 2 * 256
FACES_AT = UNITS_AT + len(_UNITS)
FILTER_AT = FACES_AT + len(_FACES)
FILTER_BITS = 1 << 14
ENDINGS_AT = FILTER_AT + FILTER_BITS // 64
STEMS_AT = ENDINGS_AT + 128
MARKS_AT = STEMS_AT + FILTER_BITS // 64
RULES_SIZE = MARKS_AT + 2 * 256
CUT_OFF = 1 << 16


def _multiply_fold(typing_context: Any, left: Any, right: Any) -> Any:
    """Upper half of the 128-bit product of two uint64, xor its lower half; kernels only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, double = ir.IntType(64), ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], double), builder.zext(arguments[1], double))
        upper = builder.trunc(builder.lshr(product, double(64)), word)
        return builder.xor(upper, builder.trunc(product, word))

    return types.uint64(types.uint64, types.uint64), generate


_fold: Any = intrinsic(_multiply_fold)  # typed as Any: its typing context is no argument of the caller


@functools.cache
def character_classes() -> NDArray[np.uint16]:
    """Properties of every code point, after the interpreter's version of Unicode; uint16[0x110000]."""
    classes = np.zeros(0x110000, np.uint16)
    for point in range(0x32400):  # beyond are tags, private use and nothing
        character = chr(point)
        category = unicodedata.category(character)
        value = SPACE * character.isspace() | LETTER * character.isalpha() | DIGIT * (category == "Nd")
        value |= UPPER * character.isupper() | LOWER * character.islower()
        value |= PUNCTUATION * (category[0] == "P") | CURRENCY * (category == "Sc")
        value |= SYMBOL * (category[0] == "P" or category == "Cc" or (category[0] == "S" and point < 0x80))
        if category == "So":
            value |= ICON | PREFIX | SUFFIX
        classes[point] = value
    for characters, value in (
        (_BREAKS, BREAK),
        (_MARKS + _QUOTE_MARKS + "\u2013\u2014", PREFIX | SUFFIX),
        ("§%=", PREFIX),
        (_QUOTE_MARKS, QUOTE),
        (_STOPS, STOP),
    ):
        classes[[ord(character) for character in characters]] |= np.uint16(value)
    classes[(classes & CURRENCY) > 0] |= np.uint16(PREFIX)
    return constant(classes)


_PRONOUNS = "I i you he she it we they this who what when where why how there that"
_NEGATED = "could did does do had may might must need ought should would are is was were have has dare"
_WHOLE = """' '' 'd 's 'S 'll 're 'em 'bout 'cause 'cos and/or w/o ma'am o'clock O'clock C++ co. vs. v.s. <3
    a.m. p.m. e.g. i.e. E.g. I.e. Adm. Bros. Co. Corp. D.C. Dr. Gen. Gov. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr.
    Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. Mt. Ala. Ariz. Ark. Calif. Colo. Conn. Del. Fla. Ga. Ia. Id. Ill. Ind.
    Kan. Kans. Ky. La. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nev. Okla. Ore. Pa. S.C. Tenn.
    Va. Wash. Wis. Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec."""
"""What stays one token, whatever punctuation it holds."""


def _exceptions() -> dict[str, tuple[str, ...]]:
    """Contractions and abbreviations, and the tokens that each becomes."""
    found: dict[str, tuple[str, ...]] = {}
    for word in _PRONOUNS.split():
        for ending in ("'ll", "'d", "'s", "'re", "'ve", "'m"):
            found[word + ending] = (word, ending)
        for ending in ("'ll", "'d"):
            found[word + ending + "'ve"] = (word, ending, "'ve")
    for word in _NEGATED.split():
        found |= {word + "n't": (word, "n't"), word + "'ve": (word, "'ve"), word + "n't've": (word, "n't", "'ve")}
    for word in ("ca", "wo", "sha", "ai"):
        found |= {word + "n't": (word, "n't"), word + "n't've": (word, "n't", "'ve")}
    found |= {"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "let's": ("let", "'s")}
    found |= {"whats": ("what", "s"), "thats": ("that", "s"), "wont": ("wo", "nt"), "id": ("i", "d")}
    found |= {"y'all": ("y'", "all")}
    found |= {whole[:1].upper() + whole[1:]: (parts[0].capitalize(), *parts[1:]) for whole, parts in found.items()}
    found |= {f"{hour}{half}": (str(hour), half) for hour in range(1, 13) for half in ("am", "pm", "a.m.", "p.m.")}
    letters = (chr(letter) + "." for letter in range(ord("a"), ord("z") + 1))
    found |= {whole: (whole,) for whole in (*_WHOLE.split(), *letters, *_FACES)}
    curly = str.maketrans("'", "\u2019")
    return found | {whole.translate(curly): tuple(p.translate(curly) for p in ps) for whole, ps in found.items()}


def _hash(text: str) -> int:
    data = text.encode()
    return int(hash_bytes_at(np.frombuffer(data + bytes(16), np.uint8), 0, len(data)))


@functools.cache
def word_rules() -> NDArray[np.uint64]:
    """Everything but the character classes that the kernels look up, in one array; uint64[RULES_SIZE].

    From 0: open-addressed table of the exceptions, each as the hash of its bytes (0 where empty) and the byte lengths
    of its tokens, eight bits each and the first one lowest. From STOP_WORDS_AT: for the highest eight bits of a hash,
    the stop word that has such a one, as its hash and its number. From UNITS_AT and FACES_AT: words of at most eight
    bytes, as little-endian numbers. From FILTER_AT: one bit per value of a hash's lowest bits, set where the table has
    such a hash. From ENDINGS_AT: for the last byte's low seven bits, one bit per length of an exception with this
    ending. From STEMS_AT: bits as from FILTER_AT, for the ASCII letters that are an exception, or one with a character
    behind them. From MARKS_AT: for each ASCII character that is no letter, the mark of the token that it is alone, plus
    CUT_OFF if it is cut off after letters, and its hash. One array, since kernels are called faster with few.
    """
    rules = np.zeros(RULES_SIZE, np.uint64)
    values = {whole: sum(len(p.encode()) << 8 * i for i, p in enumerate(ps)) for whole, ps in _exceptions().items()}
    for whole, value in values.items():
        encoded = whole.encode()
        if len(encoded) > MAX_EXCEPTION:
            raise ValueError(f"{whole} is longer than {MAX_EXCEPTION} bytes")
        found = _hash(whole)
        place = 2 * (found >> 20 & EXCEPTIONS - 1)
        while rules[place]:
            place = (place + 2) % (2 * EXCEPTIONS)
        rules[place : place + 2] = found, value
        rules[ENDINGS_AT + (encoded[-1] & 0x7F)] |= np.uint64(1 << len(encoded))
        rules[FILTER_AT + (found % FILTER_BITS >> 6)] |= np.uint64(1 << (found & 63))
        stem = whole if whole[-1].isalpha() else whole[:-1]
        if stem.isascii() and stem.isalpha():
            rules[STEMS_AT + (_hash(stem) % FILTER_BITS >> 6)] |= np.uint64(1 << (_hash(stem) & 63))
    for number, word in enumerate(STOP_WORDS, 1):
        found = _hash(word)
        place = STOP_WORDS_AT + 2 * (found >> 56)
        if rules[place]:
            raise ValueError(f"the hash of {word} begins like that of another stop word")
        rules[place : place + 2] = found, number
    for start, words in ((UNITS_AT, _UNITS), (FACES_AT, _FACES)):
        rules[start : start + len(words)] = [int.from_bytes(word.encode(), "little") for word in words]
    classes = character_classes()
    for byte in range(0x80):
        if not classes[byte] & LETTER:
            cut_off = CUT_OFF if classes[byte] & SUFFIX or byte == ord(".") else 0
            kind = token_kind(classes[byte], classes[byte], 1)
            rules[MARKS_AT + 2 * byte : MARKS_AT + 2 * byte + 2] = cut_off | 1 << 8 | kind, _hash(chr(byte))
    return constant(rules)


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def token_kind(any_class: Any, all_classes: Any, characters: Any) -> Any:
    """Kind of a token, without the stop words, from the properties that some and all of its characters have."""
    kind = ALPHABETIC if any_class & LETTER else 0
    kind |= (0 if all_classes & SYMBOL else WORD) | (PUNCTUATION_TOKEN if all_classes & PUNCTUATION else 0)
    return kind | (STOP_TOKEN if characters == 1 and any_class & STOP else 0)


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def _low_bytes(doc: Any, position: Any, length: Any) -> Any:
    """The first 0 to 8 bytes here as a little-endian number; reads eight."""
    return load64(doc, position) & ((_U64(1) << _U64(4 * length) << _U64(4 * length)) - _U64(1))


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def hash_bytes_at(doc: Any, position: Any, length: Any) -> Any:
    """64-bit hash of doc[position:position + length], never 0; reads up to 16 bytes more."""
    value = _U64(length) * _HASH_1
    while length > 16:
        value = _fold(load64(doc, position) ^ _HASH_2, load64(doc, position + 8) ^ value)
        position += 16
        length -= 16
    # Two words of up to eight bytes in any case, since the length of a word cannot be guessed.
    first, second = _low_bytes(doc, position, min(length, 8)), _low_bytes(doc, position + 8, max(length - 8, 0))
    return _fold(first ^ _HASH_2, second ^ value) | _U64(1)


@numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
def code_point(doc: Any, position: Any) -> Any:
    """Code point here and its length in bytes."""
    lead = np.int64(doc[position])
    if lead < 0x80:
        return lead, 1
    second = np.int64(doc[position + 1]) & 0x3F
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | second, 2
    third = np.int64(doc[position + 2]) & 0x3F
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | second << 6 | third, 3
    return min((lead & 7) << 18 | second << 12 | third << 6 | np.int64(doc[position + 3]) & 0x3F, 0x10FFFF), 4
