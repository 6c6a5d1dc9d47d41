"""Broken tables and images: one sentence that helps, and earlier results stay as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from memjax.data.readers.chexpert import read_chexpert
from memjax.data.readers.mimic import read_mimic
from memjax.data.readers.nih import read_nih
from memjax.report.pages.dataset import FILES
from memjax.runtime.locks import hold
from tests.commands import memjax
from tests.data.readers.chest_folders import (
    NIH_HEADER,
    chexpert_row,
    jpeg,
    mimic_metadata_row,
    write_chexpert,
    write_mimic,
    write_nih,
)

WRITERS = {
    "chexpert": write_chexpert,
    "nih": write_nih,
    "mimic": lambda root: write_mimic(root, packed=False),
}
NIH, MIMIC = "Data_Entry_2017_v2020.csv", "mimic-cxr-2.0.0-"
IMAGE = "train/patient00001/study1/view1_frontal.jpg"


class Case(NamedTuple):
    kind: str
    damage: Callable[[Path], object]
    words: tuple[str, ...]  # what the one sentence must say
    flags: tuple[str, ...] = ()


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return damage


def overwrite(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(data)


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))


def add(name: str, line: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text((root / name).read_text() + line + "\n")


def rows(*changes: dict[str, str]) -> Callable[[Path], object]:
    return lambda root: write_chexpert(
        root, [chexpert_row(n, **change) for n, change in enumerate(changes, start=1)]
    )


def escape(root: Path) -> None:
    write_chexpert(root)
    replace("train.csv", "small/train/patient00002", "small/../../patient00002")(root)


def as_folder(name: str) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        (root / name).unlink()
        (root / name).mkdir()

    return damage


def bomb(data: bytes) -> bytes:
    """The same JPEG with a header that promises 60,000 × 60,000 pixels."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + (60_000).to_bytes(2, "big") * 2 + data[at + 4 :]


def nothing(root: Path) -> None:
    """The mistake is in the flags."""


def policy(text: str) -> tuple[str, ...]:
    return (f"--config.data.uncertainty={text}",)


