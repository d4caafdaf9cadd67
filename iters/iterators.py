"""Training batches as MXNet's iterators, see :mod:`iters.batches`."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from ademx.compat import import_mxnet
from iters.batches import TrainingBatches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mxnet.io import DataBatch
    from mxnet.ndarray import NDArray as NDArrayOfMXNet
    from numpy.typing import NDArray

    from iters.samples import Sample

mx = import_mxnet()


class TrainingIter(TrainingBatches, mx.io.DataIter):  # type: ignore[misc, name-defined]  # MXNet has no types
    """:class:`TrainingBatches` for MXNet; the arguments are the same.

    Attributes:
        provide_data: one DataDesc, "data".
        provide_label: one DataDesc, "softmax_label".
    """

    def __init__(self, samples: Sequence[Sample], **options: Any) -> None:
        super().__init__(samples, **options)
        self.batch_size = self.data_shape[0]
        self.provide_data = [mx.io.DataDesc("data", self.data_shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", self.label_shape)]

    def reset(self) -> None:
        """Go to the next epoch's beginning; stay where nothing of this one was read yet."""
        if self._batch:
            self.seek(self.epoch + 1)

    def next(self) -> DataBatch:
        """Return the next batch, see :meth:`TrainingBatches.read`; `index` holds its samples."""
        batch = self.read()
        return mx.io.DataBatch(
            data=[batch.data],
            label=[batch.label],
            pad=batch.pad,
            index=batch.index,
            provide_data=self.provide_data,
            provide_label=self.provide_label,
        )

    def _copy(self, values: NDArray[np.float32]) -> NDArrayOfMXNet:
        """Return a copy of a float32 array for MXNet; when it returns, the copy is complete.

        `mx.nd.array` copies with the OpenMP threads of all cores, which then spin for a while: with
        two workers on two cores that cost a fifth of the workers' time.
        """
        result = mx.nd.empty(values.shape, ctx=mx.cpu(), dtype=np.float32)
        address = ctypes.POINTER(ctypes.c_float)()
        mx.base.check_call(mx.base._LIB.MXNDArrayGetData(result.handle, ctypes.byref(address)))
        np.copyto(np.ctypeslib.as_array(address, values.shape), values)
        return result
