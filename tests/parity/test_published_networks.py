"""Published networks against torch on random weights, through files that torch writes.

Each network's weights are saved by torch, read by the restricted reader and put into Flax; so the
keys, the layouts and the arithmetic are checked together.
"""

import dataclasses
import sys
import types

import jax
import numpy as np
import pytest

from memjax.evaluate.features.published import PREPROCESSINGS, published_features
from memjax.interop.published import load_dinov2, load_inception, load_sscd, load_xrv
from memjax.interop.torch.archive import read_torch
from memjax.interop.torch.state_dict import COUNTER, fill_params
from memjax.models.published.sscd import SSCD_DISC_LARGE
from memjax.studies.published import feature_fn

torch = pytest.importorskip("torch")
# torch and transformers warn about their own deprecations.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

from tests.parity.torch_networks import (  # noqa: E402
    TorchDenseLayer,
    TorchDenseNet,
    TorchInception,
    TorchSSCD,
    TorchTransition,
)

TOLERANCE = 5e-5  # of the output's RMS; float32 rounding, measured 7e-7 to 1.1e-5


def randomized(net, seed=0):
    """Draws weights that keep activations of order one, running statistics included."""
    torch.manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.3)
        elif value.ndim == 1 and name.endswith("weight"):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    return net.eval()


