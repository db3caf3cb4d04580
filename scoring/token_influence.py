"""Influence of single tokens of a document: what training on each token's loss alone would do.

A document's gradient is the sum of its tokens' loss gradients, so that its inner product with a query is the sum of
theirs. That of each token is the derivative of its loss along the query, taken back from the projection to the
weights; derivatives of all tokens along one direction take one forward pass (Pearlmutter 1994, forward mode).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import TamisError, one_line
from .causal_model import CausalModel
from .gradient_projection import LayerProjection
from .linear_layers import HEAD
from .loss_gradient import loss_gradient
from .token_batches import one_library_thread
from .token_sequences import TokenSequences
from .windows import WindowBatch, Windows, gather_batch, rows_within

if TYPE_CHECKING:
    import torch

Float32 = NDArray[np.float32]


def weight_direction(projection: LayerProjection, query: Float32) -> Float32:
    """Return the change of a layer's weight that a query stands for: the projection's transpose.

    Args:
        projection: of gradients of the weight.
        query: float32[projection.size].

    Returns:
        float32[outputs, inputs], whose inner product with a gradient is that of the query with its projection.
    """
    shape = projection.outputs.kept, projection.inputs.kept
    if projection.order is None or projection.signs is None:
        product = query.reshape(shape)
    else:
        flat = np.zeros(shape[0] * shape[1] + 1, np.float32)  # the last one is of what is not there
        flat[projection.order] = projection.signs * query[:, None]
        product = flat[:-1].reshape(shape)
    return np.asarray(projection.outputs.as_matrix() @ product @ projection.inputs.as_matrix().T, np.float32)


def token_influences(
    model: CausalModel,
    projections: Mapping[str, LayerProjection],
    query: Float32,
    sequences: TokenSequences,
    windows: Windows,
    batch_tokens: int,
) -> Float32:
    """Return the inner product of each token's projected loss gradient with a query.

    A token counts by its own loss, that of predicting it from those before: the sum over tokens is the product of the
    query with the gradient of the documents' summed losses. (kronfluence shares the gradient out by the place at which
    weights are used instead, also to tokens that only later ones are predicted from.) Holds one more copy of the
    layers' weights.

    Args:
        model: with weights that have no gradient.
        projections: by layer, as `linear_layers` names them.
        query: float32[d], blocks of layers in order.
        sequences: of t tokens in all.
        windows: of these, what is predicted and from what.
        batch_tokens: most tokens in a batch, padding included.

    Returns:
        float32[t], 0 where a token is not predicted.

    Raises:
        TamisError: the model has an operation that has no forward derivative.
    """
    import torch
    from torch.autograd import forward_ad
    from torch.nn.attention import SDPBackend, sdpa_kernel

    directions, begin = {}, 0
    for name, projection in projections.items():
        part = weight_direction(projection, query[begin : begin + projection.size])
        directions[name] = torch.from_numpy(part).to(model.device)
        begin += projection.size
    found = np.zeros(len(sequences.tokens), np.float32)
    longest = int(windows.inputs.max(initial=1))
    rows = rows_within(longest, batch_tokens)
    try:
        # fused attention has no forward derivative
        with torch.no_grad(), one_library_thread(model.device), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            weights = _moving_weights(model.module, directions)
            for first in range(0, len(windows), rows):
                chosen = np.arange(first, min(first + rows, len(windows)))
                batch = gather_batch(sequences.tokens, sequences.offsets, windows, chosen)
                found[batch.positions] = _of_batch(model, weights, directions.get(HEAD), batch)
    except NotImplementedError as error:
        raise TamisError(f"this model cannot be differentiated forwards: {one_line(error)}") from error
    return found


def _moving_weights(module: Any, directions: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights of the network below the head, by name there, that move in directions [outputs, inputs]."""
    from torch.autograd import forward_ad

    prefix, moving = f"{module.base_model_prefix}.", {}
    for name, direction in directions.items():
        if name == HEAD:
            continue
        weight = module.get_submodule(name).weight
        tangent = direction if weight.shape == direction.shape and not _is_transposed(module, name) else direction.T
        moving[f"{name.removeprefix(prefix)}.weight"] = forward_ad.make_dual(
            weight, tangent.to(weight.dtype).contiguous()
        )
    return moving


def _is_transposed(module: Any, name: str) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module.get_submodule(name), Conv1D)


def _of_batch(
    model: CausalModel, weights: dict[str, torch.Tensor], of_head: torch.Tensor | None, batch: WindowBatch
) -> Float32:
    """Return the derivatives of a batch's predicted tokens' losses, float32[m]."""
    import torch
    from torch.autograd import forward_ad

    inputs, rows, targets = (torch.from_numpy(a).to(model.device) for a in (batch.inputs, batch.rows, batch.targets))
    arguments = {"input_ids": inputs, "use_cache": False}
    reading = torch.autocast(model.device.type, torch.bfloat16, enabled=model.head.weight.dtype == torch.bfloat16)
    with reading:
        moved = torch.func.functional_call(model.module.base_model, weights, (), arguments).last_hidden_state
    hidden, tangent = forward_ad.unpack_dual(moved)
    states = hidden.flatten(0, 1)[rows].to(model.head.weight.dtype)
    # a state decides about one token alone, so that the sum's gradient by it is that of the token's loss
    slope = loss_gradient(states, targets, model.head, *model.tile, of_head)
    found = torch.zeros(len(rows), device=model.device)
    if tangent is not None:
        found += (slope.hidden.float() * tangent.flatten(0, 1)[rows].float()).sum(1)
    if slope.outputs is not None:
        found += (slope.outputs * states.float()).sum(1)
    return found.cpu().numpy()
