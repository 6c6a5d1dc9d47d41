"""Procedural chest radiographs in CheXpert's own layout, with duplicates planted on purpose.

Real JPEGs and tables, no patient: the same seed gives the same files with the same versions of
NumPy and Pillow on the same kind of machine. ``phantoms.json`` says which files are duplicates.
"""

import csv
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image

from memjax.data.labels.space import BLANK, NEGATIVE, POSITIVE, UNCERTAIN
from memjax.data.phantoms.patients import Film, Patient
from memjax.data.readers.chexpert import COLUMNS, MARKER_COLUMNS
from memjax.runtime.files import naming, write_bytes
from memjax.runtime.json import dumps, loads
from memjax.runtime.locks import hold

VERSION = 1
PREFIX = "CheXpert-v1.0-small/"
# CheXpert numbers its validation patients on from its last training patient.
FIRST_HELD_OUT = 64541
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_CELLS = {BLANK: "", NEGATIVE: "0.0", POSITIVE: "1.0", UNCERTAIN: "-1.0"}


class _Settings(NamedTuple):
    seed: int
    size: int
    num_images: int
    num_held_out: int
    num_duplicated: int
    copies: int
    studies_per_patient: tuple[int, int]
    lateral_fraction: float
    markers: bool
    marker_scale: int
    certain_held_out: bool
    quality: int


class _Row(NamedTuple):
    path: str
    film: Film
    group: str
    crc: int


def write_phantoms(
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: int = 128,
    num_images: int = 400,
    num_held_out: int = 150,
    num_duplicated: int = 8,
    copies: int = 75,
    studies_per_patient: tuple[int, int] = (1, 3),
    lateral_fraction: float = 0.05,
    markers: bool = True,
    marker_scale: int = 1,
    certain_held_out: bool = False,
    quality: int = 90,
) -> dict[str, Any]:
    """Write a phantom data set in the layout of CheXpert-v1.0-small.

    Args:
        root: Folder for ``train/``, ``valid/``, ``train.csv``, ``valid.csv``, ``markers.csv`` and
            ``phantoms.json``. A folder that holds the same phantoms already is left as it is.
        seed: Decides every patient, finding and pixel.
        size: Edge of the images in pixels, 32 to 2048.
        num_images: Frontal training images that stand once.
        num_held_out: Frontal images of other patients, in ``valid.csv``.
        num_duplicated: Training images that stand ``copies`` times, each of its own patient.
        copies: Files of each duplicated image: byte-identical, as further studies.
        studies_per_patient: Fewest and most studies of a patient (of images that stand once).
        lateral_fraction: Chance of a further lateral film in a study.
        markers: Whether each image carries a code of two tokens, burned in and in
            ``markers.csv``. Every image has its own pair out of a shared vocabulary, copies
            share theirs, and the pairs of held-out images do not occur in training.
        marker_scale: Enlarges the burned-in code (1: letters of 3 by 5 pixels at 64²).
        certain_held_out: Whether ``valid.csv`` holds 0 and 1 only, as CheXpert's does; otherwise
            its labels read like those of ``train.csv``, so that held-out prompts do too.
        quality: JPEG quality.

    Returns:
        The manifest: settings, ``groups`` (id → markers and paths), ``singles``, ``held_out``,
        ``marker_vocabulary``, versions. Paths are relative to ``root``.

    Raises:
        ValueError: An impossible setting, or a folder that holds other data.
    """
    settings = _Settings(
        seed, size, num_images, num_held_out, num_duplicated, copies, studies_per_patient,
        lateral_fraction, markers, marker_scale, certain_held_out, quality,
    )  # fmt: skip
    _check(settings)
    folder = Path(root)
    found = _existing(folder, settings)
    if found is not None:
        return found
    with hold(folder, flag="data.root"):
        return _existing(folder, settings) or _drawn(folder, settings)


