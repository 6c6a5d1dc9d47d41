import csv
import html.parser
import io
import json

import numpy as np
import pytest

from memjax.data.dataset import load_images
from memjax.data.labels.space import BLANK, FINDINGS, POSITIVE
from memjax.data.phantoms.folder import write_phantoms
from memjax.data.problems import Problems
from memjax.data.readers.chexpert import read_chexpert
from memjax.data.records import Record, chexpert_label_space, encode_records
from memjax.data.statistics import HELD_OUT, TRAIN
from memjax.evaluate.dataset.at_risk import ISOLATED, RARE, REPEATED, local_coverage, rows_at_risk
from memjax.evaluate.dataset.survey import Looked, draw_rows, survey
from memjax.evaluate.similarity.near_duplicates import Duplicates
from memjax.report.pages.dataset import data_files

SPACE = chexpert_label_space()


def record(patient, *positive, path=None, caption=""):
    findings = tuple(POSITIVE if name in positive else BLANK for name in FINDINGS)
    return Record(path or f"/data/{patient}.jpg", patient, "s1", "AP", "Male", 50, True, findings,
                  (), caption)  # fmt: skip


def duplicates(group, nearest):
    group = np.asarray(group)
    nothing = np.zeros((0, 2), int), np.zeros(0)
    return Duplicates(group, group, *nothing, np.asarray(nearest, float), np.zeros_like(group))


def test_local_coverage_is_distance_over_copies():
    found = duplicates([0, 0, 1, 2], [0.6, 0.6, 0.4, np.inf])
    np.testing.assert_allclose(local_coverage(found), [0.3, 0.3, 0.4, 2.0])


def test_each_cause_names_its_rows():
    common = [record(f"c{i}", "Edema") for i in range(40)]
    records = [*common, record("c0", "Edema"), record("rare", "Fracture")]
    nearest = np.full(42, 0.3)
    nearest[7] = 0.9
    found = duplicates([*range(40), 0, 40], nearest)
    risks = rows_at_risk(records, found)
    assert [(r.cause, r.row) for r in risks] == [(REPEATED, 0), (RARE, 41), (ISOLATED, 7)]
    assert "Stored 2 times, identical" in risks[0].reason
    assert risks[1].reason == "Only one patient shows exactly this, of 41: Fracture."
    assert "0.90 away, usual is 0.30" in risks[2].reason
    assert all("\n" not in risk.reason for risk in risks)


def test_held_out_rows_are_not_at_risk():
    records = [record("a", "Edema")] * 30 + [record("b", "Fracture")]
    found = duplicates(np.arange(31), np.linspace(0.1, 0.9, 31))
    trained = np.arange(31) < 30
    assert {r.row for r in rows_at_risk(records, found, trained=trained)} == {29}


