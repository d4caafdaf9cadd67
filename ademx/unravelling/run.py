"""From a file of weights and images to what is found of the network."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from ademx.convert.files import read_weights
from ademx.engines.backends import default_devices, open_segments, resolve_backend
from ademx.errors import InputError
from ademx.labels import Label, parse_label
from ademx.networks.graph import list_layers
from ademx.networks.summary import full_label, load_graph
from ademx.unravelling.found import Unravelling
from ademx.unravelling.inputs import load_examples
from ademx.unravelling.measure import measure
from ademx.unravelling.options import UnravelOptions
from ademx.versions import versions

_log = logging.getLogger(__name__)


def unravel_weights(options: UnravelOptions) -> Unravelling:
    """Return what is found of the network in a file of weights.

    Raises:
        InputError, FileNotFoundError: a network without shortcuts, weights of another one, or
            data that do not fit; see :func:`ademx.unravelling.inputs.load_examples`.
        CheckpointMismatch: weights and label do not fit.
        MissingDependency: what is to compute is not installed.
    """
    label = parse_label(full_label(options.label))
    check_units(label)
    weights = read_weights(options.weights, label=label, reading=options.reading, complete=False)
    weights.check_usable()
    examples = list(load_examples(options, label))
    _, height, width = examples[0].data.shape
    layers = load_graph(
        str(label),
        input_size=(height, width),
        width=weights.width,
        pool=options.pool,
        head=weights.head,
    ).layers
    backend = resolve_backend(options.backend, options.devices)
    devices = options.devices or default_devices(backend)
    _log.info("%s computes %d images on %s", backend, len(examples), devices.names()[0])
    engine = open_segments(layers, weights.parameters, backend=backend, devices=devices)
    found = measure(
        engine,
        layers,
        np.stack([example.data for example in examples]),
        [example.target for example in examples],
        weights=options.weights,
        paths=options.paths,
        seed=options.seed,
        with_lesions=options.lesion,
    )
    if not found.gradient_norm:
        _log.warning(
            "no gradient reaches the first unit: lengths and effective depth say nothing: the "
            "weights are 0 in some layer, or the loss is"
        )
    known = [example.target is not None for example in examples]
    settings = {
        "label": str(label),
        "weights": str(options.weights),
        "weights_md5": weights.md5,
        "input": [height, width],
        "pool": options.pool,
        "seed": options.seed,
        "paths": options.paths,
        "targets": "labels" if all(known) else "most probable classes",
        "images": [example.name for example in examples],
        "backend": backend,
        "devices": devices.names()[:1],
        "versions": versions(),
    }
    return dataclasses.replace(found, settings=settings)


def check_units(label: Label) -> None:
    """Raise InputError for a network without shortcuts."""
    if not any(layer.kind == "add" for layer in list_layers(label)):
        raise InputError(
            f"{label}: a plain network: it has no shortcuts, so that all of its gradient goes one "
            "way; expected a residual network, such as a1 or rn-50"
        )
