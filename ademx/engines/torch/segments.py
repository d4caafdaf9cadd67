"""Segments of a network and their vector-Jacobian products by PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ademx.convert import split, to_torch
from ademx.convert.torch_model import module_name, to_module
from ademx.devices import Devices
from ademx.engines.torch.predict import set_up, torch_devices
from ademx.networks.unravel import Array, Engine, Segment
from symbols.layers import Layer


class TorchSegments(Engine):
    """The engine of PyTorch, in float32.

    Args:
        layers: of the network, the softmax last.
        parameters: released name -> array.
        devices: where to compute: the first.

    Attributes:
        network: in evaluation mode, without gradients of its parameters.
    """

    def __init__(
        self, layers: Sequence[Layer], parameters: Mapping[str, npt.NDArray], *, devices: Devices
    ) -> None:
        set_up("float32")
        (self._device, *_) = torch_devices(devices)
        self.network = to_module(layers, norm=nn.BatchNorm2d).eval().requires_grad_(False)
        self.network.load_state_dict(to_torch(*split(dict(parameters)), "native"))
        self.network.to(self._device)
        for module in self.network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # it may read the input of a segment

    def _forward(self, segment: Segment, data: Array, output: str) -> Array:
        with torch.inference_mode():
            return self._output(segment, self._tensor(data), output).cpu().numpy()

    def _pull(
        self, segment: Segment, data: Array, gradients: Iterable[Array], output: str
    ) -> Iterator[Array]:
        variable = self._tensor(data).requires_grad_()
        result = self._output(segment, variable, output)
        for gradient in gradients:
            (pulled,) = torch.autograd.grad(
                result, variable, self._tensor(gradient), retain_graph=True
            )
            yield pulled.cpu().numpy()

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _output(self, segment: Segment, data: Tensor, output: str) -> Tensor:
        values = {segment.data: data}
        for layer in segment.layers_of(output):
            module = self.network.get_submodule(module_name(layer))
            values[layer.name] = module(*[values[name] for name in layer.inputs])
        return values[output]
