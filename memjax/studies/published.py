"""From the name of a published network and the path of its weights to a feature function."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from memjax.evaluate.features.base import FeatureFn
from memjax.evaluate.features.published import PREPROCESSINGS, Preprocessing, published_features
from memjax.interop.published import (
    load_dinov2,
    load_inception,
    load_sscd,
    load_xrv,
    read_settings,
)
from memjax.interop.torch.state_dict import Published

Loader = Callable[[str | os.PathLike[str]], Published]


class Source(NamedTuple):
    """Where the weights of one network come from.

    Attributes:
        load: Path → network and weights.
        preprocessings: Names that fit it; the first is the default.
        file: What the file or folder is called.
        publisher: Where its authors publish it.
    """

    load: Loader
    preprocessings: tuple[str, ...]
    file: str
    publisher: str


_SSCD = ("sscd", "sscd_square", "sscd_center_crop")
_SSCD_PAGE = "the README of github.com/facebookresearch/sscd-copy-detection"
SOURCES = {
    "sscd": Source(load_sscd, _SSCD, "sscd_disc_mixup.torchvision.pt", _SSCD_PAGE),
    "sscd_large": Source(load_sscd, _SSCD, "sscd_disc_large.classy.pt", _SSCD_PAGE),
    "xrv": Source(
        load_xrv,
        ("xrv",),
        "nih-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
        "the releases of github.com/mlmed/torchxrayvision (for CheXpert take nih, pc or mimic_ch: "
        "chex and all have seen CheXpert)",
    ),
    "rad_dino": Source(
        load_dinov2,
        ("rad_dino",),
        "the folder rad-dino with model.safetensors and config.json",
        "huggingface.co/microsoft/rad-dino",
    ),
    "dinov2": Source(
        load_dinov2,
        ("dinov2",),
        "the folder dinov2-base with model.safetensors and config.json",
        "huggingface.co/facebook/dinov2-base",
    ),
    "inception": Source(
        load_inception,
        ("inception",),
        "pt_inception-2015-12-05-6726825d.pth",
        "the releases of github.com/mseitzer/pytorch-fid",
    ),
}


def feature_fn(
    name: str,
    path: str | os.PathLike[str],
    *,
    preprocessing: str = "",
    batch_size: int = 8,
) -> FeatureFn:
    """Returns a published network's features from weights the user has; nothing is downloaded.

    Args:
        name: One of ``sscd``, ``sscd_large``, ``xrv``, ``rad_dino``, ``dinov2``, ``inception``.
        path: The weights: a file, or for the DINOv2 networks also a folder.
        preprocessing: Which of the network's preprocessings; "" is its authors' own. SSCD also has
            ``sscd_square`` (320×320) and ``sscd_center_crop``, which replication papers use.
        batch_size: Images at a time.

    Raises:
        ValueError: An unknown name or preprocessing, a missing file, or weights that do not fit.
    """
    if name not in SOURCES:
        raise ValueError(
            f"There is no published network {name!r}, expected one of {', '.join(SOURCES)}."
        )
    source = SOURCES[name]
    chosen = preprocessing or source.preprocessings[0]
    if chosen not in source.preprocessings:
        raise ValueError(
            f"The preprocessing {chosen!r} does not belong to {name}, expected one of "
            f"{', '.join(source.preprocessings)}."
        )
    place = epath.Path(path)
    if not place.exists():
        raise ValueError(
            f"The weights of {name} are not at {os.fspath(path)}; nothing is downloaded: get "
            f"{source.file} from {source.publisher} and give its path."
        )
    published = source.load(place)
    _check_trunk(name, published.module, place)
    settings = _settings(place, PREPROCESSINGS[chosen])
    return published_features(
        published.module,
        published.params,
        settings,
        weights=_weights_name(name, place),
        batch_size=batch_size,
    )


def _weights_name(name: str, place: epath.Path) -> str:
    """The file's name without its endings; the network's name goes before where it is not in it."""
    weights = place.name.split(".", 1)[0]
    same = weights.replace("-", "_").startswith(name.removesuffix("_large"))
    return weights if same else f"{name} {weights}"


def _check_trunk(name: str, module: Any, place: epath.Path) -> None:
    large = getattr(module, "groups", 1) > 1
    if name in ("sscd", "sscd_large") and large != (name == "sscd_large"):
        other = "sscd_large" if large else "sscd"
        raise ValueError(
            f"The file {os.fspath(place)} holds the network called {other}, not {name}; ask for "
            f"{other}, or give {SOURCES[name].file}."
        )


def _settings(place: epath.Path, default: Preprocessing) -> Preprocessing:
    """Lets a folder's ``preprocessor_config.json`` decide sizes, mean and std, where it has one."""
    file = place / "preprocessor_config.json"
    if not place.is_dir() or not file.is_file():
        return default
    config = read_settings(file)
    try:
        side, crop = int(config["size"]["shortest_edge"]), int(config["crop_size"]["height"])
        mean = tuple(float(v) for v in config["image_mean"])
        std = tuple(float(v) for v in config["image_std"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The file {os.fspath(file)} lacks size.shortest_edge, crop_size.height, image_mean or "
            "image_std; fetch it again, or remove it to use the defaults."
        ) from error
    numbers = f"mean {', '.join(map(str, mean))}, std {', '.join(map(str, std))}"
    label = f"short side {side} bicubic, center crop {crop}, {numbers}"
    return dataclasses.replace(default, label=label, side=side, crop=crop, mean=mean, std=std)
