"""One update after another: a network on one or several devices, one or several workers.

MXNet's Module computes; what Module.fit and Module.update would do around it is done here, so
that the optimiser's states can be saved without pickle and that every worker learns, one update
late and without waiting, what all of them found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

import ademx.optimizer  # noqa: F401  (MXNet finds TorchNesterov by its name)
from ademx.compat import import_mxnet
from ademx.engines.mxnet import private
from ademx.engines.mxnet.memory import mirroring
from ademx.engines.mxnet.predict import mxnet_contexts
from ademx.engines.trainer import KVSTORES, Arrays, Sums, Trainer, Workers
from ademx.errors import InputError
from ademx.iteration import grouped
from symbols.learning import IGNORE_LABEL

if TYPE_CHECKING:
    from mxnet.symbol import Symbol

    from ademx.devices import Devices

mx = import_mxnet()

# Keeps the logarithm of a probability that underflowed finite, and lets a nan through.
_TINY = 1e-37
_LABEL = "softmax_label"
_MAX_ARRAYS = 200  # that an operator takes, as MXNet's own loss scaler has it


class MxnetWorkers(Workers):
    """The processes that train together: this one alone, or those of a distributed KVStore.

    A worker that leaves by an exception does not wait for the others, which may be waiting for
    what it will never send.

    Args:
        kind: one of :data:`KVSTORES`.
        num_devices: devices of this process.

    Attributes:
        kvstore: MXNet's KVStore; None for one device of one process, which needs none.

    Raises:
        ValueError: an unknown kind, NCCL without GPUs, or a distributed kind in a process that
            no launcher has started as a worker.
    """

    def __init__(self, kind: str, num_devices: int) -> None:
        _check_kvstore(kind)
        distributed = kind.startswith("dist")
        self.kvstore = mx.kv.create(kind) if distributed or num_devices > 1 else None
        self.rank = self.kvstore.rank if distributed else 0
        self.count = self.kvstore.num_workers if distributed else 1
        self.synchronous = kind != "dist_async"
        self._added: dict[str, Sequence[Any]] = {}

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None and self.count > 1:
            private.let_process_end_alone(self.kvstore)

    def add_up(
        self,
        key: str,
        arrays: Sequence[Any],
        *,
        out: Sequence[Any] | None = None,
        priority: int = 0,
    ) -> None:
        """Start replacing each device's array by the sum over all devices and all workers.

        A server closes a round of a key when as many arrays have come as there are workers; it
        does not look at whose they are. The rule for every key is therefore: no worker sends a
        key again before its last one has been answered. Then the arrays of a round are one of
        each worker, for none can have two there. MXNet keeps to the rule by itself where the
        same arrays are sent again, since the answer is written to what was sent (or to one
        buffer a key, for several devices and GPUs), and whatever uses an array next waits for
        it. Other arrays of the key are waited for here.

        Args:
            key: one that the KVStore was initialised with.
            arrays: one of each device.
            out: what to write in place of `arrays`; asynchronous servers answer with weights.
            priority: higher ones go first.
        """
        if self._added.get(key, arrays) is not arrays:
            self.let_go(key)
        self._added[key] = arrays
        self.kvstore.pushpull(key, arrays, out=out, priority=priority)

    def let_go(self, *keys: str) -> None:
        """Wait for what was added up, all without keys, and hold on to none of its arrays."""
        for key in keys or list(self._added):
            for array in self._added.pop(key):
                array.wait_to_read()

    def gather(self, key: str, value: int) -> list[int]:
        """Return every worker's value; see :class:`Workers`."""
        if self.count == 1 or not self.synchronous:
            return [value]
        values = np.zeros(self.count, np.float32)
        values[self.rank] = value  # whole numbers up to 2**24 are exact
        self.kvstore.init(key, mx.nd.zeros(self.count))
        array = mx.nd.array(values)
        self.add_up(key, [array])
        return [int(found) for found in array.asnumpy()]


