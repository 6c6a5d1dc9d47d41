import pytest

from memjax.data.labels.space import BLANK, FINDINGS, NEGATIVE, POSITIVE, UNCERTAIN
from memjax.data.readers.kinds import read_kind
from memjax.data.readers.mimic import read_mimic
from tests.data.readers.chest_folders import (
    MIMIC_FILMS,
    mimic_label_row,
    mimic_metadata_row,
    write_mimic,
)


def append(path, line):
    with open(path, "a") as table:
        table.write(line + "\n")


def test_rows_read_by_hand(tmp_path):
    records, problems = read_mimic(write_mimic(tmp_path), "train")
    assert not problems
    assert len(records) == 2
    film = records[1]
    place = "files/p10/p10000032/s53189527/2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab.jpg"
    assert film.path == f"{tmp_path}/{place}"
    assert film[1:7] == ("p10000032", "s53189527", "AP", "Female", 52, True)
    state = dict(zip(FINDINGS, film.findings, strict=True))
    assert (state["Edema"], state["Pneumonia"], state["Fracture"]) == (UNCERTAIN, NEGATIVE, BLANK)
    assert records[0].findings[FINDINGS.index("No Finding")] == POSITIVE


def test_age_counts_from_the_anchor_year(tmp_path):
    (film,), _ = read_mimic(write_mimic(tmp_path), "valid")
    assert (film.sex, film.age) == ("Male", 88)
    assert read_mimic(tmp_path, "validate")[0] == [film]


def test_without_the_table_of_patients_sex_and_age_are_unknown(tmp_path):
    records, problems = read_mimic(write_mimic(tmp_path, patients=False), "all")
    assert {(r.sex, r.age) for r in records} == {("", None)}
    assert not problems


def test_laterals_are_left_out_or_kept(tmp_path):
    root = write_mimic(tmp_path)
    assert len(read_mimic(root, "all")[0]) == 3
    both, problems = read_mimic(root, "all", frontal_only=False)
    assert [(r.view, r.frontal) for r in both][:2] == [("PA", True), ("", False)]
    assert not problems


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("labels", ["chexpert", "negbio"])
def test_packed_or_not_and_either_labeller(tmp_path, packed, labels):
    root = write_mimic(tmp_path, packed=packed, labels=labels)
    assert len(read_mimic(root, "all")[0]) == 3


