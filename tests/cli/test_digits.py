"""Real digits through the commands: trained, audited, and prompted by class label."""

import json

import pytest
from PIL import Image

from tests.commands import memjax, read_rows, write_prompts


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """``memjax train`` and ``memjax audit`` with ``digits:short``."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    trained = memjax("train", "--config=digits:short", f"--workdir={folder}")
    assert trained.code == 0, trained.err
    audited = memjax("audit", f"--model={folder}", f"--workdir={folder}")
    assert audited.code == 0, audited.err
    return folder


@pytest.mark.thorough
def test_the_report_is_about_digits_and_judges_classes(digits):
    report = json.loads((digits / "report.json").read_text())
    assert report["data"]["repeats"] == 20
    names = set(report["classifier"]["held_out_auc"])
    assert {"Digit: 3", "Digit: 9", "Stroke: thick", "Slant: left"} <= names
    assert "Edema" not in names
    explained = report["explain"]["prompts"]
    assert [row["caption"].split(",")[0] for row in explained] == ["digit 9"]
    tokens = {token["token"].split(":")[0] for row in explained for token in row["tokens"]}
    assert tokens == {"Digit", "Stroke", "Slant"}
    memorized = read_rows(digits / "prompts" / "memorized.jsonl")
    assert [row["labels"]["Digit"] for row in memorized] == ["9"]
    for family in ("once", "held_out"):
        rows = read_rows(digits / "prompts" / f"{family}.jsonl")
        assert rows
        assert all(row["labels"]["Digit"] != "9" for row in rows)
        assert len({json.dumps(row["labels"]) for row in rows}) == len(rows)


@pytest.mark.thorough
def test_class_labels_and_captions_are_prompts(digits, tmp_path):
    prompts = write_prompts(
        tmp_path / "p.jsonl",
        {"id": "a", "labels": {"Digit": 9, "stroke": "thin"}},
        {"id": "b", "caption": "digit 3, slant left"},
    )
    done = memjax("sample", f"--model={digits}", f"--prompts={prompts}", f"--out={tmp_path / 'o'}")
    assert done.code == 0, done.err
    pictures = list((tmp_path / "o").glob("*.png"))
    assert pictures
    for path in pictures:
        with Image.open(path) as image:
            assert image.size[0] >= 8
    wrong = write_prompts(tmp_path / "w.jsonl", {"labels": {"Edema": "positive"}})
    done = memjax("sample", f"--model={digits}", f"--prompts={wrong}", f"--out={tmp_path / 'x'}")
    assert done.code == 2
    assert "'Edema' is not known to this model; expected one of 'Digit'" in done.err
