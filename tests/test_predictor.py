"""Running a network on images: batches, devices, precisions, and what is read off the weights."""

import logging

import numpy as np
import pytest
from fill import fill
from machine import needs_bfloat16
from narrow import VOC, WIDTH, write_weights

import ademx
from ademx import compat, params
from ademx.convert.files import NetworkWeights, read_weights
from ademx.devices import Devices
from ademx.engines.mxnet import predict
from ademx.engines.mxnet.predict import Predictor, mxnet_contexts
from ademx.labels import parse_label
from ademx.testing.checks import check_averageable

mx = pytest.importorskip("mxnet")


def network_of(path, label=VOC, **options):
    weights = read_weights(path, label=parse_label(label))
    return Predictor(weights, **{"devices": Devices(), **options})


@pytest.fixture
def network(weights):
    return network_of(weights)


def noise(count: int, height: int = 32, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, height, width)).astype(np.float32)


def plain(graph, weights, images: np.ndarray) -> np.ndarray:
    """Return the output of the training graph, bound as it is."""
    arg_params, aux_params = params.load(weights)
    executor = graph.simple_bind(mx.cpu(), data=images.shape, grad_req="null")
    executor.copy_params_from(
        {name: mx.nd.array(value) for name, value in arg_params.items()},
        {name: mx.nd.array(value) for name, value in aux_params.items()},
    )
    executor.arg_dict["data"][:] = images
    return executor.forward(is_train=False)[0].asnumpy()


