"""CheXpert as it is distributed: v1.0, v1.0-small and Plus, with every bad row counted and named.

:mod:`memjax.data.readers.chexpert_tables` says which tables are read, and
:mod:`memjax.data.readers.chexpert_places` where images are looked for.

References:
    Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert
    Comparison", arXiv:1901.07031.
    Smit et al. 2020, "CheXbert", arXiv:2004.09167.
    Chambon et al. 2024, "CheXpert Plus", arXiv:2405.19538.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Literal

from memjax.data import storage
from memjax.data.images import CorruptImageError, image_reading
from memjax.data.labels.space import FINDINGS, state_of
from memjax.data.problems import Problems
from memjax.data.readers.chexpert_places import Layout, layout_of, patient_and_study
from memjax.data.readers.chexpert_tables import COLUMNS, rows_of, table_path, unread_tables
from memjax.data.readers.tables import age_of, read_table, sex_of, surplus_cells
from memjax.data.records import Record

__all__ = ["COLUMNS", "MARKER_COLUMNS", "check_images", "patient_split", "present", "read_chexpert"]

MARKER_COLUMNS: tuple[str, ...] = ("Path", "marker_1", "marker_2", "group")
_STATES = {text: state_of(text) for text in ("", "1", "1.0", "0", "0.0", "-1", "-1.0")}
_SEXES = {"Male": "Male", "Female": "Female", "Unknown": "", "": ""}
_SUFFIXES = (".jpg", ".png", ".jpeg")


def read_chexpert(
    root: str | os.PathLike[str],
    split: Literal["train", "valid", "test"] = "train",
    *,
    labels: str = "",
    frontal_only: bool = True,
    strict: bool = False,
    check_files: bool = True,
    examples: int = 5,
) -> tuple[list[Record], Problems]:
    """Read the table of a split of a CheXpert folder.

    A row with an impossible value, a bad path or a missing file is left out and counted. An
    impossible age or sex is counted and the row kept without it.

    Args:
        root: The folder (or ``gs://…``) that holds the table: ``CheXpert-v1.0`` or
            ``CheXpert-v1.0-small``; or the folder that holds v1.0's batch folders.
        split: Which table.
        labels: Whose labels of the training set: ``cheXbert`` or ``visualCheXbert`` (v1.0), the
            section of the report that they are read from (CheXpert Plus), or ``""`` for those of
            the table itself.
        frontal_only: Leave lateral views out (this is no problem and is not counted).
        strict: Refuse a data set with problems.
        check_files: Look whether every image file is there.
        examples: How many examples of each kind of problem are kept.

    Returns:
        The records in the table's order, and what was wrong.

    Raises:
        ValueError: No such table, wrong columns, no usable row; with ``strict`` any problem.
    """
    problems = Problems(examples)
    layout = layout_of(root, split)
    name, rows, remarks = rows_of(table_path(root, split, labels), layout, split, labels, problems)
    if split == "train":
        remarks += [f"read without the table {other}" for other in unread_tables(root, labels)]
    extras = _read_markers(layout)
    records, seen = [], set()
    for where, row in rows:
        place = layout.place(row["Path"])
        if place is None:
            problems.add("bad path", f"{where}: {row['Path'][:80]!r}")
            continue
        if place in seen:
            problems.add("repeated path", f"{where}: {place}")
            continue
        seen.add(place)
        record = _record(layout.base, place, row, where, problems, extras.get(place))
        if record is not None and (record.frontal or not frontal_only):
            records.append(record)
    if check_files:
        records = present(records, problems)
    for _ in records:
        for remark in remarks:
            problems.note(remark)
    if strict:
        problems.refuse()
    if not records:
        raise ValueError(f"{name} in {layout.base} has no usable row. {problems.summary()}")
    return records, problems


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
    patient, study = patient_and_study(place)
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


def _read_markers(layout: Layout) -> dict[str, dict[str, str]]:
    """The optional side table of burned-in markers and known duplicates."""
    path = f"{layout.base}/markers.csv"
    if not storage.exists(path):
        return {}
    rows = read_table(path, MARKER_COLUMNS, whose="memjax's", where="a table of markers").rows
    return {place: row for _, row in rows if (place := layout.place(row["Path"])) is not None}


def present(records: Sequence[Record], problems: Problems) -> list[Record]:
    """The records whose image is there, in the table's format or in another; others are counted."""
    kept = []
    for record in records:
        stem = os.path.splitext(record.path)[0]
        paths = dict.fromkeys([record.path, *(stem + suffix for suffix in _SUFFIXES)])
        found = next((path for path in paths if storage.exists(path)), None)
        if found is None:
            problems.add("missing file", record.path)
            continue
        kept.append(record._replace(path=found))
        if found != record.path:
            written, real = (os.path.splitext(path)[1] for path in (record.path, found))
            problems.note(f"found as {real}, where the table says {written}")
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
