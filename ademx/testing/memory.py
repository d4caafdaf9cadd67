"""What memory a test needs, said before it starts."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import product

from ademx.devices import Devices
from ademx.engines.backends import free_device_memory, inference_memory
from ademx.errors import InputError
from ademx.networks.summary import load_graph
from ademx.testing.options import EvaluationOptions
from iters.decode import Size

_HALVES = ("bfloat16", "float16")
_TAKEN = 0.5  # of what is free, by the tile that is suggested: the image needs some too

_log = logging.getLogger(__name__)


def state_memory(
    options: EvaluationOptions,
    networks: Sequence[tuple[str, float, str]],
    sizes: Sequence[Size],
    devices: Devices,
    *,
    maps_bytes: int = 0,
) -> None:
    """Log what the networks need beside their weights, and warn where that is not there.

    It is the plan that `ademx summary` makes for training, made for testing: inputs and
    activations. Workspaces of convolutions, the copies of weights that CPUs' kernels lay out anew,
    and the image itself come on top.

    Args:
        options: of the test.
        networks: label, width and head of each.
        sizes: height and width of what they see of an image at a time, at each test scale.
        devices: that compute.
        maps_bytes: of an image's score maps, which are in the machine's memory, not in a GPU's.
    """
    batch, backend = options.batch_images, options.backend
    choices = {"batch": batch, "pool": options.pool}
    try:
        graphs = [
            load_graph(label, input_size=size, width=width, head=head, **choices)
            for (label, width, head), size in product(networks, sorted(set(sizes)))
        ]
    except InputError:  # too small an input: the test itself says so
        return
    contexts = 1 if devices.gpus else devices.cpus
    needed = inference_memory(backend, graphs) * contexts
    needed //= 2 if options.precision in _HALVES else 1
    free = free_device_memory(backend, devices)
    largest = max(sizes, key=math.prod)
    inputs = "an input" if batch * contexts == 1 else f"{batch * contexts} inputs"
    _log.info(
        "%s of %d×%d pixels: about %s beside the weights%s%s",
        *(inputs, *largest, _text(needed)),
        f", score maps {_text(maps_bytes)}" if maps_bytes else "",
        "" if free is None else f"; {_text(free)} free",
    )
    kept = 0 if devices.gpus else maps_bytes
    if free is not None and needed + kept > free:
        left = max(0, free - kept)  # for a tile
        side = math.isqrt(int(math.prod(largest) * _TAKEN * left / needed)) // 64 * 64
        cure = "take a smaller --batch-images or smaller --test-scales"
        if side and options.task == "segmentation":
            cure = f"--tile {side}x{side} would do"
        _log.warning(
            "%s is more than the %s that the %s free: expect a failure, or a crawl: %s",
            *(
                _text(needed + kept),
                _text(free),
                "GPU has" if devices.gpus else "machine has",
                cure,
            ),
        )


def _text(num_bytes: int) -> str:
    return (
        f"{num_bytes / 2**30:,.1f} GiB"
        if num_bytes >= 2**30
        else f"{math.ceil(num_bytes / 2**20)} MiB"
    )
