"""The tables that CheXpert was published with, each as rows of ``train.csv``.

==============================  ==================================================================
``train.csv``, ``valid.csv``    v1.0: labels of the CheXpert labeler, of radiologists
``train_cheXbert.csv``,         v1.0: the same rows with labels of CheXbert, of visualCheXbert
``train_visualCheXbert.csv``
``val_labels.csv``,             CheXlocalize: radiologists' labels alone; the view is in the file's
``test_labels.csv``             name
``groundtruth.csv``             labels of the test set's studies
``df_chexpert_plus_*.csv``      CheXpert Plus, whose labels lie in
                                ``chexbert_labels/impression_fixed.json``
==============================  ==================================================================
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from memjax.data import storage
from memjax.data.labels.space import FINDINGS, suggestion
from memjax.data.problems import Problems
from memjax.data.readers.chexpert_places import Layout, folders_of_tables
from memjax.data.readers.tables import Table, cells_of, lines_of, open_text, read_table
from memjax.runtime.json import loads

COLUMNS: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
FILES: dict[str, tuple[str, ...]] = {
    "train": ("train.csv", "train_cheXbert.csv", "train_visualCheXbert.csv"),
    "valid": ("valid.csv", "val_labels.csv"),
    "test": ("test.csv", "test_labels.csv", "groundtruth.csv"),
}
LABELERS: dict[str, str] = {
    "": "",
    "cheXbert": "train_cheXbert.csv",
    "visualCheXbert": "train_visualCheXbert.csv",
}
SECTIONS: tuple[str, ...] = ("impression", "report", "findings")  # of a report, in CheXpert Plus
_FOLDER = "the folder that holds CheXpert's train.csv and valid.csv, or its batch folders"
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".xlsx", ".parquet")
_PLUS = "df_chexpert_plus_*.csv"
_PLUS_COLUMNS = {
    "path_to_image": "Path",
    "sex": "Sex",
    "age": "Age",
    "frontal_lateral": "Frontal/Lateral",
    "ap_pa": "AP/PA",
}


def table_path(root: Any, split: str, labels: str = "") -> str:
    """Where the table of a split lies; the usual place where there is none.

    Args:
        root: The folder, or ``gs://…``.
        split: ``train``, ``valid`` or ``test``.
        labels: One of :data:`LABELERS`, or a section of CheXpert Plus's reports.

    Raises:
        ValueError: If there are no such labels.
    """
    if labels not in (*LABELERS, *SECTIONS):
        known = [*LABELERS, *SECTIONS][1:]
        raise ValueError(
            f"data.labels is {labels!r}{suggestion(labels, known)}; expected one of {known}, or '' "
            "for those of the table itself."
        )
    folders, usual = folders_of_tables(root), FILES[split]
    if labels and split == "train":
        usual = (LABELERS[labels],) if LABELERS.get(labels) else ()
    paths = [f"{folder}/{name}" for name in usual for folder in folders]
    plus = [] if split == "test" or LABELERS.get(labels) else _plus_tables(folders)
    found = next((path for path in paths if storage.exists(path)), None)
    return found or next(iter(plus), None) or f"{folders[0]}/{(usual or FILES[split])[0]}"


def unread_tables(root: Any, labels: str = "") -> list[str]:
    """Names of the tables in the folder that no split is read from."""
    read = {table_path(root, split, labels if split == "train" else "") for split in FILES}
    used = {path.rsplit("/", 1)[-1] for path in read} | {"markers.csv"}
    found = {name for folder in folders_of_tables(root) for name in storage.list_folder(folder)}
    return sorted(name for name in found - used if name.lower().endswith(_SUFFIXES))


def _plus_tables(folders: Sequence[str]) -> list[str]:
    return [
        f"{folder}/{name}"
        for folder in folders
        for name in storage.list_folder(folder)
        if fnmatch.fnmatch(name, _PLUS)
    ]


class Rows(NamedTuple):
    """What a table holds.

    Attributes:
        name: Of the table, for messages.
        rows: Where each row stands, and its cells as in ``train.csv``.
        remarks: What one should know of every image: ``labeled by …``, ``read without …``.
    """

    name: str
    rows: Iterator[tuple[str, dict[str, str]]]
    remarks: list[str]


def rows_of(path: str, layout: Layout, split: str, labels: str, problems: Problems) -> Rows:
    """Reads the table of a split, and what belongs to it.

    Raises:
        ValueError: The table, or that of its labels, cannot be read or has other columns.
    """
    name = path.rsplit("/", 1)[-1]
    if fnmatch.fnmatch(name, _PLUS):
        return _plus(path, split, labels, problems)
    if name == "groundtruth.csv":
        table = _read(path, ("Study", *FINDINGS))
        return Rows(name, _study_rows(table, layout, problems), [])
    bare = name in ("val_labels.csv", "test_labels.csv")
    table = _read(path, ("Path", *FINDINGS) if bare else COLUMNS)
    unread = [column or "one without a name" for column in table.unread]
    remarks = [f"read without a column of {name}: {column}" for column in unread]
    if split == "train" and name != FILES["train"][0]:
        remarks.append(f"labeled by {name}")
    rows = ((f"{name} row {number}", row) for number, row in table.rows)
    given = ((where, row | _view(row["Path"]) if bare else row) for where, row in rows)
    return Rows(name, given, remarks)


def _read(path: str, columns: Sequence[str]) -> Table:
    return read_table(path, columns, whose="CheXpert's", where=_FOLDER, open_ended=True)


def _view(path: str) -> dict[str, str]:
    """What the name of a file says, where its table says nothing of view, sex and age."""
    side = "Lateral" if "lateral" in path.rsplit("/", 1)[-1].lower() else "Frontal"
    return {"Sex": "", "Age": "", "Frontal/Lateral": side, "AP/PA": ""}


def _study_rows(
    table: Table, layout: Layout, problems: Problems
) -> Iterator[tuple[str, dict[str, str]]]:
    """A row for each image of each study: the table has one for all images of a study."""
    for number, row in table.rows:
        where = f"{table.name} row {number}"
        found = list(layout.images_of(row["Study"]))
        if not found:
            problems.add("study without images", f"{where}: {row['Study'][:80]}")
        for place in found:
            yield where, {**row, "Path": place, **_view(place)}


def _plus(path: str, split: str, labels: str, problems: Problems) -> Rows:
    table = read_table(
        path,
        tuple(_PLUS_COLUMNS),
        whose="CheXpert Plus's",
        where=_FOLDER,
        optional=("split", *FINDINGS),
        open_ended=True,
    )
    if not labels and table.rows and all(name in table.rows[0][1] for name in FINDINGS):
        own = {row["path_to_image"]: cells_of(row) for _, row in table.rows}
        return Rows(table.name, _plus_rows(table, split, own, problems), [])
    file = _plus_file(path, labels)
    states = _plus_labels(file, problems)
    remarks = [f"labeled by {file.rsplit('/', 1)[-1]}"]
    return Rows(table.name, _plus_rows(table, split, states, problems), remarks)


def _plus_rows(
    table: Table, split: str, states: Mapping[str, dict[str, str]], problems: Problems
) -> Iterator[tuple[str, dict[str, str]]]:
    for number, row in table.rows:
        where, place = f"{table.name} row {number}", row["path_to_image"]
        if (row.get("split") or place.split("/")[0]).lower() != split:
            continue
        found = states.get(place)
        if found is None:
            problems.add("no labels", f"{where}: {place[:80]}")
            continue
        cells = {name: row[column] for column, name in _PLUS_COLUMNS.items()}
        yield where, {**row, **cells, **{name: found[name] for name in FINDINGS}}


def _plus_file(path: str, labels: str) -> str:
    """The file of labels beside a table of CheXpert Plus."""
    folder = path.rpartition("/")[0]
    places = [
        f"{folder}/{inner}{section}_fixed.json"
        for section in ([labels] if labels else SECTIONS)
        for inner in ("chexbert_labels/", "")
    ]
    file = next((place for place in places if storage.exists(place)), None)
    if file is None:
        raise ValueError(
            f"{path} carries no findings, and {places[0]} is not there; expected CheXpert Plus's "
            "chexbert_labels beside the table: fetch and unpack chexbert_labels.zip."
        )
    return file


def _plus_labels(file: str, problems: Problems) -> dict[str, dict[str, str]]:
    """Image → text of each finding; JSON lines, whatever the file's suffix says."""
    found = {}
    with open_text(file, _FOLDER) as text:
        for number, line in enumerate(lines_of(text), start=1):
            where = f"{file.rsplit('/', 1)[-1]} line {number}"
            try:
                row = loads(line) if line.strip() else None
                if row is not None:
                    states = {name: row[name] for name in FINDINGS}
                    found[row["path_to_image"]] = {
                        name: "" if state is None else str(state) for name, state in states.items()
                    }
            except (ValueError, KeyError, TypeError) as error:
                problems.add("line without labels", f"{where} ({str(error)[:60]})")
    return found
