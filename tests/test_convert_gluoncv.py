"""The `gluoncv` layout against gluoncv's own WiderResNetA2, made narrow, in MXNet."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from fill import fill, image_batch
from gluoncv_beside_torch import import_gluoncv
from mxnet_scores import scores_of

from ademx import params
from ademx.compat import import_mxnet
from ademx.convert import files
from ademx.convert.writing import Writing, convert
from ademx.networks.graph import parameter_shapes

pytest.importorskip("torch")

NARROW = 32
A2 = "ilsvrc-cls_rna-a2_cls1000"


def _narrowed(channels):
    return 3 if channels == 3 else channels // NARROW  # 3: of the image


@pytest.fixture
def gluoncv_network(monkeypatch):
    """Give gluoncv's 38-layer A2 with 1/32 of the channels, and its parameters drawn."""
    mx = import_mxnet()
    import_gluoncv()
    from gluoncv.model_zoo import wideresnet

    nn = mx.gluon.nn

    def narrow(layer):
        def made(**options):
            sides = options.keys() & {"in_channels", "channels", "in_units"}
            return layer(**options | {name: _narrowed(options[name]) for name in sides})

        return made

    narrow_layers = {**vars(nn), "Conv2D": narrow(nn.Conv2D), "Dense": narrow(nn.Dense)}
    bnrelu = partial(wideresnet.bnrelu, norm_layer=narrow(nn.BatchNorm))
    monkeypatch.setattr(wideresnet, "nn", SimpleNamespace(**narrow_layers))
    monkeypatch.setattr(wideresnet, "bnrelu", bnrelu)
    network = wideresnet.wider_resnet38_a2(classes=1000)
    network.initialize()
    return network


def scores_of_file(path):
    arg_params, aux_params = params.load(path)
    images = image_batch((2, 3, 96, 128))
    return scores_of(A2, {**arg_params, **aux_params}, images, width=1 / NARROW)


def test_our_weights_run_in_gluoncv_and_come_back(gluoncv_network, tmp_path):
    mx = import_mxnet()
    values = {n: fill(n, s) for n, s in parameter_shapes(A2, width=1 / NARROW).items()}
    aux = {name: value for name, value in values.items() if "_moving_" in name}
    source = tmp_path / f"{A2}_ep-0001.params"
    params.save(source, {n: v for n, v in values.items() if n not in aux}, aux)

    convert(source, tmp_path / "gluon.params", writing=Writing(layout="gluoncv"))
    gluoncv_network.load_parameters(str(tmp_path / "gluon.params"))  # strict
    found = gluoncv_network(mx.nd.array(image_batch((2, 3, 96, 128)))).asnumpy()
    expected = scores_of_file(source)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()

    gluoncv_network.save_parameters(str(tmp_path / "saved.params"))
    convert(tmp_path / "saved.params", tmp_path / "back.params", label=A2)
    for back, original in zip(params.load(tmp_path / "back.params"), params.load(source)):
        assert back.keys() == original.keys()
        assert all(back[name].tobytes() == original[name].tobytes() for name in original)


def test_gluoncv_s_weights_run_here(gluoncv_network, tmp_path, caplog):
    mx = import_mxnet()
    images = mx.nd.array(image_batch((2, 3, 96, 128)))
    expected = gluoncv_network(images).asnumpy()
    gluoncv_network.save_parameters(str(tmp_path / "saved.params"))
    with caplog.at_level("WARNING"):
        weights = files.read_weights(tmp_path / "saved.params")
    assert weights.layout == "gluoncv"
    assert "gluoncv's WiderResNetA2 down-samples as rna-a2 does" in caplog.text
    convert(tmp_path / "saved.params", tmp_path / "ours.params", label=A2)
    found = scores_of_file(tmp_path / "ours.params")
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
