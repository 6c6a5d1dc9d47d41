"""Small CheXpert, NIH and MIMIC folders in the format they are distributed in."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
from PIL import Image

from memjax.data.labels.space import FINDINGS
from memjax.data.readers.chexpert import COLUMNS as CHEXPERT_COLUMNS

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NIH_ROWS = (
    "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,Cardiomegaly|Effusion,1,1,58,M,PA,2894,2729,0.143,0.143",
    "00000002_000.png,No Finding,0,2,80,F,AP,2500,2048,0.171,0.171",
    "00000003_000.png,Hernia|Infiltration,0,3,74,F,PA,2500,2048,0.168,0.168",
    "00000004_000.png,Mass|Nodule|Pleural_Thickening,0,4,82,M,AP,2500,2048,0.168,0.168",
)
MIMIC_METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
    "StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning"
)
MIMIC_LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,"
    "Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,"
    "Pneumothorax,Support Devices"
)
MIMIC_FILMS = (
    # dicom, subject, study, view, date, split
    ("02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "10000032", "50414267", "PA", "21800506"),
    ("174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962", "10000032", "50414267", "LATERAL", "21800506"),
    ("2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab", "10000032", "53189527", "AP", "21800626"),
    ("68b5c4b1-227d0485-9cc38c3f-7b84ab51-4b472714", "10000764", "57375967", "AP", "21321015"),
)
MIMIC_SPLITS = ("train", "train", "train", "validate")


def jpeg(size=(8, 10), value=90, kind="JPEG") -> bytes:
    """A tiny gray image."""
    out = io.BytesIO()
    pixels = np.full(size, value, np.uint8)
    pixels[::2] += 40
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_lines(path: Path, *lines: str, packed: bool = False) -> None:
    data = ("\n".join(lines) + "\n").encode()
    put(path.with_name(path.name + ".gz") if packed else path, gzip.compress(data)
        if packed else data)  # fmt: skip


def chexpert_row(number: int = 1, **changes: str) -> dict[str, str]:
    cells = dict.fromkeys(CHEXPERT_COLUMNS, "")
    cells["Path"] = f"CheXpert-v1.0-small/train/patient{number:05d}/study1/view1_frontal.jpg"
    cells |= {"Sex": "Male", "Age": "61", "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
    return cells | changes


def write_chexpert(root: Path, rows=None) -> Path:
    rows = rows or [chexpert_row(1, Edema="1.0"), chexpert_row(2, Edema="-1.0")]
    out = io.StringIO(newline="")
    lines = [[row[column] for column in CHEXPERT_COLUMNS] for row in rows]
    csv.writer(out, lineterminator="\n").writerows([CHEXPERT_COLUMNS, *lines])
    put(root / "train.csv", out.getvalue().encode())
    for row in rows:
        put(root / row["Path"].split("/", 1)[1], jpeg())
    return root


def write_nih(root: Path, rows=NIH_ROWS, header=NIH_HEADER, *, one_folder=False,
              table="Data_Entry_2017_v2020.csv") -> Path:  # fmt: skip
    write_lines(root / table, header, *rows)
    names = [row.split(",")[0] for row in rows]
    for place, name in enumerate(names):
        folder = "images" if one_folder else f"images_{1 + place % 12:03d}/images"
        put(root / folder / name, jpeg(kind="PNG"))
    write_lines(root / "train_val_list.txt", *names[:-1])
    write_lines(root / "test_list.txt", names[-1])
    return root


def mimic_metadata_row(film) -> str:
    dicom, subject, study, view, date = film
    return f'{dicom},{subject},{study},"CHEST (PA AND LAT)",{view},3056,2544,{date},213014.53,,,'


def mimic_label_row(subject, study, **changes) -> str:
    names = MIMIC_LABELS.split(",")[2:]
    assert sorted(names) == sorted(FINDINGS)
    return ",".join([subject, study, *(changes.get(n.replace(" ", "_"), "") for n in names)])


def write_mimic(root: Path, *, packed=True, labels="chexpert", patients=True) -> Path:
    prefix = "mimic-cxr-2.0.0-"
    films = [mimic_metadata_row(film) for film in MIMIC_FILMS]
    write_lines(root / f"{prefix}metadata.csv", MIMIC_METADATA, *films, packed=packed)
    rows = [
        mimic_label_row("10000032", "50414267", No_Finding="1.0"),
        mimic_label_row("10000032", "53189527", Edema="-1.0", Pneumonia="0.0"),
        mimic_label_row("10000764", "57375967", Consolidation="1.0", Support_Devices="1.0"),
    ]
    write_lines(root / f"{prefix}{labels}.csv", MIMIC_LABELS, *rows, packed=packed)
    lines = [
        f"{film[0]},{film[2]},{film[1]},{split}"
        for film, split in zip(MIMIC_FILMS, MIMIC_SPLITS, strict=True)
    ]
    header = "dicom_id,study_id,subject_id,split"
    write_lines(root / f"{prefix}split.csv", header, *lines, packed=packed)
    if patients:
        header = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"
        people = ["10000032,F,52,2180,2014 - 2016,2180-09-09", "10000764,M,86,2130,2014 - 2016,"]
        write_lines(root / "patients.csv", header, *people, packed=packed)
    for dicom, subject, study, *_ in MIMIC_FILMS:
        put(root / f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg", jpeg())
    return root
