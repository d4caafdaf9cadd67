"""Output layers for training: softmax, plain or with online hard example mining (OHEM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ademx.compat import InputError, import_mxnet
from symbols.learning import IGNORE_LABEL

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

mx = import_mxnet()

# Above any probability: stands for a pixel that must not be kept.
_NEVER = 2.0


def pixel_softmax(data: Symbol, label: Symbol, *, ignore_label: int = IGNORE_LABEL) -> Symbol:
    """Return softmax over the channels with the gradient of the pixels' mean cross-entropy.

    Args:
        data: scores, (N, C, H, W) float32.
        label: class of each pixel, (N, H·W) float32; its shape is inferred.
        ignore_label: label of pixels that never count; the gradient is divided by the number of
            the others.
    """
    return mx.sym.SoftmaxOutput(
        data,
        label,
        multi_output=True,
        use_ignore=True,
        ignore_label=ignore_label,
        normalization="valid",
        name="softmax",
    )


def ohem_softmax(
    data: Symbol,
    label: Symbol,
    *,
    thresh: float,
    min_kept: int,
    ignore_label: int = IGNORE_LABEL,
) -> Symbol:
    """Return softmax over the channels whose gradient comes from the hard pixels only.

    Forward: probabilities, (N, C, H, W) float32. Backward, with K the kept pixels of the batch
    on this device: (probability − one-hot) / |K| for a pixel of K, 0 elsewhere; 0 everywhere
    where K is empty. K holds the pixels whose label is valid and whose probability of the true
    class is at most `thresh`, or at most the `min_kept`-th smallest such probability where that
    is larger; with no more than `min_kept` valid labels, all of them.

    How it is done: everything that chooses K (softmax, pick, the `min_kept`-th smallest, the
    comparison) passes through BlockGrad and ends in a *label*: the given one where a pixel is
    kept, `ignore_label` elsewhere. SoftmaxOutput defines its own gradient with respect to `data`
    and sends none to its label, so the choice is a constant to the backward pass; it leaves out
    ignored labels and, normalised by "valid", divides by the number of the others, which is |K|.
    Only MXNet operators run, on the device that holds the scores; nothing visits the host.

    The `min_kept`-th smallest is the last of the `min_kept` smallest of the pixels' probabilities,
    with pixels without a valid label set to 2 and `min_kept` more twos appended: a batch of fewer
    pixels still has a `min_kept`-th, and it is 2, which keeps every valid pixel.

    Args:
        data: scores, (N, C, H, W) float32.
        label: class of each pixel, (N, H·W) float32; its shape is inferred.
        thresh: probability of the true class up to which a pixel counts as hard, in [0, 1].
        min_kept: pixels to keep at least, per device and batch; 0 for no minimum.
        ignore_label: label of pixels that never count.

    Raises:
        ValueError: `thresh` or `min_kept` is out of range.

    Source: ademxapp:util/symbol, the bootstrapping softmax.
    """
    if not 0 <= thresh <= 1:
        raise InputError(f"thresh {thresh}: expected a probability in [0, 1]")
    if min_kept < 0:
        raise InputError(f"min_kept {min_kept}: expected a number of pixels, 0 or more")
    true_probability, valid = _true_class_probability(data, label, ignore_label)
    kept = mx.sym.broadcast_lesser_equal(
        true_probability, _threshold(true_probability, thresh, min_kept)
    )
    kept = mx.sym.BlockGrad(kept * valid)
    # Elementwise arithmetic, unlike `where`, lets MXNet infer the label's shape from the output.
    kept_label = label * kept + ignore_label * (1 - kept)
    return pixel_softmax(data, mx.sym.BlockGrad(kept_label), ignore_label=ignore_label)


def _true_class_probability(
    data: Symbol, label: Symbol, ignore_label: int
) -> tuple[Symbol, Symbol]:
    """Return, both (N, H·W), the true class's probability (2 where ignored) and validity (0, 1)."""
    valid = label != ignore_label
    probabilities = mx.sym.softmax(mx.sym.reshape(data, shape=(0, 0, -1)), axis=1)
    picked = mx.sym.pick(probabilities, label * valid, axis=1)
    return mx.sym.BlockGrad(picked * valid + _NEVER * (1 - valid)), valid


def _threshold(true_probability: Symbol, thresh: float, min_kept: int) -> Symbol:
    """Return, (1,), the probability up to which pixels are kept."""
    if min_kept == 0:
        return mx.sym.full(shape=(1,), val=thresh)
    padding = mx.sym.full(shape=(min_kept,), val=_NEVER)
    candidates = mx.sym.concat(mx.sym.reshape(true_probability, shape=(-1,)), padding, dim=0)
    smallest = mx.sym.topk(candidates, k=min_kept, is_ascend=True, ret_typ="value")
    return mx.sym.maximum(mx.sym.slice_axis(smallest, axis=0, begin=-1, end=None), thresh)
