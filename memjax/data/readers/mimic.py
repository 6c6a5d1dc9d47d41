"""MIMIC-CXR-JPG as it is distributed, read into the same records as CheXpert.

Four tables are joined: images (``metadata``), labels per study (``chexpert``, else ``negbio``),
the split, and, where it was put beside them, MIMIC-IV's ``patients`` for sex and age. All may be
packed (``.csv.gz``). The labels are CheXpert's 14 with the same four states.

Of a film without a view position (15,769 have none) ViewCodeSequence_CodeMeaning says it; where
that is empty, too, the film is frontal if the procedure's name speaks of AP or PA alone. Films
whose view is not known are no frontal films, and are counted.

The age at a film is ``anchor_age + (year of StudyDate − anchor_year)``; MIMIC gives everyone above
89 the age 91.

References:
    Johnson et al. 2019, "MIMIC-CXR-JPG", arXiv:1901.07042, section 2.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from memjax.data import storage
from memjax.data.labels.space import FINDINGS, state_of, suggestion
from memjax.data.problems import Problems
from memjax.data.readers.chexpert import present
from memjax.data.readers.tables import (
    OLDEST,
    Table,
    first_that_exists,
    read_table,
    sex_of,
    surplus_cells,
)
from memjax.data.records import Record

METADATA: tuple[str, ...] = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate")
LABELERS: tuple[str, ...] = ("chexpert", "negbio")
LABELS: tuple[str, ...] = ("subject_id", "study_id", *FINDINGS)
SPLIT: tuple[str, ...] = ("dicom_id", "study_id", "subject_id", "split")
PATIENTS: tuple[str, ...] = ("subject_id", "gender", "anchor_age", "anchor_year")
SPLITS: dict[str, str] = {
    "train": "train",
    "valid": "validate",
    "validate": "validate",
    "test": "test",
}
VIEW_CODE = "ViewCodeSequence_CodeMeaning"
PROCEDURES = ("ProcedureCodeSequence_CodeMeaning", "PerformedProcedureStepDescription")
# ViewPosition → (view, frontal). Oblique films and those without a word count as not frontal.
VIEWS_OF: dict[str, tuple[str, bool]] = {
    **dict.fromkeys(("AP", "AP AXIAL", "AP LLD", "AP RLD"), ("AP", True)),
    **dict.fromkeys(("PA", "PA LLD", "PA RLD"), ("PA", True)),
    "LL": ("LL", False),
    "RL": ("RL", False),
    **dict.fromkeys(
        ("LATERAL", "XTABLE LATERAL", "LAO", "RAO", "LPO", "RPO", "SWIMMERS", "L5 S1"),
        ("", False),
    ),
}
# The words of DICOM's context group 4010.
VIEWS_OF_CODES: dict[str, tuple[str, bool]] = {
    "antero-posterior": ("AP", True),
    "postero-anterior": ("PA", True),
    "frontal": ("", True),
    "left lateral": ("LL", False),
    "right lateral": ("RL", False),
}

_PREFIX = "mimic-cxr-2.0.0-"
_FOLDER = f"the folder that holds MIMIC-CXR-JPG's {_PREFIX}metadata.csv and files/"
_STATES = {text: state_of(text) for text in ("", "1", "1.0", "0", "0.0", "-1", "-1.0")}
_SEXES = {"M": "Male", "F": "Female", "": ""}
_DICOM = re.compile(r"[0-9a-f]+(?:-[0-9a-f]+)*")


class _Person(NamedTuple):
    sex: str
    age: int
    year: int


def read_mimic(
    root: str | os.PathLike[str],
    split: Literal["train", "valid", "validate", "test", "all"] = "train",
    *,
    labels: str = "",
    frontal_only: bool = True,
    strict: bool = False,
    check_files: bool = True,
    examples: int = 5,
) -> tuple[list[Record], Problems]:
    """Join the tables of a MIMIC-CXR-JPG folder; every bad row is counted and named.

    Args:
        root: The folder (or ``gs://…``) with the tables and ``files/p10/p10000032/s50414267/``.
        split: ``train``, ``valid`` (MIMIC's "validate"), ``test`` or ``all``.
        labels: ``chexpert`` or ``negbio``; ``""`` for the first of them that is there.
        frontal_only: Leave out films that are not frontal (this is no problem and is not counted,
            but for films whose view is not known).
        strict: Refuse a data set with problems.
        check_files: Look whether every image file is there.
        examples: How many examples of each kind of problem are kept.

    Returns:
        The records in the order of the metadata table, and what was wrong.

    Raises:
        ValueError: A table is missing or has wrong columns, no usable row; with ``strict`` any
            problem.
    """
    base = storage.root_text(root)
    problems = Problems(examples)
    if labels not in ("", *LABELERS):
        raise ValueError(
            f"data.labels is {labels!r}{suggestion(labels, LABELERS)}; expected one of "
            f"{LABELERS}, or '' for the first that is there."
        )
    pictures = _table(base, ("metadata",), METADATA, (VIEW_CODE, *PROCEDURES))
    chosen = _of_split(base, pictures, split, problems)
    kinds = (labels,) if labels else LABELERS
    studies = _labels(_table(base, kinds, LABELS), {r["study_id"] for _, r in chosen}, problems)
    people = _people(base, {row["subject_id"] for _, row in chosen}, problems)
    records, seen = [], set()
    for number, row in chosen:
        name, where = row["dicom_id"], f"{pictures.name} row {number}"
        if name in seen:
            problems.add("repeated path", f"{where}: {name[:80]}")
            continue
        seen.add(name)
        record = _record(base, row, where, studies, people, problems)
        if record is None:
            continue
        if record.frontal or not frontal_only:
            records.append(record)
        elif not (row["ViewPosition"] or row.get(VIEW_CODE)):
            problems.add("view not known", f"{where}: {name}")
    if check_files:
        records = present(records, problems)
    if strict:
        problems.refuse()
    if not records:
        raise ValueError(
            f"{pictures.name} in {base} has no usable row of split {split!r}. {problems.summary()}"
        )
    return records, problems


def _table(
    base: str, kinds: Sequence[str], columns: Sequence[str], optional: Sequence[str] = ()
) -> Table:
    names = [f"{_PREFIX}{kind}.csv" for kind in kinds]
    path = first_that_exists(base, names) or f"{base}/{names[0]}"
    return read_table(
        path,
        columns,
        whose="MIMIC-CXR-JPG's",
        where=_FOLDER,
        optional=optional,
        open_ended=True,
    )


def _of_split(
    base: str, pictures: Table, split: str, problems: Problems
) -> list[tuple[int, dict[str, str]]]:
    """The images of a split; an image without one is counted where "train" is read."""
    if split == "all":
        return pictures.rows
    if split not in SPLITS:
        raise ValueError(
            f"split is {split!r}{suggestion(split, [*SPLITS, 'all'])}; expected 'train', 'valid', "
            "'test' or 'all'."
        )
    table = _table(base, ("split",), SPLIT)
    split_of = {row["dicom_id"]: row["split"] for _, row in table.rows}
    if SPLITS[split] == "train" or SPLITS[split] not in split_of.values():
        for number, row in table.rows:
            if row["split"] not in SPLITS.values():
                where = f"{table.name} row {number}, column 'split'"
                problems.add("impossible value", f"{where}: {row['split'][:40]!r}")
        for number, row in pictures.rows:
            if row["dicom_id"] not in split_of:
                where = f"{pictures.name} row {number}"
                problems.add("no split", f"{where}: {row['dicom_id'][:80]!r}")
    return [row for row in pictures.rows if split_of.get(row[1]["dicom_id"]) == SPLITS[split]]


def _labels(
    table: Table, wanted: set[str], problems: Problems
) -> dict[str, tuple[int, ...] | None]:
    """Wanted study → states of the 14 findings; None where a value was impossible (and counted)."""
    studies: dict[str, tuple[int, ...] | None] = {}
    for number, row in table.rows:
        where, study = f"{table.name} row {number}", row["study_id"]
        if study not in wanted:
            continue
        if study in studies:
            problems.add("repeated study", f"{where}: {study[:40]}")
            continue
        if surplus_cells(row):
            problems.add("wrong number of cells", f"{where}: {surplus_cells(row):+d}")
            studies[study] = None
            continue
        bad = [name for name in FINDINGS if row[name] not in _STATES]
        for name in bad:
            problems.add("impossible value", f"{where}, column {name!r}: {row[name][:40]!r}")
        studies[study] = None if bad else tuple(_STATES[row[name]] for name in FINDINGS)
    return studies


def _people(base: str, wanted: set[str], problems: Problems) -> dict[str, _Person]:
    path = first_that_exists(base, ("patients.csv",))
    if path is None:
        return {}
    table = read_table(path, PATIENTS, whose="MIMIC-IV's", where=_FOLDER, open_ended=True)
    people = {}
    for number, row in table.rows:
        if row["subject_id"] not in wanted:
            continue
        where = f"{table.name} row {number}"
        cells = [row["anchor_age"], row["anchor_year"]]
        if not all(cell.isascii() and cell.isdigit() for cell in cells) or int(cells[0]) > OLDEST:
            problems.add("impossible age", f"{where}: {', '.join(cells)[:40]!r}")
            cells = ["0", "0"]
        sex = sex_of(row["gender"], where, "gender", _SEXES, problems)
        people[row["subject_id"]] = _Person(sex, int(cells[0]), int(cells[1]))
    return people


def _record(
    base: str,
    row: dict[str, str],
    where: str,
    studies: Mapping[str, tuple[int, ...] | None],
    people: Mapping[str, _Person],
    problems: Problems,
) -> Record | None:
    if surplus_cells(row):
        problems.add("wrong number of cells", f"{where}: {surplus_cells(row):+d}")
        return None
    subject, study, name = row["subject_id"], row["study_id"], row["dicom_id"]
    numbers = all(part.isascii() and part.isdigit() for part in (subject, study))
    if not numbers or not _DICOM.fullmatch(name):
        problems.add("bad path", f"{where}: {f'{subject}/{study}/{name}'[:80]!r}")
        return None
    seen = _view(row, where, problems)
    if seen is None:
        return None
    if study not in studies:
        problems.add("no labels", f"{where}: study {study[:40]}")
    findings = studies.get(study)
    if findings is None:
        return None
    view, frontal = seen
    person = people.get(subject, _Person("", 0, 0))
    return Record(
        path=f"{base}/files/p{subject[:2]}/p{subject}/s{study}/{name}.jpg",
        patient=f"p{subject}",
        study=f"s{study}",
        view=view,
        sex=person.sex,
        age=_age(person, row["StudyDate"], where, problems),
        frontal=frontal,
        findings=findings,
    )


def _view(row: Mapping[str, str], where: str, problems: Problems) -> tuple[str, bool] | None:
    """The view and whether the film is frontal; None where a word is none of a view's."""
    position = row["ViewPosition"].upper()
    if position:
        if position not in VIEWS_OF:
            written = row["ViewPosition"][:40]
            problems.add("impossible value", f"{where}, column 'ViewPosition': {written!r}")
        return VIEWS_OF.get(position)
    code = row.get(VIEW_CODE, "").lower()
    if code:
        problems.note(f"given a view by {VIEW_CODE}")
        return VIEWS_OF_CODES.get(code, ("", False))
    for column in PROCEDURES:
        words = set(re.findall(r"[A-Z]+", row.get(column, "").upper()))
        views = words & {"AP", "PA"}
        if len(views) == 1 and not words & {"LAT", "LATERAL", "OBLIQUE", "OBL"}:
            problems.note(f"given a view by {column}")
            return views.pop(), True
    return "", False


def _age(person: _Person, date: str, where: str, problems: Problems) -> int | None:
    """Years at the film; None where the patient is not in the table or the date is impossible."""
    if not person.age:
        return None
    if not re.fullmatch(r"\d{8}", date, re.ASCII):
        problems.add("impossible date", f"{where}, column 'StudyDate': {date[:40]!r}")
        return None
    years = person.age + int(date[:4]) - person.year
    if not 0 <= years <= OLDEST:
        problems.add("impossible age", f"{where}, column 'StudyDate': {date!r} gives {years}")
        return None
    return years or None