CASES = {
    "torn utf-16": Case("chexpert", edit("train.csv", lambda b: b.decode().encode("utf-16")[:-1]),
                        ("train.csv", "is not UTF-8", "save it as UTF-8")),
    "nul bytes": Case("chexpert", edit("train.csv", lambda b: b.decode().encode("utf-16-le")),
                      ("train.csv", "NUL bytes", "save it as UTF-8")),
    "nul in a cell": Case("chexpert", replace("train.csv", "1.0", "1.0\0"),
                          ("impossible value", "row 2", "'Edema'")),
    "latin-1": Case("chexpert", edit("train.csv", lambda b: b.replace(b"Male", "Mâle".encode(
        "latin-1"))), ("train.csv", "is not UTF-8")),
    "open quote": Case("chexpert", replace("train.csv", "CheXpert-v1.0-small/train/patient00001",
                                           '"CheXpert-v1.0-small/train/patient00001'),
                       ("train.csv is not a CSV table", "unexpected end of data", "line 3")),
    "quote within a quote": Case("chexpert", add("train.csv", '"a"b,'),
                                 ("train.csv is not a CSV table", "line 4")),
    "missing column": Case("chexpert", replace("train.csv", "Edema,", ""),
                           ("lacks 'Edema'", "expected at least CheXpert's 19 columns")),
    "misspelt column": Case("chexpert", replace("train.csv", "Pleural Other", "Plural Other"),
                            ("lacks 'Pleural Other'", "is it misspelt as 'Plural Other'")),
    "doubled column": Case("chexpert", replace("train.csv", "Path,Sex,", "Path,Sex,Sex,"),
                           ("names twice 'Sex'",)),
    "ragged row": Case("chexpert", add("train.csv", "CheXpert-v1.0-small/train/patient00003/study1"
                                       "/a.jpg,Male"), ("wrong number of cells", "row 4: -17")),
    "empty table": Case("chexpert", overwrite("train.csv", b""),
                        ("train.csv is empty", "expected a CSV table")),
    "header only": Case("chexpert", edit("train.csv", lambda b: b.split(b"\n")[0] + b"\n"),
                        ("train.csv", "has no usable row")),
    "endless cell": Case("chexpert", add("train.csv", '"' + "a" * 200_000),
                         ("train.csv is not a CSV table", "save it again")),
    "table is a folder": Case("chexpert", as_folder("train.csv"),
                              ("train.csv cannot be read", "expected the folder that holds")),
    "impossible value": Case("chexpert", rows({"Edema": "2"}, {}),
                             ("impossible value", "row 2, column 'Edema': '2'")),
    "impossible age": Case("chexpert", rows({"Age": "-4"}, {}),
                           ("impossible age", "column 'Age': '-4'")),
    "path out of the root": Case("chexpert", escape, ("bad path", "row 3", "..")),
    "missing image": Case("chexpert", lambda root: (root / IMAGE).unlink(),
                            ("missing file", "patient00001")),
    "torn jpeg": Case("chexpert", edit(IMAGE, lambda b: b[: len(b) // 3]),
                      ("corrupt image", "patient00001")),
    "text named jpg": Case("chexpert", overwrite(IMAGE, b"no image\n"),
                           ("corrupt image", "patient00001", "not an image")),
    "no bytes": Case("chexpert", overwrite(IMAGE, b""), ("corrupt image", "patient00001")),
    "decompression bomb": Case("chexpert", edit(IMAGE, bomb), ("corrupt image", "pixels")),
    "other kind of image": Case("chexpert", overwrite(IMAGE, b"GIF89a\x01"),
                                  ("corrupt image", "patient00001")),
    "unknown policy": Case("chexpert", nothing, ("'once'", "did you mean 'ones'"), policy("once")),
    "policy of no finding": Case("chexpert", nothing, ("'Oedema' is not a finding", "'Edema'"),
                                 policy('{"Oedema": "ones"}')),
    "impossible chance": Case("chexpert", nothing, ("resample(1.5)", "from 0 to 1"),
                              policy("resample(1.5)")),
    "rows of no finding": Case("chexpert", nothing, ("rows_with", "Fracture", "None of 2 rows"),
                               ("--config.data.rows_with=('Fracture',)",)),
    "unknown kind": Case("chexpert", nothing, ("'chexprt'", "did you mean 'chexpert'"),
                         ("--config.data.kind=chexprt",)),
    "nih: unknown label": Case("nih", replace(NIH, "|Effusion", "|Efusion"),
                               ("'Efusion'", "did you mean 'Effusion'", "row 3")),
    "nih: contradiction": Case("nih", replace(NIH, "No Finding,0,2", "No Finding|Edema,0,2"),
                               ("contradictory labels", "row 4")),
    "nih: age": Case("nih", replace(NIH, ",58,", ",412Y,"), ("impossible age", "row 3", "412")),
    "nih: other patient": Case("nih", replace(NIH, "Mass|Nodule|Pleural_Thickening,0,4",
                                              "Mass,0,5"), ("'Patient ID': '5'", "expected 4")),
    "nih: misspelt column": Case("nih", replace(NIH, "Finding Labels", "Finding Lables"),
                                 ("lacks 'Finding Labels'", "misspelt as 'Finding Lables'")),
    "nih: no sex": Case("nih", replace(NIH, "Patient Gender", "Gender of patient"),
                        ("lacks 'Patient Gender' (or 'Patient Sex')",)),
    "nih: no list": Case("nih", lambda root: (root / "test_list.txt").unlink(),
                         ("test_list.txt cannot be read", "'all'")),
    "nih: header only": Case("nih", overwrite(NIH, NIH_HEADER.encode()), ("no usable row",)),
    "mimic: view": Case("mimic", replace(f"{MIMIC}metadata.csv", ",PA,", ",ABOVE,"),
                        ("impossible value", "'ViewPosition': 'ABOVE'")),
    "mimic: no labels": Case("mimic", lambda root: (root / f"{MIMIC}chexpert.csv").unlink(),
                             (f"{MIMIC}chexpert.csv cannot be read", "expected the folder")),
    "mimic: path": Case("mimic", add(f"{MIMIC}metadata.csv", mimic_metadata_row(
        ("../../x", "10000032", "50414267", "PA", "21800506"))), ("no split", "../../x", "row 6")),
    "mimic: value": Case("mimic", replace(f"{MIMIC}chexpert.csv", "-1.0", "maybe"),
                         ("impossible value", "'Edema': 'maybe'")),
    "mimic: split": Case("mimic", replace(f"{MIMIC}split.csv", "validate", "valdate"),
                         ("split", "'valdate'")),
    "mimic: torn gzip": Case("mimic", lambda root: (root / f"{MIMIC}metadata.csv").rename(
        root / f"{MIMIC}metadata.csv.gz"), ("metadata.csv.gz cannot be unpacked", "fetch it")),
}  # fmt: skip


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def show(root: Path, out: Path, kind: str, *flags: str):
    return memjax(
        "data",
        "--config=phantoms_demo",
        f"--config.data.kind={kind}",
        f"--config.data.root={root}",
        "--config.data.strict=True",
        "--size=16",
        f"--out={out}",
        *flags,
    )


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_nothing_overwritten(tmp_path, name):
    case = CASES[name]
    root = WRITERS[case.kind](tmp_path / "data")
    case.damage(root)
    out = tmp_path / "earlier"
    with hold(out, FILES):
        (out / "data.html").write_text("an earlier page")
    before = snapshot(tmp_path)
    done = show(root, out, case.kind, *case.flags)
    assert done.code == 2, done.out
    assert done.err.startswith("memjax: ")
    assert done.err.count("\n") == 1
    assert len(done.err) < 1500
    for word in case.words:
        assert word in done.err
    assert snapshot(tmp_path) == before


def test_there_are_enough_kinds_of_damage():
    assert len(CASES) >= 40
    assert {case.kind for case in CASES.values()} == set(WRITERS)


@pytest.mark.parametrize("kind", WRITERS)
def test_sound_folders_are_read_and_shown(tmp_path, kind):
    root = WRITERS[kind](tmp_path / "data")
    done = show(root, tmp_path / "out", kind)
    assert done.code == 0, done.err
    assert "data.html" in done.out
    assert (tmp_path / "out" / "data.json").is_file()


def test_a_byte_order_mark_is_no_column_name(tmp_path):
    for kind, table in (("nih", NIH), ("mimic", f"{MIMIC}metadata.csv"), ("chexpert", "train.csv")):
        root = WRITERS[kind](tmp_path / kind)
        (root / table).write_bytes(b"\xef\xbb\xbf" + (root / table).read_bytes())
    assert not read_chexpert(tmp_path / "chexpert")[1]
    assert not read_nih(tmp_path / "nih", "all")[1]
    assert not read_mimic(tmp_path / "mimic", "all")[1]


def test_without_strict_the_rest_is_used(tmp_path):
    root = write_chexpert(tmp_path / "data")
    (root / IMAGE).write_bytes(jpeg()[:40])
    done = show(root, tmp_path / "out", "chexpert", "--config.data.strict=False")
    assert done.code == 0, done.err
    assert "1 problem was found" in done.out
    assert "corrupt image" in (tmp_path / "out" / "problems.csv").read_text()
