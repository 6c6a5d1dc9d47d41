"""Names that turn the direction of text, or are no text: written out, never a reason to stop."""

import json

import markupsafe
import numpy as np
import pytest

from memjax.report.files import publish
from memjax.report.pages.base import page_environment
from memjax.report.pages.sweep import write_sweep_report
from memjax.report.wording import visible
from tests.report.test_sweep_page import _plan, _rows, _wall

OVERRIDE = "x\u202egnp.exe"
NO_TEXT = b"scan\xff.png".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (OVERRIDE, "x\\u202egnp.exe"),
        (NO_TEXT, "scan\\udcff.png"),
        ("a\x07b", "a\\u0007b"),
        ("two\nlines\t日本語", "two\nlines\t日本語"),
        ("سليم\u200f", "سليم\u200f"),
    ],
)
def test_what_cannot_be_seen_is_written_out(name, shown):
    assert visible(name) == shown
    text = page_environment().from_string("<b>{{ name }}</b>").render(name=f"<i>{name}")
    assert text == f"<b>&lt;i&gt;{shown}</b>"


def test_markup_stays_markup_and_numbers_numbers():
    text = page_environment().from_string("{{ a }}{{ b }}{{ c }}")
    assert text.render(a=markupsafe.Markup(f"<b>{OVERRIDE}</b>"), b=3, c=None) == (
        "<b>x\\u202egnp.exe</b>3None"
    )


def test_pages_and_tables_with_a_name_that_is_no_text_are_written(tmp_path):
    pages = {"report.html": f"<p>{NO_TEXT}</p>", "report.json": json.dumps({"file": NO_TEXT})}
    publish(tmp_path, pages, {}, {"rows": {"file": [NO_TEXT], "score": np.array([0.5])}})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "<p>scan\\udcff.png</p>"
    assert json.loads((tmp_path / "report.json").read_bytes()) == {"file": NO_TEXT}
    table = (tmp_path / "figures" / "rows.csv").read_text(encoding="utf-8")
    assert "scan\\udcff.png,0.5" in table


def test_a_sweep_page_does_not_turn_its_text(tmp_path):
    rows = [row | {"arm": OVERRIDE} for row in _rows()]
    walls = {OVERRIDE: _wall()}
    plan = _plan(title=OVERRIDE, question=NO_TEXT, factor_label=OVERRIDE)
    page = write_sweep_report(tmp_path, plan, rows, walls).html.read_text(encoding="utf-8")
    assert "\u202e" not in page
    assert "x\\u202egnp.exe" in page
    assert "scan\\udcff.png" in page
