"""SHA-256 of many short messages inside numba kernels (FIPS 180-4), reduced modulo a small integer."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def _first_primes(count: int) -> list[int]:
    primes: list[int] = []
    candidate = 2
    while len(primes) < count:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return primes


def _root_fraction(number: int, root: int) -> int:
    """First 32 bits of the fractional part of the square or cube root, in exact integer arithmetic."""
    scaled = number << (32 * root)
    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**root <= scaled else (low, middle)
    return low & 0xFFFFFFFF


_INITIAL: NDArray[np.uint32] = np.array([_root_fraction(p, 2) for p in _first_primes(8)], np.uint32)
_ROUNDS: NDArray[np.uint32] = np.array([_root_fraction(p, 3) for p in _first_primes(64)], np.uint32)
_U32 = np.uint32


@numba.njit(nogil=True, cache=True)
def _rotate(value: Any, bits: Any) -> Any:
    return _U32((value >> _U32(bits)) | (value << _U32(32 - bits)))


@numba.njit(nogil=True, cache=True)
def _compress(state: Any, schedule: Any) -> None:
    """One block: schedule[:16] holds its words; schedule[16:] is filled here; state is updated."""
    for i in range(16, 64):
        early, late = schedule[i - 15], schedule[i - 2]
        mixed_early = _rotate(early, 7) ^ _rotate(early, 18) ^ (early >> _U32(3))
        mixed_late = _rotate(late, 17) ^ _rotate(late, 19) ^ (late >> _U32(10))
        schedule[i] = _U32(schedule[i - 16] + mixed_early + schedule[i - 7] + mixed_late)
    a, b, c, d, e, f, g, h = state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
    for i in range(64):
        choice = (e & f) ^ (~e & g)
        first = _U32(h + (_rotate(e, 6) ^ _rotate(e, 11) ^ _rotate(e, 25)) + choice + _ROUNDS[i] + schedule[i])
        majority = (a & b) ^ (a & c) ^ (b & c)
        second = _U32((_rotate(a, 2) ^ _rotate(a, 13) ^ _rotate(a, 22)) + majority)
        a, b, c, d, e, f, g, h = _U32(first + second), a, b, c, _U32(d + first), e, f, g
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e
    state[5] += f
    state[6] += g
    state[7] += h


@numba.njit(nogil=True, cache=True)
def sha256_remainder(message: Any, length: Any, modulus: Any, state: Any, schedule: Any) -> Any:
    """SHA-256 of message[:length] as one 256-bit big-endian integer, modulo `modulus`; called from kernels.

    Args:
        message: uint8 buffer of at least length + 72 bytes; what follows the message is overwritten by its padding.
        length: bytes of the message.
        modulus: 1 to 2**31.
        state, schedule: scratch, uint32[8] and uint32[64]; state holds the digest afterwards.

    Returns:
        int64, 0 to modulus - 1.
    """
    blocks = (length + 72) // 64
    message[length : blocks * 64] = 0
    message[length] = 0x80
    for i in range(8):
        message[blocks * 64 - 1 - i] = (length * 8 >> 8 * i) & 0xFF
    state[:] = _INITIAL
    for block in range(blocks):
        for i in range(16):
            at = block * 64 + 4 * i
            high = _U32(message[at]) << _U32(24) | _U32(message[at + 1]) << _U32(16)
            schedule[i] = _U32(high | _U32(message[at + 2]) << _U32(8) | _U32(message[at + 3]))
        _compress(state, schedule)
    remainder = np.uint64(0)
    for i in range(8):
        remainder = (remainder << np.uint64(32) | np.uint64(state[i])) % np.uint64(modulus)
    return np.int64(remainder)
