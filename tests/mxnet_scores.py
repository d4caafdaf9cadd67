"""What MXNet computes of weights, by a plain bind of the graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import ademx
from ademx.compat import import_mxnet


def scores_of(
    label: str, values: Mapping[str, np.ndarray], images: np.ndarray, **choices: object
) -> np.ndarray:
    """Return the scores of 1000 classes, before the softmax.

    Args:
        label: of the network.
        values: its parameters and statistics.
        images: (N, 3, H, W) float32.
        choices: of :func:`ademx.build_symbol`.
    """
    mx = import_mxnet()
    scores = ademx.build_symbol(label, **choices).get_internals()["linear1000_output"]
    arrays = {name: mx.nd.array(value) for name, value in {**values, "data": images}.items()}
    executor = scores.bind(
        mx.cpu(),
        {name: arrays[name] for name in scores.list_arguments()},
        aux_states={name: arrays[name] for name in scores.list_auxiliary_states()},
        grad_req="null",
    )
    return executor.forward(is_train=False)[0].asnumpy()
