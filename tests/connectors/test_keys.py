import math

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.keys import hash_bytes, hash_column, keyed_bits, keyed_gumbel, keyed_uniform, text_buffers

VALUES = [np.random.default_rng(n).bytes(n) for n in range(201)]
KEYS = hash_column(pa.array(range(200_000)))
PINNED = [7194163621644635916, 18327579157051737385, 2873935571410159762]


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_hash_bytes_is_xxh64(seed):
    hashes = hash_bytes(*text_buffers(pa.array(VALUES, pa.large_binary())), seed)
    assert hashes.tolist() == [xxhash.xxh64_intdigest(value, seed) for value in VALUES]


@given(st.lists(st.text(max_size=50), max_size=8), st.data())
@settings(deadline=None)
def test_slices_of_every_text_type_hash_like_their_values(values, data):
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    expected = [xxhash.xxh64_intdigest(value.encode()) for value in values[start:stop]]
    whole = pa.array(values, pa.string())
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
        assert hash_column(whole.cast(kind)[start:stop]).tolist() == expected
    assert hash_column(whole.dictionary_encode()[start:stop]).tolist() == expected


def test_text_buffers_copies_nothing():
    text = pa.array(["ab", "", "çd", "e"], pa.large_string())
    offsets, data = text_buffers(text[1:3])
    assert offsets.tolist() == [2, 2, 5]
    assert bytes(data[offsets[1] : offsets[2]]).decode() == "çd"
    assert data.ctypes.data == text.buffers()[2].address
    assert offsets.ctypes.data == text.buffers()[1].address + 8


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_empty_arrays(kind):
    offsets, data = text_buffers(pa.array([], kind))
    assert offsets.tolist() == [0]
    assert hash_bytes(offsets, data).size == 0
    assert text_buffers(pa.array(["a"]).cast(kind)[1:])[0].size == 1


def test_integer_ids_hash_like_their_digits():
    numbers = [0, 17, -5, 2**63 - 1]
    assert np.array_equal(hash_column(pa.array(numbers)), hash_column(pa.array([str(n) for n in numbers])))
    assert hash_column(pa.array([17], pa.uint8())) == hash_column(pa.array(["17"]))


def test_what_is_no_text_or_null_is_refused():
    with pytest.raises(TypeError, match="double"):
        hash_column(pa.array([1.5]))
    with pytest.raises(ValueError, match="1 nulls"):
        hash_column(pa.array(["a", None]))
    with pytest.raises(ValueError, match="1 nulls"):
        hash_column(pa.array([1, None]))
    assert hash_column(pa.array(["a", None])[:1]).size == 1


def test_keyed_noise_is_a_pure_function_of_seed_name_and_key():
    order = np.random.default_rng(0).permutation(KEYS.size)
    bits = keyed_bits(7, "step", KEYS)
    assert np.array_equal(keyed_bits(7, "step", KEYS[order]), bits[order])
    assert np.array_equal(keyed_bits(7, "step", KEYS[5:6]), bits[5:6])
    # Pinned, since noise that changes between releases silently changes every run.
    assert keyed_bits(0, "resample", np.array([0, 1, 2**64 - 1], np.uint64)).tolist() == PINNED


def test_keyed_bits_are_distinct_and_balanced():
    bits = keyed_bits(0, "step", np.arange(200_000, dtype=np.uint64))
    assert np.unique(bits).size == bits.size
    share = (bits[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).mean(axis=0)
    assert np.abs(share - 0.5).max() < 5 * 0.5 / math.sqrt(bits.size)


@pytest.mark.parametrize("keys", [KEYS, np.arange(200_000, dtype=np.uint64), np.arange(200_000, dtype=np.uint64) << 40])
def test_keyed_uniform_passes_kolmogorov_smirnov_and_chi_square(keys):
    draws = np.sort(keyed_uniform(1, "step", keys.astype(np.uint64)))
    grid = np.arange(draws.size + 1) / draws.size
    distance = max((grid[1:] - draws).max(), (draws - grid[:-1]).max())
    assert distance * math.sqrt(draws.size) < 1.95  # p = 0.001
    observed = np.histogram(draws, 1000, (0, 1))[0]
    chi_square = ((observed - draws.size / 1000) ** 2 / (draws.size / 1000)).sum()
    assert abs(chi_square - 999) < 4 * math.sqrt(2 * 999)


def test_keyed_uniform_is_an_odd_number_of_steps_of_half_a_unit_so_never_0_or_1():
    draws = keyed_uniform(0, "step", KEYS)
    assert np.array_equal(draws * 2.0**53 % 2, np.ones(draws.size))


@pytest.mark.parametrize("other", [(0, "b"), (1, "a"), (2**62, "a"), (-1, "a")])
def test_names_and_seeds_give_unrelated_draws(other):
    first, second = keyed_uniform(0, "a", KEYS), keyed_uniform(*other, KEYS)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(KEYS.size)
    xor = keyed_bits(0, "a", KEYS) ^ keyed_bits(*other, KEYS)
    assert np.unique(xor).size == KEYS.size


def test_neighbouring_keys_give_unrelated_draws():
    draws = keyed_uniform(0, "a", np.arange(200_001, dtype=np.uint64))
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 5 / math.sqrt(draws.size)


def test_keyed_gumbel_has_the_moments_of_a_gumbel_variable():
    draws = keyed_gumbel(3, "step", KEYS)
    assert np.isfinite(draws).all()
    assert abs(draws.mean() - 0.5772156649) < 5 * math.pi / math.sqrt(6 * draws.size)
    assert abs(draws.var() / (math.pi**2 / 6) - 1) < 5 * math.sqrt(4.4 / draws.size)
    assert np.allclose(draws, -np.log(-np.log(keyed_uniform(3, "step", KEYS))), rtol=0, atol=0)