def _drawn(folder: Path, settings: _Settings) -> dict[str, Any]:
    pairs = _marker_pairs(settings)
    train = [*_write_duplicates(folder, settings, pairs), *_write_split(folder, settings, pairs)]
    valid = list(_write_split(folder, settings, pairs, held_out=True))
    write_text(folder / "markers.csv", _markers_table([*train, *valid]))
    write_text(folder / "valid.csv", _table(valid))
    write_text(folder / "train.csv", _table(train))
    manifest = _manifest(settings, train, valid)
    write_text(folder / "phantoms.json", dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def _check(s: _Settings) -> None:
    low, high = s.studies_per_patient
    for name, good, wanted in (
        ("seed", s.seed >= 0, "at least 0"),
        ("size", 32 <= s.size <= 2048, "32 to 2048 pixels"),
        ("num_images", s.num_images >= 0, "at least 0"),
        ("num_held_out", s.num_held_out >= 0, "at least 0"),
        ("num_duplicated", s.num_duplicated >= 0, "at least 0"),
        ("copies", s.copies >= 1, "at least 1"),
        ("studies_per_patient", 1 <= low <= high, "(fewest, most) with 1 ≤ fewest ≤ most"),
        ("lateral_fraction", 0 <= s.lateral_fraction <= 1, "a share from 0 to 1"),
        ("marker_scale", 1 <= s.marker_scale <= 4, "1 to 4"),
        ("quality", 1 <= s.quality <= 100, "1 to 100"),
    ):
        if not good:
            raise ValueError(f"{name} is {getattr(s, name)}; expected {wanted}.")
    if not s.num_images + s.num_duplicated:
        raise ValueError("num_images and num_duplicated are both 0; ask for at least one image.")


def _existing(folder: Path, settings: _Settings) -> dict[str, Any] | None:
    """The manifest of the same phantoms, if the folder holds them whole."""
    manifest = folder / "phantoms.json"
    if manifest.is_file():
        try:
            found = loads(manifest.read_bytes())
        except ValueError as error:
            raise ValueError(f"{manifest} is not JSON; choose another folder.") from error
        same = found.get("settings") == _plain(settings) and found.get("version") == VERSION
        if not same:
            raise ValueError(f"{folder} holds phantoms of other settings; choose another folder.")
        refuse_changed(folder, found.get("crc32", {}))
        return found
    # The manifest is written last, so a train.csv without one but with our side table is ours.
    if (folder / "train.csv").exists() and not (folder / "markers.csv").exists():
        raise ValueError(f"{folder} holds another data set (train.csv); choose another folder.")
    return None


def refuse_changed(folder: Path, seals: Mapping[str, int]) -> None:
    """Refuses drawn images that have changed since; version 0.1 did not seal them.

    Args:
        folder: Where they lie.
        seals: Path in the folder → CRC-32 of the file.

    Raises:
        ValueError: Naming the first one.
    """

    def same(path: str, seal: int) -> bool:
        try:
            return zlib.crc32((folder / path).read_bytes()) == seal
        except FileNotFoundError:
            return False

    changed = [path for path, seal in seals.items() if not same(path, seal)]
    if changed:
        raise ValueError(
            f"{len(changed)} of {len(seals)} images in {folder} are not as they were drawn (the "
            f"first is {changed[0]}): remove the folder, and they are drawn anew."
        )


def _plain(settings: _Settings) -> dict[str, Any]:
    return loads(dumps(settings._asdict()))


def vocabulary(num_pairs: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two lists of short codes that make at least ``num_pairs`` pairs.

    Raises:
        ValueError: More pairs than the codes can make.
    """
    edge = max(8, int(np.ceil(np.sqrt(1.2 * num_pairs))))
    first = [f"{a}{2 + (3 * i + k) % 8}" for k in range(8) for i, a in enumerate(_LETTERS)]
    second = [str(n) for n in (range(10, 100) if edge <= 90 else range(100, 1000))]
    if edge > len(first):
        raise ValueError(
            f"{num_pairs} images need more marker codes than there are; set markers=False."
        )
    return tuple(sorted(first[:edge])), tuple(second[:: len(second) // edge][:edge])


def _num_pairs(s: _Settings) -> int:
    """An upper bound of the images that need a pair of their own."""
    frontal = s.num_images + s.num_held_out + s.num_duplicated
    return frontal + min(frontal, int(3 * s.lateral_fraction * frontal) + 10)


def _marker_pairs(s: _Settings) -> Iterator[tuple[str, ...]]:
    """Distinct marker pairs in random order."""
    if not s.markers:
        while True:
            yield ()
    first, second = vocabulary(_num_pairs(s))
    order = np.random.default_rng([s.seed, 77]).permutation(len(first) * len(second))
    for number in order:
        yield first[number // len(second)], second[number % len(second)]


def _write_duplicates(
    folder: Path, s: _Settings, pairs: Iterator[tuple[str, ...]]
) -> Iterator[_Row]:
    for index in range(s.num_duplicated):
        patient = Patient(s.seed, index + 1)
        film = patient.film(1, size=s.size, markers=next(pairs), marker_scale=s.marker_scale)
        jpeg = _jpeg(film, s.quality)
        for study in range(1, s.copies + 1):
            path = f"train/patient{index + 1:05d}/study{study}/view1_frontal.jpg"
            yield _write(folder, path, film, jpeg, f"dup{index:03d}")


def _write_split(
    folder: Path, s: _Settings, pairs: Iterator[tuple[str, ...]], held_out: bool = False
) -> Iterator[_Row]:
    split, number, wanted = "train", s.num_duplicated + 1, s.num_images
    if held_out:
        split, number, wanted = "valid", FIRST_HELD_OUT, s.num_held_out
    options: dict[str, Any] = {"size": s.size, "marker_scale": s.marker_scale}
    options["certain"] = held_out and s.certain_held_out
    while wanted:
        patient = Patient(s.seed, number, s.studies_per_patient)
        for study in range(1, min(patient.num_studies, wanted) + 1):
            base = f"{split}/patient{number:05d}/study{study}"
            film = patient.film(study, markers=next(pairs), **options)
            yield _write(folder, f"{base}/view1_frontal.jpg", film, _jpeg(film, s.quality))
            wanted -= 1
            if np.random.default_rng([s.seed, 2, number, study]).random() < s.lateral_fraction:
                film = patient.film(study, frontal=False, markers=next(pairs), **options)
                yield _write(folder, f"{base}/view2_lateral.jpg", film, _jpeg(film, s.quality))
        number += 1


def _jpeg(film: Film, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(film.pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _write(folder: Path, path: str, film: Film, jpeg: bytes, group: str = "") -> _Row:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file):
        file.write_bytes(jpeg)
    return _Row(path, film._replace(pixels=film.pixels[:0]), group, zlib.crc32(jpeg))


def write_text(path: Path, text: str) -> None:
    """Write so that a half-written table is never read."""
    write_bytes(path, text.encode())


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def _table(rows: Sequence[_Row]) -> str:
    cells = []
    for path, film, _, _ in rows:
        shot = "Frontal" if film.frontal else "Lateral"
        findings = [_CELLS[state] for state in film.findings]
        cells.append([PREFIX + path, film.sex, film.age, shot, film.view, *findings])
    return _csv(COLUMNS, cells)


def _markers_table(rows: Sequence[_Row]) -> str:
    cells = [[PREFIX + row.path, *(row.film.markers or ("", "")), row.group] for row in rows]
    return _csv(MARKER_COLUMNS, cells)


def _manifest(s: _Settings, train: Sequence[_Row], valid: Sequence[_Row]) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    for row in train:
        if row.group:
            group = groups.setdefault(row.group, {"markers": list(row.film.markers), "paths": []})
            group["paths"].append(row.path)
    words = vocabulary(_num_pairs(s)) if s.markers else ()
    return {
        "version": VERSION,
        "settings": _plain(s),
        "versions": {"numpy": np.__version__, "pillow": PIL.__version__},
        "groups": groups,
        "crc32": {row.path: row.crc for row in (*train, *valid)},
        "singles": [row.path for row in train if row.film.frontal and not row.group],
        "held_out": [row.path for row in valid if row.film.frontal],
        "marker_vocabulary": [list(codes) for codes in words],
    }
