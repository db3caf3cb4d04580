"""float16 made wide in kernels: each number there is, with and without an instruction for it."""

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from tamis.scoring import half_floats
from tamis.scoring.half_floats import single
from tamis.scoring.vectors import widened


def all_finite() -> NDArray[np.float16]:
    below_infinity = np.arange(0x7C00, dtype=np.uint16)
    return np.stack([below_infinity, below_infinity | 0x8000]).view(np.float16)


def test_every_number_is_exact() -> None:
    halves = all_finite()
    assert np.array_equal(widened(halves).view(np.uint32), halves.astype(np.float32).view(np.uint32))


def test_every_number_is_exact_on_processors_without_an_instruction_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_floats, "_converts", lambda: False)
    halves = all_finite()[0]
    found = numba.njit(lambda bits: [single(one) for one in bits])(halves.view(np.uint16))
    assert np.array_equal(np.array(found, np.float32), halves.astype(np.float32))


def test_vectors_are_written_into_rows_that_lie_apart() -> None:
    halves, wide = np.array([[1.5, -2], [0.25, 65504]], np.float16), np.zeros((2, 3), np.float32)
    widened(halves, wide[:, :2])
    assert wide.tolist() == [[1.5, -2, 0], [0.25, 65504, 0]]
