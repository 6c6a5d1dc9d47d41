"""One pair of JSON functions: strict in reading, never NaN in writing, damage named and kept."""

import json
import logging

import pytest

from memjax.runtime.json import (
    bad_lines,
    dumps,
    keep_aside,
    loads,
    read_lines,
    read_summary,
    write_json,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 20_000, "nested too deeply"),
        ("9" * 5000, "5000 digits"),
        ("NaN", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("1e999", "too large"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_json_is_a_value_error(text, said):
    with pytest.raises(ValueError, match=said):
        loads(text)


def test_json_is_read_as_its_standard_has_it():
    assert loads(b'\xef\xbb\xbf{"a": [1, -2.5e3, true, null, "\xc3\xa4"]}') == {
        "a": [1, -2500.0, True, None, "ä"]
    }


def test_what_is_not_finite_is_null_and_named(tmp_path, caplog):
    value = {"loss": float("nan"), "steps": [1.0, float("-inf")], "fine": 2.5}
    with caplog.at_level(logging.WARNING, "memjax"):
        path = write_json(tmp_path / "x.json", value)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "loss": None,
        "steps": [1.0, None],
        "fine": 2.5,
    }
    assert "loss, steps.1" in caplog.text
    assert "fine" not in caplog.text


def test_a_name_that_is_no_unicode_can_be_written_and_read(tmp_path):
    name = b"scan\xff.png".decode("utf-8", "surrogateescape")
    path = write_json(tmp_path / "x.json", {"file": name})
    assert loads(path.read_bytes()) == {"file": name}


def test_nothing_refers_to_itself():
    value: dict = {}
    value["self"] = [value]
    with pytest.raises((ValueError, RecursionError)):
        dumps(value)


def test_bad_lines_cost_no_other_line_and_are_kept(tmp_path, caplog):
    file = tmp_path / "rows.jsonl"
    bad = [b'{"step": 2, "a": "\xe4"}', b'("step": 3}', b"[" * 9000, b"[4]", b'{"step": 6']
    good = [b'{"step": 1}', b'{"step": 5}', b'{"step": 7}']
    file.write_bytes(b"\n".join([good[0], *bad[:4], good[1], bad[4], good[2]]) + b"\n")
    rows, found = read_lines(file)
    assert [row["step"] for row in rows] == [1, 5, 7]
    assert [(line.number, line.text) for line in found] == list(
        zip((2, 3, 4, 5, 7), bad, strict=True)
    )
    assert "5 lines cannot be read" in bad_lines(file, found)
    assert "line 2, 3, 4, 5, 7" in bad_lines(file, found)
    with caplog.at_level(logging.WARNING, "memjax"):
        keep_aside(file, found)
    assert (tmp_path / "rows.jsonl.unreadable").read_bytes() == b"\n".join(bad) + b"\n"
    assert "rows.jsonl.unreadable" in caplog.text


@pytest.mark.parametrize("text", [b'{"steps": 4', b"[" * 9000, b"[1]", b"\x80", b""])
def test_a_damaged_summary_is_said_and_not_needed(tmp_path, caplog, text):
    (tmp_path / "training.json").write_bytes(text)
    with caplog.at_level(logging.WARNING, "memjax"):
        assert read_summary(tmp_path / "training.json") == {}
    assert "training.json cannot be read" in caplog.text
    assert read_summary(tmp_path / "none.json") == {}