class MxnetTrainer(Trainer):
    """A network being trained by MXNet.

    Args:
        graph: the network with its loss, output "softmax".
        devices: each gets an equal share of a batch.
        data_shape: (N, 3, H, W) of a batch over all devices.
        values: the parameters and moving statistics to start from, by name.
        options: those of :class:`Trainer`.

    Raises:
        ValueError: a scaled loss with asynchronous servers, which update before anyone has seen
            whether a gradient overflows, by a scale that they are never told again.
    """

    def __init__(
        self,
        graph: Symbol,
        *,
        devices: Devices,
        data_shape: tuple[int, ...],
        values: Arrays,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        precision = self._precision
        self._graph = graph if precision == "float32" else _low_precision(graph, precision)
        self._contexts = mxnet_contexts(devices)
        shapes = dict(zip(graph.list_arguments(), graph.infer_shape(data=data_shape)[0]))
        self._shapes = [("data", data_shape)], [(_LABEL, shapes[_LABEL])]
        self._draws = any(node["op"] == "Dropout" for node in json.loads(graph.tojson())["nodes"])
        if self._scaler and not self._workers.synchronous:
            raise InputError(
                "--kvstore dist_async: servers cannot leave out updates of float16 "
                "that overflow; use float32 or --kvstore dist_sync"
            )
        self._rescale = self._optimizer_params["rescale_grad"]
        self._bind({name: mx.nd.array(value) for name, value in values.items()})
        names = dict(enumerate(self._arrays.param_names))
        self._optimizer = mx.optimizer.create(
            self._optimizer_name, sym=graph, param_idx2name=names, **self._optimizer_params
        )
        self._optimizer.rescale_grad = self._rescale / self.loss_scale
        self._updaters = [mx.optimizer.get_updater(self._optimizer) for _ in self._contexts]
        self._init_kvstore()

    def start(self, data: Any, label: Any, *, seed: int, stop: bool = False) -> Callable[[], Sums]:
        """Start one update and return what waits for its sums; see :class:`Trainer`."""
        self._started += 1
        if self._draws:
            mx.random.seed(seed)
        found = mx.nd.array([0, 0, 0, 0, float(stop)])
        if data is None:
            for gradient in chain(*self._arrays.grad_arrays):
                gradient[:] = 0
        else:
            batch = mx.io.DataBatch([_on_cpu(data)], [_on_cpu(label)])
            self._module.forward_backward(batch)
            (outputs,) = self._module.get_outputs(merge_multi_context=False)
            shares = mx.gluon.utils.split_data(batch.label[0], len(outputs))
            found = mx.nd.add_n(found, *map(sums_of, outputs, shares))
        if self._workers.count > 1 and self._workers.synchronous:
            self._workers.add_up("sums", [found])
        scale = self.loss_scale  # that of these gradients
        self._update()
        if self.loss_scale != scale:  # here, where nothing holds the arrays of the old module
            self._change_scale()
        return lambda: Sums(*map(float, found.asnumpy()))

    def _weights(self) -> dict[str, np.ndarray]:
        pairs = zip(self._arrays.param_names, self._arrays.param_arrays)
        return {name: copies[0].asnumpy() for name, copies in pairs}

    def statistics(self) -> list[dict[str, np.ndarray]]:
        """Return the moving statistics of each device, by name."""
        # MXNet's reads do not wait for the backward pass that writes these.
        mx.nd.waitall()
        pairs = list(zip(self._arrays.aux_names, self._arrays.aux_arrays))
        devices = range(len(self._contexts))
        return [{name: copies[k].asnumpy() for name, copies in pairs} for k in devices]

    def momentum(self) -> dict[str, np.ndarray]:
        """Return the momentum of each parameter; none where servers hold it (dist_async)."""
        names, states = self._arrays.param_names, self._updaters[0].states  # as of all devices
        return {names[i]: one.asnumpy() for i, one in states.items() if one is not None}

    def restore_scaling(self, scale: float, unskipped: int) -> None:
        """Take up the loss scale as `scaling` gave it."""
        super().restore_scaling(scale, unskipped)
        self._change_scale()

    def restore(self, momentum: Arrays, statistics: Sequence[Arrays]) -> None:
        """Take up momentum and device statistics as `momentum` and `statistics` gave them."""
        for updater, context in zip(self._updaters, self._contexts):
            for index, name in enumerate(self._arrays.param_names):
                if name in momentum:
                    updater.states[index] = mx.nd.array(momentum[name], ctx=context)
                    updater.states_synced[index] = True
        for device, values in enumerate(statistics):
            for name, copies in zip(self._arrays.aux_names, self._arrays.aux_arrays):
                copies[device][:] = values[name]

    def _bind(self, values: Mapping[str, Any]) -> None:
        """Make the module anew with these parameters and the present loss scale."""
        graph = self._graph
        if self._scaler is not None:
            graph = _with_attribute(graph, "SoftmaxOutput", grad_scale=repr(self.loss_scale))
        self._module = mx.mod.Module(graph, context=self._contexts, label_names=(_LABEL,))
        with mirroring(self._mirror):
            self._module.bind(*self._shapes)
        self._module.init_params(initializer=None, arg_params=values, aux_params=values)
        self._arrays = private.device_arrays(self._module)

    def _init_kvstore(self) -> None:
        """Give the parameters to the KVStore, and take worker 0's from a distributed one."""
        group, store = self._arrays, self._workers.kvstore
        if store is None:
            return
        for name, weights in zip(group.param_names, group.param_arrays):
            store.init(name, weights[0].as_in_context(mx.cpu()))
            store.pull(name, out=weights)
        if self._workers.count > 1 and self._workers.synchronous:
            store.init("sums", mx.nd.zeros(5))
        if not self._workers.synchronous:
            if self._workers.rank == 0:
                store.set_optimizer(self._optimizer)
            private.wait_for_all_workers(store)  # no gradient comes before the optimiser

    def _update(self) -> None:
        group, store = self._arrays, self._workers.kvstore
        if store is not None:
            for index, name in enumerate(group.param_names):
                # Asynchronous servers update the weights; else gradients are only added up, and
                # each worker updates by itself, so that worker 0 has all there is to save.
                out = None if self._workers.synchronous else group.param_arrays[index]
                self._workers.add_up(name, group.grad_arrays[index], out=out, priority=-index)
        if self._scaler and not self._scaler.judge(_are_finite(group.grad_arrays)):
            # The schedule goes by batches, as log and resume do: one that is left out counts.
            private.count_update(self._optimizer, self._contexts, range(len(group.param_names)))
        elif self._workers.synchronous:
            for device, updater in enumerate(self._updaters):
                gradients, weights = (
                    [copies[device] for copies in arrays]
                    for arrays in (group.grad_arrays, group.param_arrays)
                )
                updater(list(range(len(weights))), gradients, weights)

    def _change_scale(self) -> None:
        """Bind the network anew with the present loss scale, which the graph holds."""
        args, auxs = self.parameters()
        statistics = self.statistics()
        self._optimizer.rescale_grad = self._rescale / self.loss_scale
        self._workers.let_go()
        del self._module, self._arrays  # its memory goes before the new one's comes
        self._bind({name: mx.nd.array(value) for name, value in {**args, **auxs}.items()})
        self.restore({}, statistics)


def _on_cpu(array: Any) -> Any:
    """Return an array of MXNet; those that are one already as they are."""
    return array if isinstance(array, mx.nd.NDArray) else mx.nd.array(array)


def _are_finite(gradients: Sequence[Sequence[Any]]) -> bool:
    """Return whether all gradients are; those of all devices are the same."""
    groups = grouped((copies[0] for copies in gradients), _MAX_ARRAYS)
    found = [mx.nd.multi_all_finite(*group, num_arrays=len(group)) for group in groups]
    return all(bool(one.asscalar()) for one in found)


def sums_of(output: Any, label: Any) -> Any:
    """Return one device's (5,) sums, in the order of :class:`Sums`, without waiting.

    Args:
        output: (N, C) or (N, C, h, w).
        label: (N,) or (N, P).
    """
    sums = _classification_sums if output.ndim == 2 else _segmentation_sums
    return sums(output, label.as_in_context(output.context)).as_in_context(mx.cpu())


def _classification_sums(output: Any, label: Any) -> Any:
    true = mx.nd.pick(output, label, axis=1)
    rank = (output > true.expand_dims(1)).sum(axis=1)
    count = mx.nd.ones_like(rank)
    return _stacked(-mx.nd.log(true + _TINY), rank < 1, rank < 5, count)


def _segmentation_sums(output: Any, label: Any) -> Any:
    output = output.reshape((0, 0, -1))
    valid = label != IGNORE_LABEL
    true = mx.nd.pick(output, label * valid, axis=1)
    correct = (output.max(axis=1) == true) * valid
    # `where`, since nan times 0 would be nan.
    loss = mx.nd.where(valid, -mx.nd.log(true + _TINY), mx.nd.zeros_like(true))
    return _stacked(loss, correct, mx.nd.zeros_like(true), valid)


def _stacked(*values: Any) -> Any:
    """Return the sum of each array, and 0 for `stop`, as (5,)."""
    sums = [value.sum() for value in values]
    return mx.nd.concat(*sums, mx.nd.zeros((1,), sums[0].context), dim=0)


def _check_kvstore(kind: str) -> None:
    if kind not in KVSTORES:
        raise InputError(f"--kvstore {kind!r}: choose one of {', '.join(KVSTORES)}")
    if kind == "nccl" and not mx.runtime.Features().is_enabled("NCCL"):
        raise InputError("--kvstore nccl: this MXNet has no NCCL; use device, or the GPU build")
    if kind.startswith("dist") and os.environ.get("DMLC_ROLE") != "worker":
        raise InputError(
            f"--kvstore {kind}: this process is not one of several workers (DMLC_ROLE is "
            f"{os.environ.get('DMLC_ROLE')!r}); start it by "
            "`ademx launch --workers 2 --servers 1 -- train …`"
        )


def _low_precision(graph: Symbol, precision: str) -> Symbol:
    """Return a float32 graph with its costly layers computed in `precision`."""
    from mxnet.contrib import amp  # `mxnet.contrib` does not load it by itself

    converted = amp.convert_symbol(graph, target_dtype=precision)
    # Else MXNet cannot tell the dtype of what is cast.
    return _with_attribute(converted, "null", __dtype__="0")


def _with_attribute(graph: Symbol, operator: str, **attribute: str) -> Symbol:
    """Return a graph whose nodes of an operator, "null" for variables, have an attribute."""
    tree = json.loads(graph.tojson(remove_amp_cast=False))
    for node in tree["nodes"]:
        if node["op"] == operator:
            node.setdefault("attrs", {}).update(attribute)
    return mx.sym.load_json(json.dumps(tree))
