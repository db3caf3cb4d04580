import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tamis.connectors.keys import text_buffers
from tamis.connectors.utf8 import first_invalid


def _python(value: bytes) -> int:
    try:
        value.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        return error.start
    return -1


def _first_invalid(values: list[bytes]) -> list[int]:
    return first_invalid(*text_buffers(pa.array(values, pa.large_binary()))).tolist()


BYTES = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(str.encode),
    st.builds(
        lambda text, at, junk: text.encode()[:at] + junk + text.encode()[at:],
        st.text(max_size=60),
        st.integers(0, 100),
        st.binary(min_size=1, max_size=3),
    ),
)


@given(st.lists(BYTES, max_size=6))
@example([b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf"])
@settings(deadline=None, max_examples=400)
def test_agrees_with_the_strict_decoder(values):
    assert _first_invalid(values) == [_python(value) for value in values]


@pytest.mark.parametrize("padding", [0, 3, 8, 31, 40])
def test_every_short_sequence_of_boundary_bytes(padding):
    edges = bytes([0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF])
    edges += bytes([0xF0, 0xF1, 0xF4, 0xF5, 0xFF])
    values = [b"a" * padding + bytes(value) for value in itertools.product(edges, repeat=3)]
    values += [b"a" * padding + bytes(value) + b"\x80z" for value in itertools.product(edges, repeat=3)]
    assert _first_invalid(values) == [_python(value) for value in values]


def test_every_code_point_is_valid_and_every_surrogate_is_not():
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    assert _first_invalid(["".join(map(chr, points)).encode()]) == [-1]
    surrogates = [chr(point).encode("utf-8", "surrogatepass") for point in range(0xD800, 0xE000)]
    assert _first_invalid(surrogates) == [0] * len(surrogates)


def test_a_sequence_never_continues_in_the_next_value():
    assert _first_invalid([b"x\xc3", b"\xa9", b"\xf0\x9f", b"\x98\x80"]) == [1, 0, 0, 0]


def test_slices_and_arrays_that_claim_to_be_text():
    offsets = np.array([0, 2, 4, 5], np.int64)
    text = pa.LargeStringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(b"ab\xff\xfeb"))
    assert first_invalid(*text_buffers(text[1:])).tolist() == [0, -1]
    assert first_invalid(*text_buffers(text[:0])).size == 0