BAD = {
    "impossible value": ("metadata", ("f0-a1", "10000032", "50414267", "UPSIDE", "21800506")),
    "repeated path": ("metadata", MIMIC_FILMS[0]),
    "bad path": ("metadata", ("../f0", "10000032", "50414267", "PA", "21800506")),
    "no labels": ("metadata", ("f0-a1", "10000032", "59999999", "PA", "21800506")),
    "missing file": ("metadata", ("f0-a1", "10000032", "50414267", "PA", "21800506")),
    "impossible date": ("metadata", ("f0-a1", "10000032", "50414267", "LL", "2180")),
    "impossible age": ("metadata", ("f0-a1", "10000032", "50414267", "LL", "99990101")),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_counted_and_named(tmp_path, kind):
    table, film = BAD[kind]
    root = write_mimic(tmp_path, packed=False)
    append(root / f"mimic-cxr-2.0.0-{table}.csv", mimic_metadata_row(film))
    records, problems = read_mimic(root, "all")
    assert problems.counts == {kind: 1}
    row = "f0-a1.jpg" if kind == "missing file" else "mimic-cxr-2.0.0-metadata.csv row 6"
    assert row in problems.summary()
    assert len(records) == 3


def test_bad_labels_leave_out_their_films(tmp_path):
    root = write_mimic(tmp_path, packed=False)
    path = root / "mimic-cxr-2.0.0-chexpert.csv"
    path.write_text(path.read_text().replace("-1.0", "2.0"))
    records, problems = read_mimic(root, "all")
    assert len(records) == 2
    assert problems.counts == {"impossible value": 1}
    assert "chexpert.csv row 3, column 'Edema': '2.0'" in problems.summary()
    append(path, mimic_label_row("10000032", "50414267"))
    assert read_mimic(root, "all")[1].counts["repeated study"] == 1


def test_tables_that_are_missing_or_misspelt(tmp_path):
    root = write_mimic(tmp_path, packed=False)
    path = root / "mimic-cxr-2.0.0-metadata.csv"
    text = path.read_text()
    path.write_text(text.replace("ViewPosition", "View Position"))
    with pytest.raises(ValueError, match=r"lacks 'ViewPosition' \(is it misspelt as 'View Posi"):
        read_mimic(root, "all")
    path.write_text(text)
    (root / "mimic-cxr-2.0.0-split.csv").unlink()
    with pytest.raises(ValueError, match=r"split\.csv cannot be read .*expected the folder"):
        read_mimic(root, "train")
    assert len(read_mimic(root, "all")[0]) == 3


def test_a_torn_gzip_is_named(tmp_path):
    root = write_mimic(tmp_path)
    path = root / "mimic-cxr-2.0.0-metadata.csv.gz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"metadata\.csv\.gz cannot be unpacked"):
        read_mimic(root, "all")


def test_a_film_without_a_split_is_counted_once(tmp_path):
    root = write_mimic(tmp_path, packed=False)
    film = ("f0-a1", "10000032", "50414267", "PA", "21800506")
    append(root / "mimic-cxr-2.0.0-metadata.csv", mimic_metadata_row(film))
    assert read_mimic(root, "train")[1].counts == {"no split": 1}
    assert not read_mimic(root, "valid")[1]


def film(number, view, code, procedure, description="CHEST (PA AND LAT)"):
    return (
        f'f{number}-a1,10000032,50414267,"{description}",{view},3056,2544,21800506,213014.53,'
        f'"{procedure}",{code},Erect'
    )


FILMS = {
    film(1, "", "postero-anterior", "CHEST (PA AND LAT)"): ("PA", True),
    film(2, "", "Antero-Posterior", "CHEST (PORTABLE AP)"): ("AP", True),
    film(3, "", "left lateral", "CHEST (PA AND LAT)"): ("LL", False),
    film(4, "", "swimmers", ""): ("", False),
    film(5, "", "", "CHEST (PORTABLE AP)"): ("AP", True),
    film(6, "", "", "", "CHEST (SINGLE VIEW PA)"): ("PA", True),
    film(7, "", "", "CHEST (PA AND LAT)"): ("", False),
    film(8, "pa", "antero-posterior", ""): ("PA", True),
}


def test_a_film_without_a_view_position_is_read_by_its_codes(tmp_path):
    root = write_mimic(tmp_path, packed=False)
    before = len(read_mimic(root, "all", frontal_only=False)[0])
    for number, line in enumerate(FILMS, start=1):
        append(root / "mimic-cxr-2.0.0-metadata.csv", line)
        place = f"files/p10/p10000032/s50414267/f{number}-a1.jpg"
        (root / place).write_bytes(b"")
    records, problems = read_mimic(root, "all", frontal_only=False)
    assert [(r.view, r.frontal) for r in records[before:]] == list(FILMS.values())
    assert not problems
    assert problems.notes == {
        "given a view by ViewCodeSequence_CodeMeaning": 4,
        "given a view by ProcedureCodeSequence_CodeMeaning": 1,
        "given a view by PerformedProcedureStepDescription": 1,
    }
    frontal, problems = read_mimic(root, "all")
    assert [r.path[-9:-4] for r in frontal[-5:]] == ["f1-a1", "f2-a1", "f5-a1", "f6-a1", "f8-a1"]
    assert problems.counts == {"view not known": 1}
    assert "metadata.csv row 12: f7-a1" in problems.summary()


def test_the_labeler_is_chosen_by_name(tmp_path):
    root = write_mimic(tmp_path, packed=False)
    rows = (root / "mimic-cxr-2.0.0-chexpert.csv").read_text()
    (root / "mimic-cxr-2.0.0-negbio.csv").write_text(rows.replace("-1.0", "1.0"))

    def edema(labels):
        return read_mimic(root, "train", labels=labels)[0][1].findings[FINDINGS.index("Edema")]

    assert [edema(name) for name in ("", "chexpert", "negbio")] == [UNCERTAIN, UNCERTAIN, POSITIVE]
    with pytest.raises(ValueError, match=r"data\.labels is 'negbo' \(did you mean 'negbio'"):
        edema("negbo")


def test_other_kinds_refuse_a_labeler(tmp_path):
    with pytest.raises(ValueError, match=r"data\.labels is 'negbio' and data\.kind 'nih'"):
        read_kind(tmp_path, "nih", {"labels": "negbio"})


def test_images_made_smaller_as_png_are_found(tmp_path):
    root = write_mimic(tmp_path)
    for path in root.rglob("*.jpg"):
        path.rename(path.with_suffix(".png"))
    records, problems = read_mimic(root, "train", strict=True)
    assert {r.path[-4:] for r in records} == {".png"}
    assert problems.notes == {"found as .png, where the table says .jpg": 2}
