"""A prompt as one line: radiographs, class labels and captions."""

import pytest

from memjax.studies.subjects.labels import readable


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"labels": {"Edema": "positive", "sex": "Male", "age": 63, "markers": ["K3", "17"]}},
            "edema; Male, 63; marker K3 17",
        ),
        ({"labels": {"Digit": "9", "Stroke": "thick"}}, "digit 9, stroke thick"),
        ({"labels": {"Class": "cat", "caption": "a grey cat"}}, "class cat; a grey cat"),
        ({"labels": {"caption": "a grey cat"}}, "a grey cat"),
        ({"id": "p", "caption": "a grey cat"}, "a grey cat"),
        ({"id": "p7"}, "p7"),
    ],
)
def test_a_prompt_is_one_line(row, line):
    assert readable(row) == line


def test_a_long_caption_is_cut_between_words():
    line = readable({"labels": {"caption": "word " * 40}})
    assert len(line) <= 72
    assert line.endswith("word …")
