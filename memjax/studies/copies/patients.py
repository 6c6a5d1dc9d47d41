"""Whose image is it: patients from a table, by file name."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from memjax.data.readers.tables import read_table
from memjax.studies.copies.reading import ReadImages

FILE_COLUMNS = ("file_name", "path", "image index", "image", "filename", "dicom_id")
PATIENT_COLUMNS = ("patient", "patient id", "patient_id", "subject_id")
_IN_PATH = re.compile(r"(?:^|/)(patient\d+)/")  # CheXpert's own layout


def read_patients(table: str) -> dict[str, str]:
    """Returns file → patient of a CSV table: a column with file names, and one with patients.

    Columns may be called as in ChestX-ray14 or MIMIC-CXR; in CheXpert's ``train.csv`` the patient
    is part of the path.

    Raises:
        ValueError: If the table cannot be read, or has no such columns.
    """
    found = read_table(
        table, (), whose="a patient table's", where="a CSV table", optional=None, open_ended=True
    )
    header = {name.lower(): name for _, row in found.rows[:1] for name in row}
    file = next((header[name] for name in FILE_COLUMNS if name in header), None)
    patient = next((header[name] for name in PATIENT_COLUMNS if name in header), None)
    if file is None:
        raise ValueError(_lacks(table, "file names", FILE_COLUMNS, header))
    named = {row[file]: row[patient] if patient else _of_path(row[file]) for _, row in found.rows}
    named = {place: who for place, who in named.items() if place and who}
    if not named:
        raise ValueError(_lacks(table, "patients", PATIENT_COLUMNS, header))
    return named


def _lacks(table: str, what: str, known: Iterable[str], header: Mapping[str, str]) -> str:
    columns = ", ".join(name for name in header.values() if not name.startswith("#")) or "none"
    return (
        f"--patients={table} has no column of {what} (it has {columns[:200]}), expected one called "
        f"{' or '.join(known)}: rename it."
    )


def _of_path(path: str) -> str:
    match = _IN_PATH.search(path.replace("\\", "/"))
    return match[1] if match else ""


def patients_of(read: ReadImages, named: Mapping[str, str]) -> np.ndarray:
    """Returns the patient of every row, "" where the table does not say.

    A file is found by the longest end of its path that the table and the folder share; a name that
    stands for several patients there stands for none.
    """
    ends: dict[str, set[str]] = {}
    for place, who in named.items():
        for end in _ends(place):
            ends.setdefault(end, set()).add(who)
    return np.asarray([_patient(read.path(row), ends) for row in range(len(read.number))], object)


def _patient(path: str, ends: Mapping[str, set[str]]) -> str:
    """The full path is tried first, then ever shorter ends of it."""
    for end in _ends(path):
        found = ends.get(end, set())
        if len(found) == 1:
            return next(iter(found))
        if found:
            return ""
    return ""


def _ends(place: str) -> list[str]:
    """``a/b/c.png``, ``b/c.png``, ``c.png`` without their endings, the longest first."""
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".")]
    stem = parts[-1].rsplit(".", 1)[0] if parts else ""
    return ["/".join([*parts[i:-1], stem]) for i in range(len(parts))]
