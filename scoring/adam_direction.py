"""The step that Adam would make for one document's gradient: what LESS compares instead of the gradient itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import RecipeError, one_line
from .gradient_projection import LayerProjection, Side

BETAS, EPSILON = (0.9, 0.999), 1e-8

Float32 = NDArray[np.float32]


class AdamState(NamedTuple):
    """first, second: moving means of the gradient and of its square, float32[d], at the coordinates of a projection."""

    first: Float32
    second: Float32


def adam_direction(gradients: Float32, scales: Float32, state: AdamState) -> Float32:
    """Return Adam's step for each document alone, at some coordinates.

    m' = 0.9 m + 0.1 g, v' = 0.999 v + 0.001 g², and the step is m' / sqrt(v' + 1e-8). As in the authors' code, and
    unlike their paper and Adam itself, epsilon is inside the root and moments are not corrected for their beginning.

    Source: LESS, Xia et al. 2024 (https://arxiv.org/abs/2402.04333).

    Args:
        gradients: float32[n, d], single coordinates times `scales`.
        scales: float32[d].
        state: of the checkpoint.

    Returns:
        float32[n, d], times `scales` too.
    """
    plain = gradients / scales
    first = BETAS[0] * state.first + (1 - BETAS[0]) * plain
    second = BETAS[1] * state.second + (1 - BETAS[1]) * np.square(plain)
    return (scales * first / np.sqrt(second + EPSILON)).astype(np.float32)


def sign_direction(gradients: Float32, scales: Float32) -> Float32:
    """Return the signs of single coordinates, times their scales: Adam's first step."""
    return np.sign(gradients) * scales


def updated(
    features: Float32, update: str, projections: Callable[[], Mapping[str, LayerProjection]], optimizer: str | None
) -> Float32:
    """Return the step for each document that `update` asks for, of its gradient at coordinates.

    Args:
        features: float32[n, d].
        update: `sgd`, `sign` or `adam`.
        projections: makes those that the gradients are under, by layer; not asked for with `sgd`.
        optimizer: of `adam`, file with its state.
    """
    if update == "sgd":
        return features
    layers = projections()
    scales = coordinate_scales(layers)
    if update == "sign":
        return sign_direction(features, scales)
    assert optimizer is not None
    return adam_direction(features, scales, load_adam_state(optimizer, layers))


def coordinate_scales(projections: Mapping[str, LayerProjection]) -> Float32:
    """Return what each coordinate is multiplied by, float32[d]."""
    parts = [np.full(one.size, one.inputs.scale * one.outputs.scale) for one in projections.values()]
    return np.concatenate(parts).astype(np.float32)


def optimizer_digest(path: str) -> str:
    """Return the SHA-256 of a file; raises RecipeError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"optimizer: {path} cannot be read: {one_line(error)}") from error


def load_adam_state(path: str, projections: Mapping[str, LayerProjection]) -> AdamState:
    """Read the state at the coordinates of projections, and nothing else of it into memory.

    Args:
        path: safetensors file with the tensors `exp_avg.NAME.weight` and `exp_avg_sq.NAME.weight` of each layer.
        projections: by layer, to coordinates.

    Raises:
        RecipeError: the file cannot be read, or lacks a layer, or has it in another shape.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, list[Float32]] = {"exp_avg": [], "exp_avg_sq": []}
    try:
        with safe_open(path, framework="np") as file:
            for (name, projection), moment in ((item, moment) for item in projections.items() for moment in found):
                weight = file.get_tensor(f"{moment}.{name}.weight")
                wanted = (projection.outputs.size, projection.inputs.size)
                if weight.shape not in (wanted, wanted[::-1]):
                    raise RecipeError(f"optimizer: {path} has `{name}` in the shape {weight.shape}, not {wanted}")
                matrix = weight if weight.shape == wanted else weight.T  # that of GPT-2 is transposed
                found[moment].append(matrix[_rows(projection.outputs)][:, _rows(projection.inputs)].ravel())
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"optimizer: {path} cannot be used: {one_line(error)}") from error
    first, second = (np.concatenate(parts).astype(np.float32) for parts in found.values())
    return AdamState(first, second)


def _rows(side: Side) -> NDArray[np.int64]:
    return np.arange(side.size) if side.chosen is None else side.chosen
