"""Published weights that the user already has, as parameters of our networks. Nothing is fetched.

Every loader checks the whole file before it returns: a key too few, too many or of another shape is
an error that lists the keys by name.
"""

import json
import os
import re
from typing import Any

import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load, load_file

from memjax.interop.torch.archive import read_torch
from memjax.interop.torch.state_dict import COUNTER, Path, Published, State, fill_params
from memjax.models.published.densenet import DenseNet
from memjax.models.published.dinov2 import DINOv2
from memjax.models.published.inception import InceptionV3
from memjax.models.published.sscd import SSCD


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Returns the named tensors of a ``.safetensors`` file or of any file that torch writes.

    Raises:
        ValueError: The file is missing, damaged or holds more than tensors.
    """
    text = os.fspath(path)
    if not text.endswith(".safetensors"):
        return read_torch(path)
    if not epath.Path(path).is_file():
        raise ValueError(f"There is no weights file {text}; give the path of one.")
    try:
        return load(epath.Path(path).read_bytes()) if "://" in text else load_file(text)
    except SafetensorError as error:
        raise ValueError(f"The file {text} is damaged ({error}); fetch it again.") from error


def load_sscd(path: Path) -> Published:
    """Loads SSCD from its torchvision, Classy Vision or TorchScript file.

    The trunk (ResNet-50, or ResNeXt-101 of ``sscd_disc_large``) is read off the weights.

    References:
        Pizzi et al. 2022, arXiv 2202.10261.
    """
    prefix = "backbone."
    state = {_without_classy_names(key): value for key, value in read_weights(path).items()}
    state = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    first = _shape(state, "layer1.0.conv2.weight", SSCD().group_width)
    module = SSCD(
        num_blocks=_counts(state, r"layer(\d+)\.(\d+)\.", SSCD().num_blocks),
        groups=first[0] // first[1],
        group_width=first[1],
        embedding_dim=_shape(state, "fc.weight", SSCD().embedding_dim)[0],
    )
    return fill_params(path, "SSCD", module, (64, 64, 3), state, (COUNTER,), prefix)


def _without_classy_names(key: str) -> str:
    """Classy Vision's names of the same layers → torchvision's."""
    key = re.sub(r"^backbone\.initial_block\._module\.0\.", "backbone.conv1.", key)
    key = re.sub(r"^backbone\.initial_block\._module\.1\.", "backbone.bn1.", key)
    key = re.sub(r"^embeddings\.1\.", "backbone.fc.", key)
    block = re.match(r"^backbone\.blocks\.(\d+)\.(?:block\d+-)?(\d+)\.(?:_module\.)?(.*)$", key)
    if block is None:
        return key
    inner = block[3]
    for number, name in enumerate(("conv1", "bn1", "", "conv2", "bn2", "", "conv3")):
        inner = inner.replace(f"convolutional_block.{number}.", f"{name}.")
    return f"backbone.layer{int(block[1]) + 1}.{block[2]}.{re.sub('^bn[.]', 'bn3.', inner)}"


def load_xrv(path: Path) -> Published:
    """Loads torchxrayvision's DenseNet-121 without its classifier.

    .. note:: The files named ``chex`` and ``all`` (``nih-pc-chex-…``) were trained on CheXpert: of
        CheXpert's own images they know more than what is seen. Prefer ``nih``, ``pc`` or
        ``mimic_ch`` there.

    References:
        Cohen et al. 2022, arXiv 2111.00595.
    """
    state = read_weights(path)
    growth = _shape(state, "features.denseblock1.denselayer1.conv2.weight", DenseNet().growth)[0]
    module = DenseNet(
        _counts(state, r"features\.denseblock(\d+)\.denselayer(\d+)\.", DenseNet().num_layers, 1),
        growth=growth,
        first_features=_shape(state, "features.conv0.weight", DenseNet().first_features)[0],
    )
    ignored = (COUNTER, r"classifier\..*", "op_threshs")
    return fill_params(path, "torchxrayvision's DenseNet", module, (64, 64, 1), state, ignored)


def load_inception(path: Path) -> Published:
    """Loads pytorch-fid's Inception-v3 (``pt_inception-2015-12-05``) without its classifier.

    Raises:
        ValueError: Also for torchvision's ImageNet weights, which have the same keys and give a
            different distance.
    """
    state = read_weights(path)
    classes = _shape(state, "fc.weight", 1008)[0]
    if classes != 1008 or any(key.startswith("AuxLogits.") for key in state):
        raise ValueError(
            f"The file {os.fspath(path)} is an Inception-v3 of {classes} classes, expected the one "
            "of 1008 that FID is defined with: pytorch-fid's pt_inception-2015-12-05."
        )
    return fill_params(
        path, "Inception-v3", InceptionV3(), (96, 96, 3), state, (COUNTER, r"fc\..*")
    )


def load_dinov2(path: Path) -> Published:
    """Loads DINOv2 or RAD-DINO in the Hugging Face layout.

    Args:
        path: A folder with ``model.safetensors`` (or ``pytorch_model.bin``) and ``config.json``, or
            the weights file alone: then heads are taken to be 64 wide, as in every published size.

    References:
        Oquab et al. 2023, arXiv 2304.07193; Pérez-García et al. 2024, arXiv 2401.10815.
    """
    file, config = _dinov2_files(epath.Path(path))
    state = {_hub_name(key): value for key, value in read_weights(file).items()}
    base = DINOv2()
    patches = _shape(state, "embeddings.patch_embeddings.projection.weight", base.hidden_size)
    places = _shape(state, "embeddings.position_embeddings", 1)
    width = patches[0]
    module = DINOv2(
        hidden_size=width,
        num_layers=_counts(state, r"encoder\.(layer)\.(\d+)\.", (base.num_layers,))[0],
        num_heads=int(config.get("num_attention_heads", max(width // 64, 1))),
        patch_size=patches[-1] if len(patches) == 4 else base.patch_size,
        grid=round((places[1] - 1) ** 0.5) if len(places) == 3 else base.grid,
        mlp_size=_shape(state, "encoder.layer.0.mlp.fc1.weight", base.mlp_size)[0],
        epsilon=float(config.get("layer_norm_eps", base.epsilon)),
    )
    size = 2 * module.patch_size
    return fill_params(file, "DINOv2", module, (size, size, 3), state, ("embeddings.mask_token",))


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the settings in a JSON file that lies beside published weights.

    Raises:
        ValueError: The file is not a JSON object.
    """
    try:
        settings = json.loads(epath.Path(path).read_text())
    except ValueError as error:
        settings = error
    if not isinstance(settings, dict):
        raise ValueError(
            f"The file {os.fspath(path)} is not a JSON object; fetch it again from where the "
            "weights came from."
        )
    return settings


