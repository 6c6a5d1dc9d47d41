"""Where the images and tables of CheXpert lie: as it unzips, moved together, or as PNG.

v1.0 at full size unzips into ``CheXpert-v1.0 batch 1 (validate & csv)``, which holds the tables and
``valid``, and ``CheXpert-v1.0 batch 2 (train 1)`` and so on, which hold the patients of ``train``.
CheXpert Plus lies in ``PNG/train`` or ``PNG/PNG/train``, CheXlocalize calls ``valid`` ``val``.
"""

import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memjax.data import storage

RELEASES: tuple[str, ...] = ("CheXpert-v1.0", "CheXpert-v1.0-small")
_PREFIX = re.compile(r"^CheXpert-v1\.0[^/]*/")
_BATCH = re.compile(r"CheXpert-v1\.0[^/]* batch [^/]+")
_PLACE = re.compile(r"(patient\w+)/(study\w+)/[^/]+$")
_TAIL = re.compile(r"(?:^|/)((?:train|valid|val|test)/patient\w+/study\w+/[^/]+)$")
_ALIASES = {"valid": "val", "val": "valid"}


def patient_and_study(place: str) -> tuple[str, str]:
    """``("patient00001", "study1")`` of a place that :meth:`Layout.place` found."""
    patient, study = _PLACE.search(place).groups()  # type: ignore[union-attr]
    return patient, study


def base_folder(root: str | os.PathLike[str]) -> str:
    """The folder that places are relative to.

    It is around the batch folders where ``root`` is one of them, and the folder of the release
    where it lies in ``root`` and the tables in it.
    """
    base = storage.root_text(root)
    outer, _, name = base.rpartition("/")
    if _BATCH.fullmatch(name):
        return outer or "."
    inner = [f"{base}/{release}" for release in RELEASES if not storage.exists(f"{base}/train.csv")]
    return next((place for place in inner if storage.exists(f"{place}/train.csv")), base)


def folders_of_tables(root: str | os.PathLike[str]) -> list[str]:
    """Where tables may lie: in the root, else around it or in one of the batch folders."""
    base = base_folder(root)
    batches = _batch_folders(storage.list_folder(base))
    return list(dict.fromkeys([storage.root_text(root), base, *(f"{base}/{b}" for b in batches)]))


def _batch_folders(names: Sequence[str]) -> list[str]:
    return [name for name in names if _BATCH.fullmatch(name)]


class Layout(NamedTuple):
    """How the folder lies.

    Attributes:
        base: The folder itself.
        split: Whose table is read, for paths that begin with the patient.
        names: What is in it.
        moved: Where a patient of a batch folder lies: ``patient00001`` or ``valid/patient64541`` →
            the patient's folder.
        below: Folders such as ``PNG/`` that hold ``train`` where the folder itself does not.
    """

    base: str
    split: str
    names: frozenset[str]
    moved: dict[str, str]
    below: str

    def place(self, path: str) -> str | None:
        """The path below the root, or None where it climbs out, lies elsewhere or has no patient.

        An absolute path is read below the root; one of another machine by its end, as in
        ``train/patient00001/study1/view1_frontal.jpg``.
        """
        written = path.replace("\\", "/").removeprefix("./")
        inside = written.removeprefix(f"{os.path.abspath(self.base)}/")
        written = inside.removeprefix(f"{self.base}/")
        place, tail = _PREFIX.sub("", written), _TAIL.search(written)
        if "://" in written or "\0" in place or ".." in written.split("/"):
            return None
        if place.startswith("/") or ":" in place:
            if tail is None:
                return None
            written = place = tail[1]
        found = _PLACE.search(place)
        if found is None:
            return None
        top = written.split("/")[0]
        if top in self.names and _BATCH.fullmatch(top):
            return written
        patient, rest = place[: found.end(1)], place[found.end(1) :]
        folder = self.moved.get(patient) or self.moved.get(patient.removeprefix("train/"))
        if folder:
            return f"{folder}{rest}"
        if top in self.names and place.split("/")[0] not in self.names:
            return written
        return self._known(place, tail[1] if tail else "")

    def _known(self, place: str, tail: str) -> str:
        """The first way to write the place whose first folder is there; else as it is."""
        for name in (place, tail, f"{self.split}/{place}" if place.startswith("patient") else ""):
            top, _, rest = name.partition("/")
            for known in (top, _ALIASES.get(top, "")):
                if known and known in self.names:
                    return f"{self.below}{known}/{rest}"
        return place

    def images_of(self, study: str) -> Iterator[str]:
        """The places of the images in a study's folder."""
        place = self.place(f"{study}/view")
        if place:
            folder = place.rpartition("/")[0]
            for name in storage.list_folder(f"{self.base}/{folder}"):
                if name.lower().endswith((".jpg", ".png")):
                    yield f"{folder}/{name}"


def layout_of(root: str | os.PathLike[str], split: str) -> Layout:
    """Looks at the folder, and at its batch folders, once."""
    base = base_folder(root)
    names, below = storage.list_folder(base), ""
    moved = {}
    for batch in _batch_folders(names):
        for name in storage.list_folder(f"{base}/{batch}"):
            if name in ("train", "valid"):
                inner = storage.list_folder(f"{base}/{batch}/{name}")
                moved.update({f"{name}/{place}": f"{batch}/{name}/{place}" for place in inner})
            else:
                moved[name] = f"{batch}/{name}"
    for folder in ("PNG/", "PNG/PNG/"):
        inner = storage.list_folder(f"{base}/{folder.rstrip('/')}")
        if not {"train", "valid"}.intersection(names) and {"train", "valid"}.intersection(inner):
            names, below = inner, folder
    return Layout(base, split, frozenset(names), moved, below)
