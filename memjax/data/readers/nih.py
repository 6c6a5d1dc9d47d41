"""NIH ChestX-ray14 as it is distributed, read into the same records as CheXpert.

====================================  ==================================================
NIH's label                           becomes
====================================  ==================================================
Atelectasis, Cardiomegaly,            the finding of that name
Consolidation, Edema, Pneumonia,
Pneumothorax, No Finding
Effusion                              Pleural Effusion
Pleural_Thickening                    Pleural Other
Mass, Nodule                          Lung Lesion
Infiltration                          Lung Opacity (NIH's word for an opacity of any cause)
Emphysema, Fibrosis, Hernia           none: CheXpert has no such finding, the row keeps its others
====================================  ==================================================

NIH's labels say what a report mentions, so a finding NIH labels and a row does not list is
negative. Lung Opacity is blank where Infiltration is not listed (a consolidation is an opacity too)
unless the row says "No Finding". What NIH never labels (Enlarged Cardiomediastinum, Fracture,
Support Devices) is blank. Ages below one year are "unknown": a record's age counts whole years.

References:
    Wang et al. 2017, "ChestX-ray8", arXiv:1705.02315, section 3.
"""

import os
import re
from collections.abc import Sequence
from typing import Literal

from memjax.data import storage
from memjax.data.labels.space import BLANK, FINDINGS, NEGATIVE, POSITIVE, suggestion
from memjax.data.problems import Problems
from memjax.data.readers.tables import (
    Table,
    age_of,
    first_that_exists,
    read_lines,
    read_table,
    sex_of,
    surplus_cells,
)
from memjax.data.records import Record

TABLES: tuple[str, ...] = (
    "Data_Entry_2017_v2020.csv",
    "Data_Entry_2017.csv",
    "sample_labels.csv",  # a sample of 5,606 films that goes about by itself
)
COLUMNS: tuple[str, ...] = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "View Position",
)
SEX_COLUMNS: tuple[str, ...] = ("Patient Gender", "Patient Sex")
COUNTERPART: dict[str, str] = {
    **{
        name: name
        for name in (
            "Atelectasis",
            "Cardiomegaly",
            "Consolidation",
            "Edema",
            "Pneumonia",
            "Pneumothorax",
            "No Finding",
        )
    },
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Other",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Infiltration": "Lung Opacity",
}
WITHOUT_COUNTERPART: tuple[str, ...] = ("Emphysema", "Fibrosis", "Hernia")
LISTS: dict[str, str] = {
    "train": "train_val_list.txt",
    "valid": "test_list.txt",
    "test": "test_list.txt",
}

_KNOWN = (*COUNTERPART, *WITHOUT_COUNTERPART)
_FOLDER = "the folder that holds NIH ChestX-ray14's Data_Entry_2017_v2020.csv"
_NAME = re.compile(r"(\d{8})_(\d{3})\.png")
_FILE = re.compile(r"\d{8}_\d{3}\.(png|jpg|jpeg)")
_SEXES = {"M": "Male", "F": "Female", "": ""}
_YEARS = re.compile(r"0*(\d+)Y")
_BELOW_A_YEAR = re.compile(r"\d{3}[MD]")


def read_nih(
    root: str | os.PathLike[str],
    split: Literal["train", "valid", "test", "all"] = "train",
    *,
    frontal_only: bool = True,
    strict: bool = False,
    check_files: bool = True,
    examples: int = 5,
) -> tuple[list[Record], Problems]:
    """Read NIH's table with its patient-wise split lists; every bad row is counted and named.

    Args:
        root: The folder (or ``gs://…``) with the table, the two lists, and ``images_001/images``
            to ``images_012/images`` (also ``images_01``, ``images-224``, …) or one folder
            ``images``; as PNG or turned into JPEG.
        split: ``train`` (train_val_list.txt), ``test`` or ``valid`` (both test_list.txt), or
            ``all``, which needs no list.
        frontal_only: Accepted for likeness: every film of this data set is frontal.
        strict: Refuse a data set with problems.
        check_files: Leave out and count images that are not there.
        examples: How many examples of each kind of problem are kept.

    Returns:
        The records in the table's order, and what was wrong.

    Raises:
        ValueError: No such table or list, wrong columns, no usable row; with ``strict`` any
            problem.
    """
    base = storage.root_text(root)
    wanted = _split_names(base, split)
    path = first_that_exists(base, TABLES) or f"{base}/{TABLES[0]}"
    table = _read(path)
    problems = Problems(examples)
    folders = _folders_of_images(base)
    records, seen = [], set()
    for number, row in table.rows:
        name, where = _file_name(row["Image Index"]), f"{table.name} row {number}"
        if wanted is not None and name not in wanted:
            continue
        if name in seen:
            problems.add("repeated path", f"{where}: {name[:80]}")
            continue
        seen.add(name)
        record = _record({**row, "Image Index": name}, where, problems)
        if record is None:
            continue
        image = folders.get(name.removesuffix(".png"))
        if image is None and check_files:
            problems.add("missing file", f"{base}/images/{name}")
            continue
        if image and not image.endswith(".png"):
            problems.note(f"found as .{image.rsplit('.', 1)[-1]}, where the table says .png")
        records.append(record._replace(path=image or f"{base}/images/{name}"))
    if wanted is not None:
        for name in sorted(wanted - seen):
            problems.add("listed without a row", f"{LISTS[split]}: {name[:80]}")
    if strict:
        problems.refuse()
    if not records:
        raise ValueError(
            f"{table.name} in {base} has no usable row of split {split!r}. {problems.summary()}"
        )
    return records, problems