def test_rows_are_drawn_by_the_seed():
    assert draw_rows(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    rows = draw_rows(1000, 50, 1)
    assert len(set(rows)) == 50
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, draw_rows(1000, 50, 1))
    assert (rows != draw_rows(1000, 50, 2)).any()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A survey of phantoms with one training image leaked into the held-out part."""
    root = tmp_path_factory.mktemp("survey")
    write_phantoms(
        root, seed=1, size=64, num_images=40, num_held_out=10, num_duplicated=2, copies=6
    )
    train, held = (read_chexpert(root, split)[0] for split in ("train", "valid"))
    held = [*held, train[-1]]
    records = [*train, *held]
    problems = Problems()
    problems.add("missing file", "<script>alert(1)</script>.jpg")
    for kind in (
        "turned upright (EXIF orientation)",
        *["stretched (12 bits in a 16-bit file)"] * 2,
    ):
        problems.note(kind)
    looked = Looked(
        load_images(records, size=64),
        records,
        [TRAIN] * len(train) + [HELD_OUT] * len(held),
        [*range(len(train)), *range(len(held))],
        len(records),
    )
    labels = encode_records(train, SPACE)
    result = survey(train, held, labels, SPACE, problems, looked, root=str(root))
    files = data_files(result, looked.images, records, title="<b>&", made_by={"seed": 1}, seed=1)
    return train, held, result, files


def test_the_survey_counts_what_is_there(shown):
    train, held, result, _ = shown
    assert result["totals"][TRAIN]["pictures"] == len(train) == 52
    assert result["totals"][HELD_OUT]["pictures"] == len(held) == 11
    found = result["duplicates"]
    assert found["exact_groups"] == 3
    assert found["exact_rows"] == 2 * 6 + 2
    assert found["most_copies"] == 6
    assert found["across_splits"] >= 1
    said = " ".join(result["stand_out"])
    for word in ("52 images", "one of them 6 times", "1 problem was found", "in both splits"):
        assert word in said
    assert (
        "Of the images that were decoded, 2 were stretched (12 bits in a 16-bit file), 1 was "
        "turned upright (EXIF orientation)."
    ) in result["stand_out"]
    assert result["notes"]["stretched (12 bits in a 16-bit file)"] == 2
    shares = [level["share_of_one_patient"] for level in result["conditions"]["levels"]]
    assert shares == sorted(shares)
    assert shares[-1] == np.mean([
        len({r.patient for r, o in zip(train, ids, strict=True) if (o == own).all()}) == 1
        for ids in [encode_records(train, SPACE)] for own in ids])  # fmt: skip


def test_repeated_images_head_the_rows_at_risk(shown):
    _, _, result, _ = shown
    first = result["at_risk"][:2]
    assert [risk["cause"] for risk in first] == [REPEATED] * 2
    assert all(risk["path"].startswith("train/patient0000") for risk in first)
    assert {risk["split"] for risk in result["at_risk"]} == {TRAIN}


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href") and v]


def test_the_page_is_whole_escaped_and_works_offline(shown):
    files = shown[3]
    text = files["data.html"]
    page = _Page()
    page.feed(text)
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)" in text
    assert "<h1>&lt;b&gt;&amp;</h1>" in text
    for heading in ("Class balance", "Findings that stand together", "Images that stand more",
                    "Rows at risk", "Contact sheet", "What was wrong"):  # fmt: skip
        assert heading in text
    assert "http" not in text
    assert files == {**files, **data_again(shown)}


def data_again(shown):
    train, held, result, _ = shown
    records = [*train, *held]
    images = load_images(records, size=64)
    return data_files(result, images, records, title="<b>&", made_by={"seed": 1}, seed=1)


def test_every_table_is_there_and_agrees(shown):
    train, _, result, files = shown
    rows = {
        name: list(csv.DictReader(io.StringIO(text)))
        for name, text in files.items()
        if name.endswith(".csv")
    }
    assert set(rows) == {"findings.csv", "cooccurrence.csv", "distributions.csv", "conditions.csv",
                         "near_duplicates.csv", "at_risk.csv", "rows.csv",
                         "problems.csv", "reading.csv"}  # fmt: skip
    assert len(rows["rows.csv"]) == 63
    assert len(rows["at_risk.csv"]) == len(result["at_risk"])
    edema = next(r for r in rows["findings.csv"] if (r["split"], r["finding"]) == (TRAIN, "Edema"))
    positive = sum(r.findings[FINDINGS.index("Edema")] == POSITIVE for r in train)
    assert int(edema["positive"]) == positive
    assert rows["problems.csv"][0]["count"] == "1"
    whole = json.loads(files["data.json"])
    assert whole["made_by"] == {"seed": 1}
    assert whole["totals"]["train"]["pictures"] == 52


def test_images_without_findings_have_a_page_too():
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    records = [record(f"p{i}", caption=f"image {i} <i>") for i in range(12)]
    space = chexpert_label_space((), view=False, sex=False, age=False)
    looked = Looked(images, records, [TRAIN] * 12, list(range(12)), 99)
    labels = encode_records(records, space)
    result = survey(records, [], labels, space, Problems(), looked)
    text = data_files(result, images, records, title="x", made_by={})["data.html"]
    assert "Class balance" not in text
    assert "12 images of 12 sources to train on; nothing is held out" in text
    assert "12 of\n    99, drawn by the seed" in text
    assert "No image stands twice among the 12 looked at." in text
