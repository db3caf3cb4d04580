"""The scalars of distributionally robust weights: one-dimensional solves from losses with counts.

Losses are those of a batch, or, over a corpus, a histogram of (count, Σ loss) per bin, which merges by addition: the
value of a bin is then the mean of its losses, and documents are weighed by the value of their bin or by their own loss.
Bins of width h change a KL weight by a factor of at most exp(h / λ). What is exact without a histogram is said at each
function. Solves are in float64 on the CPU, whatever the losses are; a batch of m costs a few hundred passes over m.

Source of all: Namkoong and Duchi 2016; Levy et al. 2020, Large-Scale Methods for DRO, with the edge cases of its code.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .array_namespace import Array, on_host

Float64 = NDArray[np.float64]

_COLDEST = 800.0  # exp(-800) is zero


class CvarCut(NamedTuple):
    """Where CVaR cuts: weight 1 above `threshold`, `share` at it, 0 below."""

    threshold: float
    share: float


class _Points(NamedTuple):
    """Distinct losses, ascending, and the number of each; `value` is (loss - highest) / width, from -1 to 0."""

    loss: Float64
    value: Float64
    number: Float64
    highest: float
    width: float

    @property
    def n(self) -> float:
        return float(self.number.sum())


def kl_ball_temperature(loss: Array, radius: float, counts: Array | None = None) -> float:
    """Find the temperature λ at which exp(loss / λ) has the divergence KL(p || uniform) = radius.

    The weights are `tilt(loss, highest, λ)`. For a KL penalty λ is given, and only the largest loss and the sum needed.

    Args:
        loss: losses or values of bins, [n], finite.
        radius: at least 0, in nats.
        counts: documents of each value, [n]; None: one each.

    Returns:
        λ > 0, in the units of the loss; inf (equal weights) for a radius of 0 or equal losses; 0 (all to the largest,
        ties sharing) where radius >= log(n / ties): the ball then holds even that.

    Raises:
        ValueError: the radius is negative or NaN, a loss is not finite, or nothing was counted.
    """
    points = _points(loss, counts)
    _check(radius >= 0, f"a radius is at least 0, not {radius}")
    if radius == 0 or points.value.size == 1:
        return math.inf
    if radius >= math.log(points.n / points.number[-1]):
        return 0.0
    cold, hot = math.log(-points.value[-2] / _COLDEST), 0.0
    while hot < 50 and _divergence(points, math.exp(hot)) > radius:
        hot += 1.0
    log_temperature = _bisect(lambda x: _divergence(points, math.exp(x)) > radius, cold, hot)
    return points.width * math.exp(log_temperature)


def cvar_cut(loss: Array, alpha: float, counts: Array | None = None) -> CvarCut:
    """Find where the worst share of the losses begin: the conditional value at risk.

    Exact over a corpus with the boundary of a radix select and the number of losses above it and equal to it.

    Args:
        loss: losses or values of bins, [n], finite.
        alpha: share, above 0 to 1; 1 gives equal weights.
        counts: documents of each value, [n]; None: one each.

    Returns:
        The threshold, and the share of a whole weight for losses equal to it. Ties share the remainder alike, so the
        order of rows does not matter.

    Raises:
        ValueError: alpha is not above 0 and at most 1, a loss is not finite, or nothing was counted.
    """
    _check(0 < alpha <= 1, f"alpha is above 0 and at most 1, not {alpha}")
    points = _points(loss, counts)
    count = points.number[::-1]
    upto = np.cumsum(count)
    wanted = alpha * points.n
    at = min(int(np.searchsorted(upto, wanted)), count.size - 1)
    share = min((wanted - (upto[at] - count[at])) / count[at], 1.0)
    return CvarCut(float(points.loss[-1 - at]), float(share))


def kl_cvar_threshold(loss: Array, alpha: float, temperature: float, counts: Array | None = None) -> float:
    """Find η at which the weights min(exp((loss - η) / λ), 1 / alpha) have mean one: CVaR with a KL penalty.

    Args:
        loss: losses or values of bins, [n], finite.
        alpha: above 0 to 1: no document weighs more than 1 / alpha.
        temperature: λ, finite and above 0; towards 0 this is CVaR, towards infinity equal weights.
        counts: documents of each value, [n]; None: one each.

    Returns:
        η in the units of the loss.

    Raises:
        ValueError: alpha or the temperature is out of range, a loss is not finite, or nothing was counted.
    """
    _check(0 < alpha <= 1, f"alpha is above 0 and at most 1, not {alpha}")
    _check(0 < temperature < math.inf, f"the temperature is finite and above 0, not {temperature}")
    points = _points(loss, counts)
    below = (points.value * points.width) / temperature  # from the largest loss, <= 0

    def too_heavy(eta: float) -> bool:
        capped = np.exp(np.minimum(below - eta + math.log(alpha), 0.0))
        return float(points.number @ capped) > alpha * points.n

    lowest = float(below[0]) + math.log(alpha)  # there all are capped
    return points.highest + temperature * _bisect(too_heavy, lowest, 0.0)


def chi2_penalty_threshold(loss: Array, strength: float, counts: Array | None = None) -> float:
    """Find η at which the weights (loss - η)₊ / λ have mean one: the worst case under a χ² penalty λ/2 · mean((w-1)²).

    Exact from (n, Σ loss) alone where no loss is below the result: it is then mean - λ.

    Args:
        loss: losses or values of bins, [n], finite.
        strength: λ > 0 and finite, in the units of the loss.
        counts: documents of each value, [n]; None: one each.

    Returns:
        η, below the largest loss.

    Raises:
        ValueError: the strength is out of range, a loss is not finite, or nothing was counted.
    """
    _check(0 < strength < math.inf, f"the penalty is finite and above 0, not {strength}")
    points = _points(loss, counts)
    below, count = (points.value * points.width)[::-1], points.number[::-1]
    # the line of every prefix lies under the convex sum of the hinges, so the root is the largest of theirs
    roots = (np.cumsum(count * below) - strength * points.n) / np.cumsum(count)
    return points.highest + float(roots.max())


def chi2_ball_threshold(loss: Array, radius: float, counts: Array | None = None) -> float:
    """Find η at which weights w proportional to (loss - η)₊ have ½ mean((w - 1)²) = radius, w of mean one.

    Where no loss is below the result it is mean - std / sqrt(2 radius), which is exact from (n, mean, M2).

    Args:
        loss: losses or values of bins, [n], finite.
        radius: at least 0.
        counts: documents of each value, [n]; None: one each.

    Returns:
        η; -inf (equal weights) for a radius of 0 or equal losses. Where the ball can hold all weight on the ties of
        the largest, n / ties <= 1 + 2 radius, the next largest loss, which gives them all.

    Raises:
        ValueError: the radius is negative or NaN, a loss is not finite, or nothing was counted.
    """
    _check(radius >= 0, f"a radius is at least 0, not {radius}")
    points = _points(loss, counts)
    value, count, n = points.value, points.number, points.n
    if radius == 0 or value.size == 1:
        return -math.inf
    wanted = 1 + 2 * radius
    if n <= wanted * count[-1]:
        return float(points.loss[-2])
    mean = float(count @ value) / n
    eta = mean - math.sqrt(float(count @ (value - mean) ** 2) / n / (2 * radius))
    if eta > value[0]:

        def too_even(trial: float) -> bool:
            hinge = np.maximum(value - trial, 0.0)
            return n * float(count @ hinge**2) < wanted * float(count @ hinge) ** 2

        eta = _bisect(too_even, float(value[0]), float(value[-2]))
    return points.highest + points.width * eta


def _points(loss: Array, counts: Array | None) -> _Points:
    values = on_host(loss).reshape(-1)
    number = np.ones(values.size) if counts is None else on_host(counts).reshape(-1)
    _check(number.size == values.size and bool((number >= 0).all()), "each loss needs a count of at least 0")
    values, number = values[number > 0], number[number > 0]
    _check(values.size > 0, "no loss was counted")
    _check(bool(np.isfinite(values).all()), "a loss is not finite")
    distinct, place = np.unique(values, return_inverse=True)
    highest, width = float(distinct[-1]), float(distinct[-1] - distinct[0]) or 1.0
    return _Points(
        distinct, (distinct - highest) / width, np.bincount(place, number).astype(np.float64), highest, width
    )


def _divergence(points: _Points, temperature: float) -> float:
    """Compute KL(p || uniform) of p proportional to exp(value / temperature)."""
    exponent = points.value / temperature
    share = points.number * np.exp(exponent)
    log_mean = math.log(share.sum() / points.n) if exponent[0] < -1 else math.log1p(_mean_expm1(points, exponent))
    return float(share @ exponent) / float(share.sum()) - log_mean


def _mean_expm1(points: _Points, exponent: Float64) -> float:
    return float(points.number @ np.expm1(exponent)) / points.n


def _bisect(is_low: Callable[[float], bool], low: float, high: float) -> float:
    """Find where a predicate turns from true to false, to the last bit."""
    for _ in range(2000):
        middle = low + (high - low) / 2
        if not low < middle < high:
            break
        if is_low(middle):
            low = middle
        else:
            high = middle
    return high


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
