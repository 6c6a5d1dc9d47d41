"""Every CSV file goes through one writer, and no cell of it is run."""

import ast
from pathlib import Path

import memjax
from memjax.runtime.csv_text import csv_text

HOSTILE = ("=HYPERLINK(…)", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1")


def test_texts_that_begin_a_formula_are_quoted_and_numbers_are_not():
    (line,) = csv_text([[*HOSTILE[:5], -1.5, -2, "a=b", None]]).splitlines()
    assert line == "'=HYPERLINK(…),'+1,'-1+1,'@SUM(A1),'\t=1,-1.5,-2,a=b,"
    for text in HOSTILE:
        assert csv_text([[text]]).lstrip('"').startswith("'")


def test_digits_and_line_ends():
    assert csv_text([["x"], [-1 / 3]], digits=6, line_end="\r\n") == "x\r\n-0.333333\r\n"


def test_nobody_else_writes_csv():
    """Phantoms are a data set in CheXpert's format, where "-1.0" is a label."""
    package = Path(memjax.__file__).parent
    writers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("writer", "DictWriter")
        if isinstance(node.value, ast.Name) and node.value.id == "csv"
    }
    assert writers == {"runtime/csv_text.py", "data/phantoms/folder.py"}