@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize("devices", [Devices(), Devices(cpus=2), Devices(cpus=3)], ids=str)
def test_outputs_come_in_the_order_of_the_images(devices, count, weights):
    network = network_of(weights, devices=devices)
    images = noise(5)[:count]
    found = network(images, batch=2)
    assert (found.shape, found.dtype) == ((count, 21, 4, 5), np.float32)
    expected = plain(ademx.build_symbol(VOC, width=WIDTH), weights, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("network", ["rna-a", "rna-a1", "rna-b", "rna-c", "rn-50"])
def test_outputs_are_those_of_the_graphs_own_operators(network, tmp_path):
    """MXNet 1.9.1's fused ones get Model B wrong by several percent (see compat)."""
    label = f"ilsvrc-cls_{network}_cls1000"
    weights = write_weights(tmp_path, label)
    images = noise(2, 64, 96)
    found = network_of(weights, label)(images, batch=2)
    graph = ademx.build_symbol(label, width=WIDTH)
    # Bound for training, the graph is never fused.
    arg_params, aux_params = params.load(weights)
    executor = graph.simple_bind(mx.cpu(), data=images.shape, grad_req="write")
    for held, values in ((executor.arg_dict, arg_params), (executor.aux_dict, aux_params)):
        for name, value in values.items():
            held[name][:] = value
    expected = executor.forward(is_train=False, data=images)[0].asnumpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


def test_images_of_many_sizes_take_turns(network):
    images = [noise(1, 32, 8 * side) for side in range(3, 10)]
    first = [network(image, batch=1) for image in images]
    for _ in range(2):
        for image, expected in zip(images, first):
            np.testing.assert_array_equal(network(image, batch=1), expected)
    assert all(len(start.__self__._executors) <= 4 for start in network.starts)


def test_an_output_stays_as_it_was_when_the_next_is_computed(network):
    one = network(noise(2), batch=1)
    kept = one.copy()
    network(-noise(2), batch=1)
    np.testing.assert_array_equal(one, kept)


@pytest.mark.parametrize(("width", "head"), [(1 / 16, "1conv"), (1 / 8, "2conv")])
def test_width_and_head_are_read_off_the_weights(width, head, tmp_path):
    graph = ademx.build_symbol(VOC, width=width, head=head)
    shapes, _, states = graph.infer_shape(data=(1, 3, 32, 32))
    values = {name: fill(name, shape) for name, shape in zip(graph.list_arguments(), shapes)
              if name not in ("data", "softmax_label")}  # fmt: skip
    moving = {name: fill(name, shape) for name, shape in zip(graph.list_auxiliary_states(), states)}
    path = tmp_path / "weights.params"
    params.save(path, values, moving)
    found = network_of(path)(noise(1), batch=1)
    np.testing.assert_allclose(found, plain(graph, path, noise(1)), atol=1e-5)


def test_half_precision_weights_are_computed_in_float32(weights, network, tmp_path):
    halves = [
        {name: value.astype(np.float16) for name, value in values.items()}
        for values in params.load(weights)
    ]
    params.save(tmp_path / "half.params", *halves)
    path = tmp_path / "half.params"
    found = network_of(path)(noise(1), batch=1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, network(noise(1), batch=1), atol=0.05)


def test_every_misfit_is_in_one_message(weights):
    arg_params, aux_params = params.load(weights)
    del arg_params["linear21_weight"]
    arg_params["bn7_gamma"] = arg_params["bn7_gamma"][:-1]
    aux_params["extra_moving_mean"] = np.zeros(2, np.float32)
    with pytest.raises(
        params.CheckpointMismatch,
        match=r"(?s)here does not fit.*1 missing: linear21_weight.*1 unexpected: "
        r"extra_moving_mean.*1 misshapen: bn7_gamma is \(255,\), expected \(256,\)",
    ):
        Predictor(
            NetworkWeights({**arg_params, **aux_params}, "here", parse_label(VOC)),
            devices=Devices(),
        )


def test_devices_have_names_and_a_number():
    assert (Devices(cpus=2).count, Devices(cpus=2).names()) == (2, ["cpu(0)", "cpu(1)"])
    assert (Devices(gpus=(1, 3)).count, Devices(gpus=(1, 3)).names()) == (2, ["gpu(1)", "gpu(3)"])
    assert [str(context) for context in mxnet_contexts(Devices(cpus=2))] == ["cpu(0)", "cpu(1)"]


@pytest.mark.parametrize("number", [-1, 99])
def test_a_gpu_that_is_not_there_is_named(number):
    with pytest.raises(ValueError, match=f"--gpus {number}: MXNet finds"):
        mxnet_contexts(Devices(gpus=(number,)))


@pytest.mark.parametrize(
    ("precision", "devices", "message"),
    [
        ("int8", Devices(), "'int8': choose one of float32, tf32, bfloat16, float16"),
        ("float16", Devices(), "--precision float16: CPUs compute float32 and bfloat16 only"),
        ("tf32", Devices(), "--precision tf32: CPUs compute float32 and bfloat16 only"),
        ("tf32", Devices(gpus=(0,)), "MXNet computes float32 and float16 .* --backend torch"),
        ("bfloat16", Devices(gpus=(0,)), "MXNet computes .* --backend torch"),
    ],
)
def test_precisions_that_do_not_exist_are_refused(precision, devices, message, weights):
    with pytest.raises(ValueError, match=message):
        network_of(weights, devices=devices, precision=precision)


def test_float16_keeps_the_digits_of_statistics_and_probabilities(weights, monkeypatch):
    """Of a GPU's network; a CPU can hold it, not compute it."""
    monkeypatch.setattr(predict, "mxnet_contexts", lambda devices: [mx.cpu()])
    network = network_of(weights, devices=Devices(gpus=(0,)), precision="float16")
    replica = network.starts[0].__self__
    types = {name: value.dtype for name, value in {**replica._args, **replica._auxs}.items()}
    for name, dtype in types.items():
        is_product = name.endswith(("_weight", "_bias"))
        assert dtype == (np.float16 if is_product else np.float32), name
    _, outputs, _ = replica._graph.infer_type(**types, data=np.float32)
    assert outputs == [np.float32]


@needs_bfloat16
def test_a_cpu_without_bfloat16_gets_a_warning(weights, monkeypatch, caplog):
    monkeypatch.setattr(compat, "cpu_has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        network_of(weights, precision="bfloat16")
    assert "expect no gain over float32" in caplog.text


def test_a_cpu_that_mxnet_cannot_compute_bfloat16_on_is_told(weights, monkeypatch):
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    with pytest.raises(ValueError, match=r"AVX-512 only.*use float32, or test by --backend torch"):
        network_of(weights, precision="bfloat16")


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ("ade20k_rna-a1_cls21_s8", "dataset"),
        ("voc_rn-50_cls21_s8", "family"),
        ("voc_rna-a1_cls22_s8", "num_classes"),
        ("voc_rna-a1_cls21_s16", "output_stride"),
        ("voc_rna-a1_cls21", "output_stride"),
    ],
)
def test_outputs_that_do_not_match_are_not_averaged(other, field):
    with pytest.raises(ValueError, match=f"cannot be averaged: {field} is"):
        check_averageable([parse_label(VOC), parse_label(other)])


def test_networks_of_other_strides_than_their_labels_are_told_apart():
    """Trained at 112, rna-b has 16 where its label says nothing, which is 32."""
    with pytest.raises(ValueError, match="output_stride is 32 in one and 16 in the other"):
        check_averageable([parse_label("voc_rna-a1_cls21"), parse_label("voc_rna-b_cls21")])
    check_averageable([parse_label("voc_rna-a1_cls21_s16"), parse_label("voc_rna-b_cls21")])
    classifiers = ("ilsvrc-cls_rna-a1_cls1000", "ilsvrc-cls_rna-b_cls1000")
    check_averageable(list(map(parse_label, classifiers)))


def test_variants_and_tags_may_differ_in_an_average():
    check_averageable([parse_label(VOC), parse_label("voc_rna-a2_cls21_s8_coco")])
