"""``sweep.jsonl``: a damaged line costs its own row, which is measured anew, and no other."""

import json
import logging

from memjax.studies.sweep.rows import FILE, put_row, read_rows


def row(key, seed=0, value=0.5):
    return {"key": key, "seed": seed, "metrics": {"copy_rate": {"value": value}}}


def test_a_damaged_line_is_kept_aside_and_costs_no_other(tmp_path, caplog):
    bad = [b'{"key": "b", "seed": 0, \x80}', b'{"key": "c", "seed": 0, "metrics": 3}', b"{", b"[]"]
    bad += [b'{"key": "a"}', b'{"seed": "x", "metrics": {}}']
    lines = [json.dumps(row("a")).encode(), *bad, json.dumps(row("d")).encode()]
    (tmp_path / FILE).write_bytes(b"\n".join(lines) + b"\n")
    with caplog.at_level(logging.WARNING, "memjax"):
        assert [found["key"] for found in read_rows(tmp_path)] == ["a", "d"]
    assert "6 lines cannot be read" in caplog.text
    assert "measured anew" in caplog.text
    put_row(tmp_path, row("b", value=float("nan")))
    assert [found["key"] for found in read_rows(tmp_path)] == ["a", "d", "b"]
    assert (tmp_path / f"{FILE}.unreadable").read_bytes() == b"\n".join(bad) + b"\n"
    text = (tmp_path / FILE).read_text(encoding="utf-8")
    assert all(json.loads(line, parse_constant=None) for line in text.splitlines())
    assert "NaN" not in text