def _dinov2_files(path: epath.Path) -> tuple[epath.Path, dict[str, Any]]:
    if not path.is_dir():
        return path, {}
    names = ("model.safetensors", "pytorch_model.bin")
    files = [path / name for name in names if (path / name).is_file()]
    if not files:
        raise ValueError(
            f"The folder {os.fspath(path)} has neither {' nor '.join(names)}; expected a DINOv2 "
            "folder as Hugging Face lays it out: put the weights file there."
        )
    settings = path / "config.json"
    config = read_settings(settings) if settings.is_file() else {}
    wrong = [
        f"{key} {config[key]!r} (expected {good!r})"
        for key, good in {"use_swiglu_ffn": False, "hidden_act": "gelu", "qkv_bias": True}.items()
        if config.get(key, good) != good
    ]
    if wrong:
        raise ValueError(
            f"The network in {os.fspath(path)} has {' and '.join(wrong)}; choose a small, base or "
            "large DINOv2, or RAD-DINO."
        )
    return files[0], config


def _hub_name(key: str) -> str:
    """Names as transformers 5 keeps them in memory → names as checkpoints have them."""
    key = key.removeprefix("dinov2.")
    key = re.sub(r"\.attention\.o_proj\.", ".attention.output.dense.", key)
    names = {"q": "query", "k": "key", "v": "value"}
    return re.sub(
        r"\.attention\.([qkv])_proj\.", lambda m: f".attention.attention.{names[m[1]]}.", key
    )


def _shape(state: State, key: str, default: int) -> tuple[int, ...]:
    """Returns a weight's shape; where it is missing, one that leaves the defaults in place."""
    shape = state[key].shape if key in state else ()
    return shape if len(shape) >= 2 and min(shape) > 0 else (default, default)


def _counts(
    state: State, pattern: str, default: tuple[int, ...], first: int = 0
) -> tuple[int, ...]:
    """Returns how many parts each numbered group has, from keys that begin with ``pattern``."""
    last: dict[str, int] = {}
    for key in state:
        found = re.match(pattern, key)
        if found is not None:
            last[found[1]] = max(last.get(found[1], 0), min(int(found[2][:4]), 63) + 1 - first)
    return tuple(last[name] for name in sorted(last)) if last else default
