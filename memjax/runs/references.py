"""The training images of prompts, and what images are compared with: SSCD, CLIP or pixels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from memjax.data.images import SUFFIXES, load_image
from memjax.evaluate.features.clip_score import ClipScore
from memjax.evaluate.features.published import PREPROCESSINGS, published_features
from memjax.evaluate.similarity.measures import MEASURES, FeatureLikeness, Likeness, weightless

FIELDS = ("image", "file_name")
_SSCD = ("sscd", "sscd_center_crop")  # its authors' own, and the one of papers on replication


def reference_paths(
    rows: Sequence[Mapping[str, Any]], prompts: str | Path, folder: str = ""
) -> list[list[Path]]:
    """Returns the training images of every prompt; none where a prompt names none.

    Args:
        rows: Prompt rows; ``image`` or ``file_name`` is a path, or a list of paths, relative to
            the prompt file.
        prompts: That file.
        folder: Folder with images called after the prompts' ids (``ID.png``, or any name within
            a sub-folder ``ID``); comes first.

    Raises:
        ValueError: If the folder or an image is not there; nothing is fetched from an address.
    """
    base, place = Path(prompts).parent, Path(folder) if folder else None
    if place is not None and not place.is_dir():
        raise ValueError(
            f"--references={folder} is not a folder: give a folder with images called after the "
            "prompts' ids, or write the field 'image' into the prompts."
        )
    return [_of_row(row, base, place) for row in rows]


def _of_row(row: Mapping[str, Any], base: Path, place: Path | None) -> list[Path]:
    found = _in_folder(str(row["id"]), place) if place is not None else []
    given: Any = next((row[name] for name in FIELDS if row.get(name)), [])
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"prompt {row['id']!r} has image={str(given)[:60]!r}, expected a path or a list of "
            "paths relative to the prompt file."
        )
    for name in [] if found else names:
        if "://" in name:
            raise ValueError(
                f"prompt {row['id']!r} has image={name[:80]!r}, expected a path on this machine: "
                "nothing is downloaded, save the image and give its path."
            )
        path = base / name
        if not path.is_file():
            raise ValueError(
                f"prompt {row['id']!r} names the training image {name!r}, which is not at "
                f"{path}: give its path relative to the prompt file, or leave 'image' out."
            )
        found.append(path)
    return found


def _in_folder(name: str, place: Path) -> list[Path]:
    if "/" in name or "\\" in name or name in (".", ".."):
        return []
    single = [place / f"{name}{suffix}" for suffix in SUFFIXES]
    inner = sorted((place / name).iterdir()) if (place / name).is_dir() else []
    return [p for p in [*single, *inner] if p.is_file() and p.suffix.lower() in SUFFIXES]


def load_references(
    paths: Sequence[Path], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "r h w c"] | None:
    """Returns a prompt's training images cut and resized to the model's images, or None.

    Args:
        paths: The images.
        shape: ``(height, width, channels)`` of the model's; the central square is taken.

    Raises:
        ValueError: If the model's images are no squares, or a file is no image.
    """
    if not paths:
        return None
    if shape[0] != shape[1]:
        raise ValueError(
            f"the model's images are {shape[1]}×{shape[0]}, expected squares: training images "
            "can be compared with squares alone."
        )
    return np.stack([load_image(path, shape[0], shape[2]) for path in paths])


def sscd_likeness(path: str) -> list[Likeness]:
    """Returns SSCD with its authors' preprocessing and with the one of papers on replication.

    Raises:
        ValueError: If the file is missing or holds something else.
    """
    from memjax.interop.published import load_sscd

    if not Path(path).exists():
        raise ValueError(
            f"--sscd={path} is not there: nothing is downloaded, get sscd_disc_mixup or "
            "sscd_disc_large from the README of github.com/facebookresearch/sscd-copy-detection."
        )
    found = load_sscd(Path(path))
    name = Path(path).name.split(".", 1)[0]
    weights = name if name.startswith("sscd") else f"sscd {name}"
    return [
        FeatureLikeness(
            key,
            published_features(found.module, found.params, PREPROCESSINGS[key], weights=weights),
        )
        for key in _SSCD
    ]


def likeness_measures(sscd: str, names: Sequence[str] = ()) -> list[Likeness]:
    """Returns the measures that are named; with SSCD's weights, that beside them.

    Args:
        sscd: File of SSCD's weights, or "".
        names: Of :data:`memjax.evaluate.similarity.measures.MEASURES`; none stands for SSCD alone
            where there are weights, and for all that need no network elsewhere.
    """
    named = [MEASURES.parse(name) for name in names]
    if sscd:
        return [*sscd_likeness(sscd), *named]
    return named or weightless()


def clip_score(folder: str) -> ClipScore | None:
    """Returns the CLIP score of a folder of weights, or None where none is given."""
    if not folder:
        return None
    from memjax.interop.clip.load import load_clip

    if not Path(folder).is_dir():
        raise ValueError(
            f"--clip={folder} is not a folder: give a CLIP model's folder as transformers or "
            "open_clip lays it out."
        )
    return ClipScore(load_clip(folder))
