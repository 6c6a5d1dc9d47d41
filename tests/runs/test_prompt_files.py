"""Which prompt belongs to which image, and what training did with it."""

import json

import numpy as np

from memjax.data.records import image_record
from memjax.runs.prompts import write_prompt_files


def test_lines_by_what_training_did(tmp_path):
    run, data = tmp_path / "run", tmp_path / "elsewhere"
    records = [
        image_record(f"{run}/data/0.png", "0.png", caption="naïve red"),
        image_record(f"{data}/1.png", "1.png", caption="two", captions=("two", "zwei")),
        image_record("gs://bucket/2.png", "2.png", classes=(("Digit", "9"),)),
    ]
    held = [image_record(f"{run}/data/valid/3.png", "3.png", caption="three")]
    counts = write_prompt_files(
        run, records, held, np.array([False, True, False]), np.array([1, 20, 1])
    )
    assert counts == {"memorized": 1, "once": 2, "held_out": 1}

    def rows(name):
        text = (run / "prompts" / f"{name}.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    assert rows("memorized") == [
        {
            "id": "memorized-0000",
            "caption": "two",
            "captions": ["two", "zwei"],
            "image": f"{data}/1.png",
            "row": 1,
            "shown": 20.0,
        }
    ]
    once = rows("once")
    assert [(row["caption"], row["image"]) for row in once] == [
        ("naïve red", "../data/0.png"),
        ("digit 9", "gs://bucket/2.png"),
    ]
    assert (run / "prompts" / once[0]["image"]).resolve() == run / "data" / "0.png"
    assert rows("held_out") == [
        {"id": "held_out-0000", "caption": "three", "image": "../data/valid/3.png"}
    ]
