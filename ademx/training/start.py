"""From options to the trainer that makes the updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ademx import params
from ademx.engines.backends import open_trainer, open_workers
from ademx.engines.trainer import Trainer, Workers
from ademx.errors import InputError
from ademx.networks.graph import list_layers, parameter_shapes
from ademx.schedule import make_schedule
from ademx.training.initial import initial_values, load_weights
from ademx.training.options import SegmentationTrainOptions, TrainOptions
from symbols.layers import Shape, without_dropout
from symbols.learning import get_learning


def start_trainer(
    options: TrainOptions,
    *,
    data_shape: tuple[int, ...],
    num_batches: int,
    values: Mapping[str, np.ndarray] | None = None,
    first_update: int = 0,
    dropout: bool = True,
    workers: Workers | None = None,
) -> Trainer:
    """Return what `ademx train` trains with: graph, optimiser, rescaling and schedule.

    Args:
        options: how to train; nothing is read or written but their weights.
        data_shape: (N, 3, H, W) of a batch over all devices.
        num_batches: updates in an epoch.
        values: parameters and moving statistics to start from, by name. What they lack is that of
            the options' weights, and what these lack is drawn at random.
        first_update: updates of the whole training that come before, which the rate goes by.
        dropout: whether anything is dropped.
        workers: the processes that train together; by default those of the options' KVStore.

    Raises:
        ademx.params.CheckpointMismatch: `values` has names or shapes that are not the network's.
        ValueError: the devices cannot share the batch, or options that do not fit the weights.
    """
    if data_shape[0] % options.devices.count:
        raise InputError(
            f"data_shape {data_shape}: expected a multiple of the {options.devices.count} devices, "
            "which share the batch"
        )
    workers = workers or open_workers(
        options.kvstore,
        options.devices,
        backend=options.engine,
        backward_do_mirror=options.backward_do_mirror,
    )
    shapes = network_shapes(options)
    values = values or {}
    if not shapes.keys() <= values.keys():
        values = {**starting_values(options), **values}
    params.check_parameters(shapes, values, source="values")
    segmentation = options.task == "segmentation"
    # A segmentation loss is a mean already, on each device; that of a classifier is a sum.
    shares = options.devices.count if segmentation else data_shape[0]
    if workers.synchronous:
        shares *= workers.count
    layers = list_layers(options.label, pool=options.pool, **_width_and_head(options))
    loss = {"loss": options.loss} if isinstance(options, SegmentationTrainOptions) else {}
    return open_trainer(
        layers if dropout else without_dropout(layers),
        learning=get_learning(options.task, frozen_statistics=options.frozen_statistics, **loss),
        data_shape=data_shape,
        values=values,
        optimizer="sgd" if segmentation else "TorchNesterov",
        optimizer_params={
            "momentum": options.momentum,
            "wd": options.weight_decay,
            "rescale_grad": 1 / shares,
            "lr_scheduler": make_schedule(
                options.lr_type,
                base_lr=options.base_lr,
                num_updates=options.to_epoch * num_batches,
                offset=first_update,
                stop_lr=min(options.base_lr / 100, 1e-6) if segmentation else 1e-6,
                steps=options.lr_steps,
            ),
        },
        devices=options.devices,
        workers=workers,
        precision=options.precision,
        backward_do_mirror=options.backward_do_mirror,
        backend=options.engine,
    )


def network_shapes(options: TrainOptions) -> dict[str, Shape]:
    """Return the shapes of the network's parameters and moving statistics."""
    return parameter_shapes(options.label, **_width_and_head(options))


def _width_and_head(options: TrainOptions) -> dict[str, Any]:
    """Return what the shapes of a label's network go by besides."""
    head = {"head": options.head} if isinstance(options, SegmentationTrainOptions) else {}
    return {"width": options.width, **head}


def starting_values(options: TrainOptions) -> dict[str, np.ndarray]:
    """Return all parameters and moving statistics of a training that begins."""
    shapes = network_shapes(options)
    values: dict[str, np.ndarray] = {}
    if options.weights is not None:
        values = load_weights(options.weights, options.label, shapes, reading=options.reading)
    return {**initial_values(shapes, task=options.task, seed=options.seed), **values}
