"""Hooks on the linear layers of a causal language model, and what gathers projected gradients through them.

A layer's hook shows what it reads, and the derivatives of the loss by what it gives, to the calling thread's recorder.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..connectors.errors import TamisError
from .gradient_projection import LayerProjection, Side
from .linear_layers import is_linear

if TYPE_CHECKING:
    import torch

_of_thread = threading.local()


class Recorder(ABC):
    """Is shown the layers of one batch: of b windows, each padded to l tokens."""

    def __init__(self, names: set[str], shape: tuple[int, int]) -> None:
        self.names, self.shape = names, shape
        self.seen: set[str] = set()

    def forward(self, name: str, read: torch.Tensor, given: torch.Tensor) -> None:
        """Note what a layer reads, and ask for the derivatives by what it gives; both [b, l, ...]."""
        if name not in self.names:
            return
        if read.shape[:-1] != self.shape:
            raise TamisError(f"layers: `{name}` does not read every token once; name other layers")
        inputs = self.prepared(name, read.detach())
        if not given.requires_grad:
            given.requires_grad_()

        def backward(slope: torch.Tensor) -> None:
            self.add(name, inputs, slope)
            self.seen.add(name)

        given.register_hook(backward)

    @abstractmethod
    def prepared(self, name: str, read: torch.Tensor) -> torch.Tensor:
        """Return what is kept of a layer's inputs [b, l, n] until the derivatives come."""

    @abstractmethod
    def add(self, name: str, inputs: torch.Tensor, slope: torch.Tensor) -> None:
        """Add a layer. inputs: of `prepared`; slope: derivatives [b, l, m]; both are 0 or without effect at padding."""


class GradientRecorder(Recorder):
    """Gathers projected gradients: features, float32[b, d]."""

    def __init__(
        self, layers: dict[str, DeviceProjection], shape: tuple[int, int], dimension: int, device: torch.device
    ) -> None:
        import torch

        super().__init__(set(layers), shape)
        self.layers = layers
        self.features = torch.zeros((shape[0], dimension), device=device)

    def prepared(self, name: str, read: torch.Tensor) -> torch.Tensor:
        """Project them."""
        return self.layers[name].inputs.applied(read)

    def add(self, name: str, inputs: torch.Tensor, slope: torch.Tensor) -> None:
        """Multiply both sides for each window. Padding has no derivative: nothing that is predicted sees it."""
        self._add(name, inputs, self.layers[name].outputs.applied(slope))

    def add_rows(self, name: str, read: torch.Tensor, slope: torch.Tensor, rows: torch.Tensor) -> None:
        """Add a layer that only some tokens go through.

        read: [m, ...]; slope: [m, ...], projected already; rows: int64[m], which of the b x l tokens.
        """
        inputs = self.layers[name].inputs.applied(read)
        padded = [
            values.new_zeros((self.shape[0] * self.shape[1], values.shape[1])).index_copy_(0, rows, values)
            for values in (inputs, slope)
        ]
        self._add(name, *(values.unflatten(0, self.shape) for values in padded))
        self.seen.add(name)

    def _add(self, name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        layer = self.layers[name]
        self.features[:, layer.block] += layer.reduced(outputs.transpose(1, 2) @ inputs)


@dataclass(frozen=True)
class _DeviceSide:
    matrix: torch.Tensor | None
    rows: Any
    scale: float

    def applied(self, values: torch.Tensor) -> torch.Tensor:
        """Project the last axis, in float32."""
        if self.matrix is not None:
            return (values @ self.matrix.to(values.dtype)).float()
        return values[..., self.rows].float() * self.scale


@dataclass(frozen=True)
class DeviceProjection:
    """A layer's projection on a device. block: where its numbers are among those of all layers."""

    inputs: _DeviceSide
    outputs: _DeviceSide
    block: slice
    order: torch.Tensor | None
    signs: torch.Tensor | None

    def reduced(self, product: torch.Tensor) -> torch.Tensor:
        """Add up the numbers of products [b, outputs, inputs] as the projection says: [b, size]."""
        import torch

        flat = product.flatten(1)
        if self.order is None or self.signs is None:
            return flat
        padded = torch.nn.functional.pad(flat, (0, 1))
        return torch.einsum("bsg,sg->bs", padded[:, self.order], self.signs)


def on_device(projection: LayerProjection, begin: int, device: torch.device) -> DeviceProjection:
    """Return a projection as tensors. begin: of its numbers among those of all layers."""
    import torch

    def tensor(array: NDArray[Any] | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(array).to(device)

    def side(given: Side) -> _DeviceSide:
        rows = slice(None) if given.chosen is None else tensor(given.chosen)
        return _DeviceSide(tensor(given.matrix), rows, given.scale)

    block = slice(begin, begin + projection.size)
    sides = side(projection.inputs), side(projection.outputs)
    return DeviceProjection(*sides, block, tensor(projection.order), tensor(projection.signs))


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Show the calling thread's forward passes to a recorder."""
    _of_thread.recorder = recorder
    try:
        yield
    finally:
        _of_thread.recorder = None


_hooking = threading.Lock()


def hook_once(module: Any) -> None:
    """Let the linear layers of a model tell the calling thread's recorder, where there is one, what they read."""
    with _hooking:
        if getattr(module, "_tamis_hooked", False):
            return
        head = module.get_output_embeddings()
        for name, layer in module.named_modules():
            if is_linear(layer) and layer is not head:
                layer.register_forward_hook(_hook_of(name))
        module._tamis_hooked = True


def _hook_of(name: str) -> Any:
    def hook(layer: Any, read: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
        recorder = getattr(_of_thread, "recorder", None)
        if recorder is not None:
            recorder.forward(name, read[0], given)

    return hook
