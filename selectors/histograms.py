"""Integer histograms over (group, bin), dense or sparse, that merge exactly: the summaries of a radix-select pass."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Arrays = dict[str, NDArray]


def histogram(flat: Int64, measure: Int64 | None, shape: tuple[int, int]) -> Arrays:
    """Count rows, and add up their measure, per bin.

    Args:
        flat: flat index (group * bins + bin) of each row, int64[n]; a negative one is left out.
        measure: int64[n] to be added up beside the counts, or None.
        shape: (groups, bins).

    Returns:
        A histogram in the smaller form, see `merge`. A shard of few rows never allocates the dense form.
    """
    groups, bins = shape
    if flat.size * 16 >= groups * bins:
        total = dense({}, shape, measure is not None)
        _count(flat, total["counts"].reshape(-1))
        if measure is not None:
            _add(flat, measure, total["measure"].reshape(-1))
        return _smaller(total)
    rows = np.flatnonzero(flat >= 0)
    rows = rows[np.argsort(flat[rows], kind="stable")]
    columns = {"bins": flat[rows], "counts": np.ones(rows.size, np.int64)}
    if measure is not None:
        columns["measure"] = measure[rows]
    return _smaller(_sum_runs(columns) | {"shape": np.array(shape, np.int64)})


def merge(*parts: Arrays) -> Arrays:
    """Merge what `RadixSelect.observe` gave for several shards; associative, and commutative up to the order of rows.

    Histograms come in two forms: dense {counts, measure: int64[groups, bins]}, or, where that is smaller, sparse
    {bins: int64[m] ascending flat indices, counts, measure: int64[m], shape: int64[2]}; `measure` only if weighted.
    Gathered rows are {group, rank, key, position, measure}. Merging adds histograms of either form and concatenates
    rows. `{}` is neutral: it is the empty accumulator.

    Args:
        *parts: results of one pass. Only the first is ever written to: a dense accumulator is added to in place.

    Returns:
        The merged arrays; a histogram never takes more than its dense form.
    """
    filled = [part for part in parts if part]
    if not filled:
        return {}
    if "group" in filled[0]:
        return {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}
    if all("bins" in part for part in filled):
        joined = {name: np.concatenate([part[name] for part in filled]) for name in filled[0] if name != "shape"}
        order = np.argsort(joined["bins"], kind="stable")  # sorted runs merge in nearly linear time
        columns = {name: column[order] for name, column in joined.items()}
        return _smaller(_sum_runs(columns) | {"shape": filled[0]["shape"]})
    if parts[0] and "bins" not in parts[0] and all(column.flags.writeable for column in parts[0].values()):
        total, filled = parts[0], filled[1:]
    else:
        total = dense({}, _shape(filled[0]), "measure" in filled[0])
    for part in filled:
        _add_part(total, part)
    return total


def dense(part: Arrays, shape: tuple[int, int], weighted: bool) -> Arrays:
    """Give a histogram in its dense form.

    Args:
        part: a histogram of either form, or `{}` for an empty one; not changed, but a dense one is not copied.
        shape: (groups, bins).
        weighted: whether an empty histogram has a `measure`.

    Returns:
        {counts: int64[groups, bins], measure: int64[groups, bins] if weighted}.

    Raises:
        ValueError: the histogram has another shape.
    """
    if part and _shape(part) != shape:
        raise ValueError(f"a histogram of {_shape(part)} groups and bins, where {shape} were asked for")
    if part and "bins" not in part:
        return part
    total = {name: np.zeros(shape, np.int64) for name in (("counts", "measure") if weighted else ("counts",))}
    if part:
        _add_part(total, part)
    return total


def _shape(part: Arrays) -> tuple[int, int]:
    groups, bins = part["shape"].tolist() if "bins" in part else part["counts"].shape
    return groups, bins


def _add_part(total: Arrays, part: Arrays) -> None:
    for name, column in total.items():
        if "bins" in part:
            column.reshape(-1)[part["bins"]] += part[name]  # sparse bins are distinct
        else:
            column += part[name]


def _sum_runs(columns: Arrays) -> Arrays:
    """Add up the rows of equal bin; rows are sorted by bin."""
    bins = columns["bins"]
    if not bins.size:
        return columns
    starts = np.flatnonzero(np.concatenate([[True], bins[1:] != bins[:-1]]))
    sums = {name: np.add.reduceat(column, starts) for name, column in columns.items() if name != "bins"}
    return {"bins": bins[starts]} | sums


def _smaller(part: Arrays) -> Arrays:
    """Change the form if the other one is smaller."""
    groups, bins = _shape(part)
    columns = 2 if "measure" in part else 1
    filled = part["bins"].size if "bins" in part else np.count_nonzero(part["counts"])
    if filled * (columns + 1) >= groups * bins * columns:
        return dense(part, (groups, bins), columns == 2)
    if "bins" in part:
        return part
    flat = np.flatnonzero(part["counts"])
    sums = {name: column.reshape(-1)[flat] for name, column in part.items()}
    return {"bins": flat} | sums | {"shape": np.array([groups, bins], np.int64)}


@njit(nogil=True, cache=True)
def _count(flat: Int64, counts: Int64) -> None:
    for i in range(flat.size):
        if flat[i] >= 0:
            counts[flat[i]] += 1


@njit(nogil=True, cache=True)
def _add(flat: Int64, measure: Int64, sums: Int64) -> None:
    for i in range(flat.size):
        if flat[i] >= 0:
            sums[flat[i]] += measure[i]