def _read(path: str) -> Table:
    table = read_table(
        path,
        COLUMNS,
        whose="ChestX-ray14's",
        where=_FOLDER,
        optional=SEX_COLUMNS,
        open_ended=True,
    )
    if table.rows and not any(column in table.rows[0][1] for column in SEX_COLUMNS):
        raise ValueError(
            f"{table.name} lacks 'Patient Gender' (or 'Patient Sex'); expected ChestX-ray14's "
            "columns."
        )
    return table


def _file_name(index: str) -> str:
    """The name of an image that was rewritten to a path; one that climbs out stays as it is."""
    parts = index.replace("\\", "/").split("/")
    return index if ".." in parts else parts[-1]


def _split_names(base: str, split: str) -> set[str] | None:
    if split == "all":
        return None
    if split not in LISTS:
        raise ValueError(
            f"split is {split!r}{suggestion(split, [*LISTS, 'all'])}; expected 'train', 'valid', "
            "'test' or 'all'."
        )
    where = f"the folder that holds {LISTS[split]} (ask for split 'all' to do without)"
    return set(read_lines(f"{base}/{LISTS[split]}", where))


def _folders_of_images(base: str) -> dict[str, str]:
    """File name without its suffix → path; each folder is listed once, and PNG comes first."""
    places = [f"{base}/images"]
    places += [
        f"{base}/{name}{inner}"
        for name in storage.list_folder(base)
        if name.startswith("images")
        for inner in ("/images", f"/{name}", "")
    ]
    found = {
        (match[1] == "png", match[0].rpartition(".")[0]): f"{place}/{match[0]}"
        for place in dict.fromkeys(places)
        for name in storage.list_folder(place)
        if (match := _FILE.fullmatch(name))
    }
    return {key[1]: found[key] for key in sorted(found)}


def _record(row: dict[str, str], where: str, problems: Problems) -> Record | None:
    if surplus_cells(row):
        problems.add("wrong number of cells", f"{where}: {surplus_cells(row):+d}")
        return None
    place = _NAME.fullmatch(row["Image Index"])
    if place is None:
        problems.add("bad path", f"{where}: {row['Image Index'][:80]!r}, expected 00000001_000.png")
        return None
    bad = _bad_cells(row, place[1])
    for column, expected in bad:
        problems.add(
            "impossible value", f"{where}, column {column!r}: {row[column][:40]!r}{expected}"
        )
    findings = _findings(row["Finding Labels"], where, problems)
    if bad or findings is None:
        return None
    sex = next(column for column in SEX_COLUMNS if column in row)
    return Record(
        path="",
        patient=place[1],
        study=f"study{int(row['Follow-up #']):03d}",
        view=row["View Position"],
        sex=sex_of(row[sex], where, sex, _SEXES, problems),
        age=age_of(_years(row["Patient Age"]), where, "Patient Age", problems),
        frontal=True,
        findings=findings,
    )


def _bad_cells(row: dict[str, str], number: str) -> list[tuple[str, str]]:
    bad = []
    if row["View Position"] not in ("AP", "PA"):
        bad.append(("View Position", ", expected AP or PA"))
    if not (row["Follow-up #"].isascii() and row["Follow-up #"].isdigit()):
        bad.append(("Follow-up #", ", expected a whole number"))
    patient = row["Patient ID"]
    if not (patient.isascii() and patient.isdigit() and int(patient) == int(number)):
        bad.append(("Patient ID", f", expected {int(number)} as in the file's name"))
    return bad


def _findings(text: str, where: str, problems: Problems) -> tuple[int, ...] | None:
    names = [_SPELLED.get(_folded(name), name.strip()) for name in text.split("|")]
    unknown = [name for name in names if name not in _KNOWN]
    for name in unknown:
        problems.add(
            "impossible value",
            f"{where}, column 'Finding Labels': {name[:40]!r}{suggestion(name, _KNOWN)}",
        )
    if not unknown and "No Finding" in names and len(names) > 1:
        problems.add("contradictory labels", f"{where}, column 'Finding Labels': {text[:60]!r}")
        return None
    return None if unknown else states_of(names)


def _folded(name: str) -> str:
    return name.strip().casefold().replace(" ", "_")


_SPELLED = {_folded(name): name for name in _KNOWN}


def states_of(names: Sequence[str]) -> tuple[int, ...]:
    """The states of the 14 findings for the labels of one row; see the table above."""
    present = {COUNTERPART[name] for name in names if name in COUNTERPART}
    labelled = set(COUNTERPART.values())
    if "No Finding" not in names:
        labelled -= {"Lung Opacity"}
    return tuple(
        POSITIVE if name in present else NEGATIVE if name in labelled else BLANK
        for name in FINDINGS
    )


def _years(text: str) -> str:
    """``'058Y'`` of the first release → ``'58'``; months and days → ``'0'`` (unknown)."""
    years = _YEARS.fullmatch(text)
    if years:
        return years[1]
    return "0" if _BELOW_A_YEAR.fullmatch(text) else text
