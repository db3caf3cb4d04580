"""Vectors in bytes come back within half a step, and a column of them is read like one of float16."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.scoring.quantised_vectors import GROUP, quantised, restored
from tamis.scoring.vectors import QUANTISED, vector_column, vectors_of


@settings(deadline=None)  # compiles
@given(st.integers(0, 5), st.integers(1, 200), st.integers(0, 2**32 - 1), st.floats(-6, 4.5))
def test_a_number_changes_by_half_a_step_of_its_group(n: int, d: int, seed: int, magnitude: float) -> None:
    random = np.random.default_rng(seed)
    rows = (random.standard_t(3, (n, d)) * 10**magnitude).clip(-65504, 65504).astype(np.float32)
    stored = quantised(rows)
    assert stored.shape == (n, d + 2 * -(-d // GROUP))
    found = restored(stored).astype(np.float64)
    assert found.shape == rows.shape and np.isfinite(found).all()
    for begin in range(0, d, GROUP):
        part = rows[:, begin : begin + GROUP].astype(np.float64)
        largest = np.abs(part).max(axis=1, initial=0, keepdims=True)
        step = largest / 127 * (1 + 2**-10) + 2**-24
        allowed = step / 2 + largest * 2**-9 + 2**-24  # the largest is cut, and float16 rounds
        assert (np.abs(found[:, begin : begin + GROUP] - part) <= allowed).all()


def test_products_of_codes_and_scales_are_rounded_as_numpy_does() -> None:
    codes = np.tile(np.arange(-127, 128, dtype=np.int8), (4, 1))
    scales = np.array([[1.0], [1e-7], [0.0071], [511.0]], np.float16)
    stored = np.concatenate([codes, np.repeat(scales, 4, axis=1).view(np.int8)], axis=1)
    expected = (codes.astype(np.float32) * scales.astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(restored(stored), expected)


def test_a_layer_with_small_numbers_keeps_its_precision() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(20, 4 * GROUP)).astype(np.float32)
    rows[:, : 2 * GROUP] *= 1000
    small = restored(quantised(rows))[:, 2 * GROUP :].astype(np.float64)
    np.testing.assert_allclose(small, rows[:, 2 * GROUP :], atol=0.02)


def test_columns_in_bytes_are_read_as_float16() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
    there = np.array([True, False, True, True, False])
    column = vector_column(quantised(rows), there)
    assert column.type == QUANTISED
    found, has = vectors_of(pa.chunked_array([column[:2], column[2:]]))
    np.testing.assert_array_equal(has, there)
    np.testing.assert_array_equal(found, restored(quantised(rows))[there])
    with pytest.raises(ValueError, match="differ in length"):
        vectors_of(pa.array([[1, 2], [1]], QUANTISED))
