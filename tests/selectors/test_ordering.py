import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tamis.selectors.ordering import ascending, descending, inverse

SPECIAL = [0.0, -0.0, np.inf, -np.inf, 5e-324, -5e-324, np.finfo(float).max, np.finfo(float).min, 2.2e-308, 1.0]
FLOATS = st.one_of(st.floats(allow_nan=False, width=64), st.sampled_from(SPECIAL))


@given(FLOATS, FLOATS)
def test_images_have_the_order_of_the_values(a: float, b: float) -> None:
    low, high = ascending(np.array([a, b]))
    assert (low < high) == (a < b)
    assert (low == high) == (a == b)
    first, second = descending(np.array([a, b]))
    assert (first < second) == (a > b)
    assert (first == second) == (a == b)


def test_special_values_sort_where_they_belong() -> None:
    values = np.array([-np.inf, -1.0, -5e-324, 0.0, 5e-324, 2.2e-308, 1.0, np.inf])
    assert (np.diff(ascending(values).astype(object)) > 0).all()
    assert ascending(np.array([-0.0]))[0] == ascending(np.array([0.0]))[0]


@given(st.lists(FLOATS, max_size=20))
def test_inverse_gives_the_value_back(values: list[float]) -> None:
    array = np.array(values, np.float64)
    np.testing.assert_array_equal(inverse(ascending(array)), array)
    np.testing.assert_array_equal(inverse(~descending(array)), array)


def test_nan_is_refused_and_the_input_is_not_changed() -> None:
    values = np.array([-0.0, -2.0, 3.0])
    ascending(values)
    assert np.signbit(values).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="NaN"):
        ascending(np.array([1.0, np.nan]))


def test_integers_that_no_score_has_come_back_as_nan() -> None:
    assert np.isnan(inverse(np.array([0, 2**64 - 1], np.uint64))).all()
