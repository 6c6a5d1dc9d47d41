"""Figures, their data and the page appear together or not at all."""

import csv
import io
import json
import os

import numpy as np
import pytest

from memjax.report.files import csv_text, file_names, publish
from memjax.report.style import new_figure, to_png

PNG = to_png(new_figure(0.2, 0.2))
HOSTILE = ("../../etc/passwd", "a/b\\c", "<script>", "日本", "", ".", "CON", "x" * 300)
TWINS = ("a b", "A B")


def _read(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_names_are_safe_and_differ():
    names = file_names(HOSTILE + TWINS)
    assert list(names) == [*HOSTILE, *TWINS]
    assert len(set(names.values())) == len(names)
    for name in names.values():
        assert 0 < len(name) <= 84
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    key = "scatter/Contrastive copy encoder"
    assert file_names([key])[key] == "scatter-contrastive-copy-encoder"
    assert names["a b"] != names["A B"]


def test_csv_gives_back_the_numbers_bit_for_bit():
    x = np.random.default_rng(0).normal(size=50) * 10.0 ** np.arange(-25, 25)
    y = np.arange(50, dtype=np.int64)
    rows = _read(csv_text({"x (RMS)": x, "y": y}))
    assert rows[0] == ["x (RMS)", "y"]
    np.testing.assert_array_equal([float(r[0]) for r in rows[1:]], x)
    np.testing.assert_array_equal([int(r[1]) for r in rows[1:]], y)


def test_csv_is_rfc_4180():
    text = csv_text(
        {"a,b": ['say "hi"', "two\nlines", "ünï, çode"], "c": [None, float("nan"), True]}
    )
    assert text.split("\r\n")[0] == '"a,b",c'
    assert text.endswith("\r\n")
    assert _read(text)[1:] == [['say "hi"', ""], ["two\nlines", ""], ["ünï, çode", "true"]]
    assert '"say ""hi"""' in text


def test_csv_runs_no_formula_and_keeps_signs_of_numbers():
    rows = _read(
        csv_text({"t": ["=1+1", "+x", "-x", "@x", "ok"], "v": [-1.5, 2, -3, 0.0, -np.inf]})
    )
    assert [r[0] for r in rows[1:]] == ["'=1+1", "'+x", "'-x", "'@x", "ok"]
    assert [r[1] for r in rows[1:]] == ["-1.5", "2", "-3", "0.0", "-inf"]


@pytest.mark.parametrize("table", [{}, {"a": [1, 2], "b": [1]}])
def test_uneven_tables_are_refused(table, tmp_path):
    with pytest.raises(ValueError, match=r"table 'wall' has columns of lengths .* one length"):
        publish(tmp_path / "new", {"r.html": ""}, {}, {"wall": table})
    assert not (tmp_path / "new").exists()


def test_stale_figures_go_and_other_files_stay(tmp_path):
    table = {"x": [1]}
    publish(tmp_path, {"report.html": "one"}, {"a": PNG, "b": PNG}, {"a": table, "b": table})
    (tmp_path / "figures" / "mine.png").write_bytes(b"kept")
    publish(tmp_path, {"sweep.html": "other"}, {"s": PNG}, {})
    publish(tmp_path, {"report.html": "two"}, {"b": PNG}, {})
    left = {p.name for p in (tmp_path / "figures").iterdir()}
    assert left == {"b.png", "mine.png", "s.png", "index.json"}
    assert (tmp_path / "report.html").read_text() == "two"
    index = json.loads((tmp_path / "figures" / "index.json").read_text())
    assert index == {"report.html": ["figures/b.png"], "sweep.html": ["figures/s.png"]}


def test_a_forged_index_removes_nothing_outside(tmp_path):
    victim = tmp_path / "victim.csv"
    victim.write_text("data")
    (tmp_path / "out" / "figures").mkdir(parents=True)
    index = {"report.html": ["figures/../../victim.csv", "../victim.csv", str(victim)]}
    (tmp_path / "out" / "figures" / "index.json").write_text(json.dumps(index))
    publish(tmp_path / "out", {"report.html": ""}, {}, {})
    assert victim.read_text() == "data"
    (tmp_path / "out" / "figures" / "index.json").write_text("{broken")
    publish(tmp_path / "out", {"report.html": "ok"}, {"a": PNG}, {})
    assert (tmp_path / "out" / "report.html").read_text() == "ok"


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, monkeypatch):
    publish(tmp_path, {"r.html": "one"}, {"a": PNG, "old": PNG}, {"a": {"x": [1]}})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path, {"r.html": "two"}, {"a": PNG, "new": PNG}, {"a": {"x": [2]}})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert {p.name for p in tmp_path.iterdir()} == {"r.html", "figures"}
