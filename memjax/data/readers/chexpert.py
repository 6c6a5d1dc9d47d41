"""CheXpert as it is distributed: v1.0 and v1.0-small, with every bad row counted and named.

v1.0 at full size unzips into ``CheXpert-v1.0 batch 1 (validate & csv)``, which holds the tables and
``valid``, and ``CheXpert-v1.0 batch 2 (train 1)`` and so on, which hold the patients of ``train``.
It is read as it lies, from the folder around these or from the one with the tables.

References:
    Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert
    Comparison", arXiv:1901.07031.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from memjax.data import storage
from memjax.data.images import CorruptImageError, image_reading
from memjax.data.labels.space import FINDINGS, state_of
from memjax.data.problems import Problems
from memjax.data.readers.tables import Table, age_of, read_table, sex_of, surplus_cells
from memjax.data.records import Record

COLUMNS: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
MARKER_COLUMNS: tuple[str, ...] = ("Path", "marker_1", "marker_2", "group")
_PREFIX = re.compile(r"^CheXpert-v1\.0[^/]*/")
_BATCH = re.compile(r"CheXpert-v1\.0[^/]* batch [^/]+")
_PLACE = re.compile(r"(patient\w+)/(study\w+)/[^/]+$")
_STATES = {text: state_of(text) for text in ("", "1", "1.0", "0", "0.0", "-1", "-1.0")}

_SEXES = {"Male": "Male", "Female": "Female", "Unknown": "", "": ""}
_FOLDER = "the folder that holds CheXpert's train.csv and valid.csv, or its batch folders"


def read_chexpert(
    root: str | os.PathLike[str],
    split: Literal["train", "valid"] = "train",
    *,
    frontal_only: bool = True,
    strict: bool = False,
    check_files: bool = True,
    examples: int = 5,
) -> tuple[list[Record], Problems]:
    """Read ``train.csv`` or ``valid.csv`` of a CheXpert folder.

    A row with an impossible value, a bad path or a missing file is left out and counted. An
    impossible age or sex is counted and the row kept without it.

    Args:
        root: The folder (or ``gs://…``) that holds the table: ``CheXpert-v1.0`` or
            ``CheXpert-v1.0-small``; or the folder that holds v1.0's batch folders.
        split: Which table.
        frontal_only: Leave lateral views out (this is no problem and is not counted).
        strict: Refuse a data set with problems.
        check_files: Look whether every image file is there.
        examples: How many examples of each kind of problem are kept.

    Returns:
        The records in the table's order, and what was wrong.

    Raises:
        ValueError: No such table, wrong columns, no usable row; with ``strict`` any problem.
    """
    base = base_folder(root)
    table = _read_table(table_path(root, split), COLUMNS)
    problems = Problems(examples)
    layout = _layout(base)
    extras = _read_markers(base, layout)
    records, seen = [], set()
    for number, row in table.rows:
        place = layout.place(row["Path"])
        where = f"{table.name} row {number}"
        if place is None:
            problems.add("bad path", f"{where}: {row['Path'][:80]!r}")
            continue
        if place in seen:
            problems.add("repeated path", f"{where}: {place}")
            continue
        seen.add(place)
        record = _record(base, place, row, where, problems, extras.get(place))
        if record is not None and (record.frontal or not frontal_only):
            records.append(record)
    if check_files:
        records = present(records, problems)
    if strict:
        problems.refuse()
    if not records:
        raise ValueError(f"{table.name} in {base} has no usable row. {problems.summary()}")
    return records, problems


def _read_table(path: str, expected: Sequence[str]) -> Table:
    return read_table(path, expected, whose="CheXpert's", where=_FOLDER)


def base_folder(root: str | os.PathLike[str]) -> str:
    """The folder that places are relative to: around the batch folders where ``root`` is one."""
    base = storage.root_text(root)
    outer, _, name = base.rpartition("/")
    return (outer or ".") if _BATCH.fullmatch(name) else base


def table_path(root: str | os.PathLike[str], split: str) -> str:
    """Where a table lies: in the root, else around it or in one of the batch folders."""
    base = base_folder(root)
    places = [storage.root_text(root), base]
    places += [f"{base}/{name}" for name in _batch_folders(storage.list_folder(base))]
    paths = [f"{place}/{split}.csv" for place in places]
    return next((path for path in paths if storage.exists(path)), paths[0])


def _batch_folders(names: Sequence[str]) -> list[str]:
    return [name for name in names if _BATCH.fullmatch(name)]


class _Layout(NamedTuple):
    """How the folder lies.

    Attributes:
        names: What is in it.
        moved: Where a patient of a batch folder lies: ``patient00001`` or ``valid/patient64541`` →
            the patient's folder.
    """

    names: frozenset[str]
    moved: dict[str, str]

    def place(self, path: str) -> str | None:
        """The path below the root, or None where it is absolute, climbs out, or has no patient."""
        written = path.replace("\\", "/")
        place = _PREFIX.sub("", written)
        if place.startswith("/") or ":" in place or "\0" in place or ".." in place.split("/"):
            return None
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
        return written if top in self.names and place.split("/")[0] not in self.names else place


def _layout(base: str) -> _Layout:
    names = storage.list_folder(base)
    moved = {}
    for batch in _batch_folders(names):
        for name in storage.list_folder(f"{base}/{batch}"):
            if name in ("train", "valid"):
                inner = storage.list_folder(f"{base}/{batch}/{name}")
                moved.update({f"{name}/{place}": f"{batch}/{name}/{place}" for place in inner})
            else:
                moved[name] = f"{batch}/{name}"
    return _Layout(frozenset(names), moved)


def _record(
    base: str,
    place: str,
    row: dict[str, str],
    where: str,
    problems: Problems,
    extra: dict[str, str] | None,
) -> Record | None:
    if surplus_cells(row):
        problems.add("wrong number of cells", f"{where}: {surplus_cells(row):+d}")
        return None
    bad = [name for name in FINDINGS if row[name] not in _STATES]
    if row["Frontal/Lateral"] not in ("Frontal", "Lateral"):
        bad.append("Frontal/Lateral")
    if row["AP/PA"] not in ("AP", "PA", "LL", "RL", ""):
        bad.append("AP/PA")
    for name in bad:
        problems.add("impossible value", f"{where}, column {name!r}: {row[name][:40]!r}")
    if bad:
        return None
    patient, study = _PLACE.search(place).groups()  # type: ignore[union-attr]
    extra = extra or {}
    return Record(
        path=f"{base}/{place}",
        patient=patient,
        study=study,
        view=row["AP/PA"],
        sex=sex_of(row["Sex"], where, "Sex", _SEXES, problems),
        age=age_of(row["Age"], where, "Age", problems),
        frontal=row["Frontal/Lateral"] == "Frontal",
        findings=tuple(_STATES[row[name]] for name in FINDINGS),
        markers=tuple(extra[k] for k in ("marker_1", "marker_2") if extra.get(k)),
        group=extra.get("group", ""),
    )


def _read_markers(base: str, layout: _Layout) -> dict[str, dict[str, str]]:
    """The optional side table of burned-in markers and known duplicates."""
    path = f"{base}/markers.csv"
    if not storage.exists(path):
        return {}
    rows = _read_table(path, MARKER_COLUMNS).rows
    return {place: row for _, row in rows if (place := layout.place(row["Path"])) is not None}


def present(records: Sequence[Record], problems: Problems) -> list[Record]:
    """The records whose image is there; the others are counted."""
    kept = []
    for record in records:
        if storage.exists(record.path):
            kept.append(record)
        else:
            problems.add("missing file", record.path)
    return kept


def check_images(
    records: Sequence[Record], *, strict: bool = False, examples: int = 5
) -> tuple[list[Record], Problems]:
    """Decode every image once; leave out and count the corrupt ones, note what reading changes.

    Raises:
        ValueError: With ``strict``, if any file is corrupt.
    """
    kept, problems = [], Problems(examples)
    for record in records:
        try:
            reading = image_reading(record.path)
        except CorruptImageError as error:
            problems.add("corrupt image", f"{record.path} ({error.reason})")
            continue
        kept.append(record)
        problems.decoded(reading.bits, reading.notes)
    if strict:
        problems.refuse()
    return kept, problems


def patient_split(
    records: Sequence[Record], holdout_fraction: float, seed: int = 0
) -> tuple[list[Record], list[Record]]:
    """Hold out whole patients: by a hash of seed and patient, whatever the order of rows.

    Raises:
        ValueError: ``holdout_fraction`` outside [0, 1).
    """
    if not 0 <= holdout_fraction < 1:
        raise ValueError(f"holdout_fraction is {holdout_fraction}; expected a share in [0, 1).")
    train: list[Record] = []
    held: list[Record] = []
    for record in records:
        digest = hashlib.sha256(f"{seed}/{record.patient}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        (held if share < holdout_fraction else train).append(record)
    return train, held
