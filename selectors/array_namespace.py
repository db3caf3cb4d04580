"""What the online forms of the weights need to run on NumPy arrays and torch tensors alike, without importing torch."""

import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; what goes in comes out, on the same device."""


def namespace(array: Array) -> Any:
    """Find the library whose functions work on an array.

    Args:
        array: a NumPy array or a torch tensor.

    Returns:
        The module `numpy` or `torch`; the latter is loaded already where there is a tensor.

    Raises:
        TypeError: neither of the two.
    """
    library = type(array).__module__.partition(".")[0]
    if library not in ("numpy", "torch"):
        raise TypeError(f"weights are computed on NumPy arrays and torch tensors, not on {type(array).__name__}")
    return sys.modules[library]


def as_floats(array: Array, detach: bool = True) -> Array:
    """Cast to at least single precision and, as a rule, cut the gradient: a weight is a constant of its training step.

    Args:
        array: of any real dtype. float32 and float64 are kept; halves become float32, since in bfloat16 a probability
            near one is one; integers become float64.
        detach: whether a tensor leaves its graph.

    Returns:
        float32 or float64, not copied where nothing changes.
    """
    xp = namespace(array)
    if xp is not np and detach:
        array = array.detach()
    floating = array.dtype.kind == "f" if xp is np else array.dtype.is_floating_point
    if floating and array.dtype.itemsize >= 4:
        return array
    dtype = xp.float32 if floating else xp.float64
    return array.astype(dtype) if xp is np else array.to(dtype)


def constant(value: Array | float) -> Array | float:
    """Cut the gradient of a normaliser.

    Args:
        value: a number, or a scalar of either library.

    Returns:
        The same without a gradient.
    """
    return value.detach() if hasattr(value, "detach") else value


def on_host(array: Array) -> NDArray[np.float64]:
    """Copy an array to float64 on the CPU, for a solve that is not worth a kernel launch per step.

    Args:
        array: a NumPy array, a torch tensor on any device, or a sequence of numbers.

    Returns:
        float64 of the same shape.
    """
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array, np.float64)


def batch_mean_one(weights: Array, known: Array | None = None) -> Array:
    """Scale the weights of one batch, or of each of its sequences, so that their mean is one.

    Over a corpus that is done by `weighing.Weighing`.

    Args:
        weights: non-negative, the last axis being what the mean is over.
        known: bool of the same shape; what is not known, or labelled, weighs 0 and does not count. None: all count.

    Returns:
        Weights times the number known over their sum; one for each of the known where that sum is zero.
    """
    xp = namespace(weights)
    if known is None:
        known = xp.ones_like(weights, dtype=xp.bool)
    weights = xp.where(known, weights, xp.zeros_like(weights))
    total = weights.sum(-1)[..., None]
    filled = total > 0
    scale = known.sum(-1)[..., None] / xp.where(filled, total, xp.ones_like(total))
    return xp.where(known & ~filled, xp.ones_like(weights), weights * xp.asarray(scale, dtype=weights.dtype))
