import hashlib

import numba
import numpy as np
import pytest
from tamis.scoring.sha256 import sha256_remainder


@numba.njit
def _remainder_and_digest(message, length, modulus, state):
    return sha256_remainder(message, length, modulus, state, np.empty(64, np.uint32))


@pytest.mark.parametrize("modulus", [1, 2, 3, 10_000, 50_000, 2**31 - 1, 2**31])
def test_digest_and_remainder_are_those_of_hashlib(modulus):
    random = np.random.default_rng(modulus)
    for length in range(200):
        value = random.bytes(length)
        message = np.full(length + 72, 0xAA, np.uint8)
        message[:length] = np.frombuffer(value, np.uint8)
        state = np.empty(8, np.uint32)
        remainder = _remainder_and_digest(message, length, modulus, state)
        digest = hashlib.sha256(value).digest()
        assert state.astype(">u4").tobytes() == digest
        assert remainder == int.from_bytes(digest, "big") % modulus
