"""Document keys and keyed noise: XXH64 of text, and random numbers that are a pure function of (seed, name, key).

Tamis keeps no random state. A draw for a document depends only on the seed, the name of the step and the document's
key, so that it is the same whatever the order of documents, the cut into shards, the number of workers or retries.

XXH64 follows the public specification of the xxHash family (doc/xxhash_spec.md of Cyan4973/xxHash). Kernels read text
eight bytes at a time in little-endian order, as Arrow stores it on every platform it has wheels for.
"""

from typing import Any

import numba
import numpy as np
import pyarrow as pa
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_U64 = np.uint64


def _load64(typing_context: Any, data: Any, position: Any) -> Any:
    """Eight bytes of a contiguous uint8 array from any position, as a little-endian uint64; kernels only, unchecked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.gep(array.data, [arguments[1]])
        pointer = builder.bitcast(pointer, ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1, typ=ir.IntType(64))

    return types.uint64(data, types.intp), generate


def _store64(typing_context: Any, data: Any, position: Any, value: Any) -> Any:
    """Write a uint64 as eight little-endian bytes at any position of a uint8 array; kernels only, unchecked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.gep(array.data, [arguments[1]])
        pointer = builder.bitcast(pointer, ir.IntType(64).as_pointer())
        builder.store(arguments[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(data, types.intp, types.uint64), generate


def _trailing_zeros(typing_context: Any, value: Any) -> Any:
    """Return the number of zero bits below the lowest set bit of a nonzero uint64; kernels only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


# Typed as Any: type checkers take an intrinsic's typing context for an argument of the caller.
load64: Any = intrinsic(_load64)
store64: Any = intrinsic(_store64)
trailing_zeros: Any = intrinsic(_trailing_zeros)


def text_buffers(text: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets and bytes of a text array, without a copy for 64-bit offsets.

    Args:
        text: string-like or binary-like array of n values without nulls; slices are fine. Types other than
            large_string and large_binary are cast to them first.

    Returns:
        offsets: int64[n + 1], positions in data; the first one is not 0 in a slice.
        data: uint8 bytes; value i is data[offsets[i]:offsets[i + 1]]. Both are read-only and keep the buffers alive.

    Raises:
        TypeError: the array is not text or binary.
        ValueError: the array has nulls.
    """
    text = _as_large(text)
    if text.null_count:
        raise ValueError(f"text has {text.null_count} nulls; replace or drop them first")
    buffers: list[Any] = text.buffers()  # pyarrow's stubs do not say that they are byte buffers
    _, offsets_buffer, data_buffer = buffers
    if len(text) == 0 or offsets_buffer is None:
        offsets = np.zeros(1, np.int64)
    else:
        offsets = np.frombuffer(offsets_buffer, np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.zeros(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return constant(offsets), constant(data)


def constant(array: NDArray[Any]) -> NDArray[Any]:
    """Read-only view of an array: numba compiles a kernel once per mutability, and Arrow buffers are read-only."""
    view = array.view()
    view.flags.writeable = False
    return view


def _as_large(text: pa.Array) -> pa.Array:
    """Cast text to large_string and bytes to large_binary."""
    kind = text.type.value_type if pa.types.is_dictionary(text.type) else text.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        wanted: pa.DataType = pa.large_string()
    elif (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        wanted = pa.large_binary()
    else:
        raise TypeError(f"expected text or bytes, not {text.type}")
    return text if text.type == wanted else text.cast(wanted)


def hash_bytes(offsets: NDArray[np.int64], data: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint64]:
    """XXH64 of each value.

    Args:
        offsets: int64[n + 1], positions in data.
        data: uint8 bytes; value i is data[offsets[i]:offsets[i + 1]].
        seed: XXH64 seed, 0 to 2**64 - 1.

    Returns:
        uint64[n].
    """
    return _hash_values(constant(offsets), constant(data), np.uint64(seed))


def hash_column(column: pa.Array) -> NDArray[np.uint64]:
    """XXH64 of the text of each value; integers count as their decimal digits.

    An id that is 17 in a Parquet file and "17" in a JSONL file therefore has one key.

    Args:
        column: n strings, byte strings or integers, without nulls.

    Returns:
        uint64[n].

    Raises:
        TypeError: the column is neither text, nor bytes, nor integers.
        ValueError: the column has nulls.
    """
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    return hash_bytes(*text_buffers(column))


def keyed_bits(seed: int, name: str, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 random bits per key: a pure function of seed, name and key.

    The key is combined with XXH64("seed:name") and goes through the finaliser of SplitMix64 twice (Steele, Lea and
    Flood 2014, variant 13 of Stafford's constants); for one (seed, name) this is a bijection of the keys.

    Args:
        seed: seed of the run.
        name: name of the step or purpose; another name gives unrelated bits.
        keys: uint64[n], any order.

    Returns:
        uint64[n].
    """
    label = np.frombuffer(f"{seed}:{name}".encode(), np.uint8)
    stream = hash_bytes(np.array([0, len(label)], np.int64), label)
    bits = _mix(np.asarray(keys, np.uint64) ^ stream)
    bits += stream * _P1
    return _mix(bits)


def united(*sets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Unite sets of hashes.

    Args:
        *sets: uint64 arrays, in any order, with or without repetitions.

    Returns:
        uint64[m], sorted, each value once.
    """
    values = np.sort(np.concatenate(sets)) if sets else np.zeros(0, np.uint64)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def keyed_sample(seed: int, name: str, keys: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Bernoulli sample of the keys: all copies of a document are in it or none, and a larger share holds a smaller one.

    Args:
        seed: seed of the run.
        name: name of the purpose.
        keys: uint64[n], any order.
        share: probability of each key; from 1 on all are in.

    Returns:
        bool[n].
    """
    if share >= 1:
        return np.ones(len(keys), dtype=bool)
    return keyed_bits(seed, name, keys) < _U64(int(share * 2**64))


def keyed_uniform(seed: int, name: str, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One uniform number per key, strictly between 0 and 1: (b + 1/2) / 2**52 with the upper 52 bits b of `keyed_bits`.

    52 bits and not 53, since 2**53 - 1/2 is no float64: it would round up and give exactly 1.

    Args:
        seed: seed of the run.
        name: name of the step or purpose.
        keys: uint64[n].

    Returns:
        float64[n].
    """
    return ((keyed_bits(seed, name, keys) >> _U64(12)).astype(np.float64) + 0.5) * 2.0**-52


def keyed_gumbel(seed: int, name: str, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One standard Gumbel number per key, -ln(-ln u): mean 0.5772, variance pi**2 / 6.

    Args:
        seed: seed of the run.
        name: name of the step or purpose.
        keys: uint64[n].

    Returns:
        float64[n], all finite.
    """
    return -np.log(-np.log(keyed_uniform(seed, name, keys)))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 finaliser."""
    bits = (bits ^ (bits >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> _U64(27))) * _U64(0x94D049BB133111EB)
    return bits ^ (bits >> _U64(31))


@numba.njit(nogil=True, cache=True)
def _rotate(value: Any, bits: Any) -> Any:
    return (value << _U64(bits)) | (value >> _U64(64 - bits))


@numba.njit(nogil=True, cache=True)
def _round(lane: Any, block: Any) -> Any:
    return _rotate(lane + block * _P2, 31) * _P1


@numba.njit(nogil=True, cache=True)
def _stripes(data: Any, position: Any, end: Any, seed: Any) -> Any:
    """Four accumulators over whole 32-byte stripes, folded into one."""
    a, b, c, d = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
    while position + 32 <= end:
        a = _round(a, load64(data, position))
        b = _round(b, load64(data, position + 8))
        c = _round(c, load64(data, position + 16))
        d = _round(d, load64(data, position + 24))
        position += 32
    result = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
    for lane in (a, b, c, d):
        result = (result ^ _round(_U64(0), lane)) * _P1 + _P4
    return result


@numba.njit(nogil=True, cache=True)
def _xxh64(data: Any, position: Any, end: Any, seed: Any) -> Any:
    """XXH64 of data[position:end]."""
    length = end - position
    result = seed + _P5
    if length >= 32:
        result = _stripes(data, position, end, seed)
        position += length // 32 * 32
    result += _U64(length)
    while position + 8 <= end:
        result = _rotate(result ^ _round(_U64(0), load64(data, position)), 27) * _P1 + _P4
        position += 8
    if position + 4 <= end:
        block = _U64(0)
        for i in range(4):
            block |= _U64(data[position + i]) << _U64(8 * i)
        result = _rotate(result ^ (block * _P1), 23) * _P2 + _P3
        position += 4
    while position < end:
        result = _rotate(result ^ (_U64(data[position]) * _P5), 11) * _P1
        position += 1
    result = (result ^ (result >> _U64(33))) * _P2
    result = (result ^ (result >> _U64(29))) * _P3
    return result ^ (result >> _U64(32))


@numba.njit(nogil=True, cache=True)
def _hash_values(offsets: Any, data: Any, seed: Any) -> Any:
    result = np.empty(offsets.size - 1, np.uint64)
    for i in range(result.size):
        result[i] = _xxh64(data, offsets[i], offsets[i + 1], seed)
    return result