def pictures(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def nchw(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def assert_close(actual, expected):
    expected = expected.detach().numpy()
    assert expected.std(axis=0).max() > 1e-3  # the images are told apart
    error = np.abs(np.asarray(actual) - expected).max() / np.sqrt(np.mean(expected**2))
    assert error < TOLERANCE, error


def apply(published, images):
    return jax.jit(published.module.apply)({"params": published.params}, images)


def save(net, path, kind="zip", example=None):
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(net, example), path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    return path


def test_sscd_resnet50(tmp_path):
    net, x = randomized(TorchSSCD()), pictures((2, 64, 80, 3))
    published = load_sscd(save(net, tmp_path / "sscd_disc_mixup.torchvision.pt"))
    assert published.module.num_blocks == (3, 4, 6, 3)
    assert_close(apply(published, x), net(nchw(x)))


def classy(state):
    """torchvision's names → Classy Vision's, as the file of ``sscd_disc_large`` has them."""
    names = {"conv1": "convolutional_block.0", "bn1": "convolutional_block.1"}
    names |= {"conv2": "convolutional_block.3", "bn2": "convolutional_block.4"}
    names |= {"conv3": "convolutional_block.6", "bn3": "bn"}
    renamed = {}
    for key, value in state.items():
        _, first, *rest = key.split(".")
        if first == "fc":
            key = ".".join(["embeddings.1", *rest])
        elif first.startswith("layer"):
            stage, inner = int(first[5:]) - 1, [names.get(rest[1], rest[1]), *rest[2:]]
            key = ".".join([f"backbone.blocks.{stage}.block{stage}-{rest[0]}", *inner])
        else:
            number = {"conv1": 0, "bn1": 1}[first]
            key = ".".join([f"backbone.initial_block._module.{number}", *rest])
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("names", [dict, classy])
def test_sscd_resnext_has_the_groups_of_its_file(tmp_path, names):
    net, x = randomized(TorchSSCD((1, 2, 1, 1), 32, 4, 96)), pictures((2, 64, 64, 3))
    torch.save(names(net.state_dict()), tmp_path / "large.pt")
    published = load_sscd(tmp_path / "large.pt")
    assert (published.module.groups, published.module.group_width) == (32, 4)
    assert_close(apply(published, x), net(nchw(x)))


def test_sscd_large_has_all_the_weights_of_resnext101():
    with torch.device("meta"):
        shapes = TorchSSCD((3, 4, 23, 3), 32, 4, 1024).backbone.state_dict()
    state = {key: np.broadcast_to(np.float32(0), value.shape) for key, value in shapes.items()}
    filled = fill_params("zeros", "SSCD", SSCD_DISC_LARGE, (64, 64, 3), state, (COUNTER,))
    # 42,128,704 of the trunk, 2,098,176 of the last layer, 137,856 running statistics
    assert sum(leaf.size for leaf in jax.tree.leaves(filled.params)) == 44_364_736


def test_densenet121(tmp_path):
    net, x = randomized(TorchDenseNet()), pictures((2, 64, 96, 1))
    published = load_xrv(save(net, tmp_path / "nih.pt", "legacy"))
    assert_close(apply(published, 1024 * x), net(1024 * nchw(x)))


@pytest.mark.parametrize("zipped", [True, False])
def test_densenet_saved_as_a_whole_module(tmp_path, monkeypatch, zipped):
    room = types.ModuleType("torchxrayvision.models")
    for kind in (TorchDenseNet, TorchDenseLayer, TorchTransition):
        monkeypatch.setattr(kind, "__module__", room.__name__)
        setattr(room, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "torchxrayvision", types.ModuleType("torchxrayvision"))
    monkeypatch.setitem(sys.modules, room.__name__, room)
    net, x = randomized(TorchDenseNet((2, 2, 1, 1), 8, 16)), pictures((2, 64, 64, 1))
    net.pathologies = np.array(["Edema", "Mass"], dtype=object)
    net.op_threshs = torch.tensor([0.5, float("nan")])
    torch.save(net, tmp_path / "nih.pt", _use_new_zipfile_serialization=zipped)
    assert_close(apply(load_xrv(tmp_path / "nih.pt"), 1024 * x), net(1024 * nchw(x)))


def test_inception(tmp_path):
    net, x = randomized(TorchInception()), pictures((2, 128, 107, 3))
    published = load_inception(save(net, tmp_path / "pt_inception.pth"))
    assert_close(apply(published, x), net(nchw(x)))


def test_preprocessing_of_inception_is_that_of_pytorch_fid():
    x = pictures((2, 40, 320, 3))
    expected = torch.nn.functional.interpolate(
        nchw(x), (299, 299), mode="bilinear", align_corners=False
    )
    actual = np.asarray(PREPROCESSINGS["inception"](x)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(actual, expected.numpy(), atol=2e-5)


DINO = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2}


@pytest.mark.parametrize("size", [(70, 70), (84, 126), (168, 168)])
def test_dinov2_equals_transformers_at_its_own_and_other_sizes(tmp_path, size):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(**DINO, image_size=70, patch_size=14)
    torch.manual_seed(0)
    net = transformers.Dinov2Model(config).eval()
    for value in net.state_dict().values():
        value.add_(0.2 * torch.randn_like(value))
    net.save_pretrained(tmp_path)
    published, x = load_dinov2(tmp_path), pictures((2, *size, 3))
    assert published.module.num_heads == 3
    with torch.no_grad():
        assert_close(apply(published, x), net(nchw(x)).pooler_output)


def test_dinov2_weights_alone_under_the_names_in_memory(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(**DINO | {"hidden_size": 128, "num_attention_heads": 2})
    net = transformers.Dinov2Model(config).eval()
    published = load_dinov2(save(net, tmp_path / "weights.bin"))
    assert published.module.num_heads == 2
    with torch.no_grad():
        x = pictures((2, 56, 56, 3))
        assert_close(apply(published, x), net(nchw(x)).pooler_output)


def test_feature_function_from_a_torchscript_file(tmp_path):
    net, x = randomized(TorchSSCD((1, 1, 1, 1))), pictures((3, 32, 48, 1))
    path = tmp_path / "sscd_disc_mixup.torchscript.pt"
    save(net, path, "torchscript", torch.zeros(1, 3, 64, 64))
    features = feature_fn("sscd", path, batch_size=2)
    assert features.name == "sscd_disc_mixup (short side 288, ImageNet mean/std)"
    small = dataclasses.replace(features.preprocessing, side=64)
    features = published_features(
        features.module, features.params, small, weights="sscd", batch_size=2
    )
    expected = net(nchw(np.asarray(small(x))))
    assert small(x).shape == (3, 64, 96, 3)
    assert_close(features(x), expected)


class Everything(torch.nn.Module):
    """One tensor of each kind that a file can hold."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3))
        self.register_buffer("float16", torch.randn(3, 5).half())
        self.register_buffer("bfloat16_", torch.randn(7).bfloat16())
        self.register_buffer("turned", torch.randn(4, 6, 2).permute(2, 0, 1))
        self.register_buffer("cut", torch.arange(20).reshape(4, 5)[1:3, ::2])
        self.register_buffer("flag", torch.tensor([True, False]))
        self.register_buffer("number", torch.tensor(3.5, dtype=torch.float64))
        self.register_buffer("empty", torch.zeros(0, 4))

    def forward(self, x):
        return self.inner(x) * self.number


@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript", "module", "module_legacy"])
def test_reader_returns_every_bit(tmp_path, kind):
    net = Everything().eval()
    path = tmp_path / "everything.pt"
    if kind.startswith("module"):
        net.inner.pathologies = np.array(
            ["Edema", "Mass"], dtype=object
        )  # as whole X-ray networks do
        torch.save(net, path, _use_new_zipfile_serialization=kind == "module")
    else:
        save(net, path, kind, torch.zeros(1, 2, 4, 4))
    if kind.startswith("module"):  # whose class lies outside torch
        with pytest.raises(ValueError, match=r"test_published_networks\.Everything"):
            read_torch(path)
        torch.save(net.inner, path, _use_new_zipfile_serialization=kind == "module")
        net = net.inner
    arrays = read_torch(path)
    state = net.state_dict()
    assert set(arrays) == set(state)
    for key, value in state.items():
        assert arrays[key].shape == tuple(value.shape)
        assert arrays[key].tobytes() == bytes(value.contiguous().flatten().view(torch.uint8))
