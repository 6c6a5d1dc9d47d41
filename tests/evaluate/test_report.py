"""The report: plain words, escaped, self-contained, whole or not there."""

import getpass
import html.parser
import json
import os
import re
import socket

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.evaluate import report
from memjax.evaluate.figures import token_bars
from memjax.evaluate.narrative import percent, verdict
from memjax.evaluate.plain import to_plain
from memjax.evaluate.provenance import config_digest, provenance, versions
from memjax.evaluate.report import missing_fields, render_html, write_report
from memjax.evaluate.tables import classifier_rows, similarity_rows, versus

HOSTILE = "<script>alert('x')</script>\"&$"
_DETECTION = {
    "auc": 0.9731234567,
    "auc_low": 0.93,
    "auc_high": 0.99,
    "tpr_at_1pct_fpr": 0.75,
    "tpr_low": 0.5,
    "tpr_high": 0.9,
    "num_memorized": 8,
    "num_other": 96,
    "forward_evals": 1400,
}


@pytest.fixture
def results():
    """Made-up results of a full audit."""
    parts = {"once": _DETECTION, "held_out": _DETECTION}
    return {
        "detection": {
            "default": "first_k",
            "first_step": _DETECTION | {"auc": 0.78},
            "first_k": _DETECTION | parts | {"k": 25},
            "all_steps": _DETECTION,
        },
        "similarity": {
            "rule": "adaptive",
            "copy_rate_memorized": 0.69,
            "copy_rate_memorized_low": 0.5,
            "copy_rate_memorized_high": 0.84,
            "copy_rate_other": 0.0,
            "copy_rate_background": 0.03,
        },
        "mitigation": {
            "method": "embedding_optimization",
            "copy_rate_before": 0.69,
            "copy_rate_after": 0.12,
            "label_agreement_before": 0.86,
            "label_agreement_after": 0.83,
            "arms": [{"name": HOSTILE, "copy_rate_after": 0.4, "seconds": np.float32(1.5)}],
        },
        "explain": {"prompts": [{"caption": HOSTILE, "tokens": [{"name": HOSTILE, "share": 0.5}]}]},
        "training": {"steps": 1200, "images_per_second": 131.0, "seconds": 214.0},
        "classifier": {"Cardiomegaly": {"auc": 0.97}, HOSTILE: 0.95},
        "data": {"name": HOSTILE, "num_images": 408, "num_repeated": 8, "repeats": 75},
        "versions": {"jax": "1"},
        "config": {"note": HOSTILE},
        "seed": 3,
        "provenance": {"utc": "2030-01-02T00:00:00Z", "device": HOSTILE},
    }


class _Reader(html.parser.HTMLParser):
    """Collects tags, resource links and text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        self.text.append(data)


def _png():
    return token_bars(["a"], [1.0])


def test_page_is_self_contained(results):
    page = render_html(results, {"tokens/" + HOSTILE: _png(), "pairs": _png(), "extra": _png()})
    reader = _Reader(page)
    assert reader.tags.count("img") == 3
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert not {"script", "link", "iframe", "object", "embed"} & set(reader.tags)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://|src=\"?//", page)


def test_hostile_names_are_text(results):
    figures = {HOSTILE: _png(), "tokens/" + HOSTILE: _png()}
    page = render_html(results, figures, title=HOSTILE, captions={HOSTILE: HOSTILE})
    assert "<script" not in page.lower()
    # every place that shows the name shows it as text: title twice, arm, prompt, token, figure ...
    assert "".join(_Reader(page).text).count(HOSTILE) >= 8


def test_tables_and_order(results):
    names = ("roc", "magnitude", "pairs", "before_after", "similarity")
    page = render_html(results, dict.fromkeys(names, _png()))
    at = [page.index(t) for t in ("What it copied", "Before and after", "The warning signal while")]
    assert at == sorted(at)
    text = " ".join("".join(_Reader(page).text).split())
    assert "First 25 steps, all other prompts" in text
    assert "0.97 (0.93–0.99)" in text
    assert "embedding optimization" in text


def test_width_of_pictures_is_half_their_pixels(results):
    png = _png()
    width = int.from_bytes(png[16:20], "big")
    assert f'width="{width // 2}"' in render_html(results, {"pairs": png})


def test_four_sentences_and_the_headline(results):
    got = verdict(results)
    assert got.level == "repaired"
    assert len(got.sentences) == 4
    assert "from 69\N{NO-BREAK SPACE}% to 12\N{NO-BREAK SPACE}%" in got.headline
    assert "97 of 100 pairs" in got.sentences[2]
    results["mitigation"]["copy_rate_after"] = 0.5
    assert verdict(results).level == "found"
    del results["mitigation"]
    assert verdict(results).level == "found_only"
    results["similarity"]["copy_rate_memorized"] = 0.05
    assert verdict(results).level == "clear"
    assert verdict({}).level == "unknown"


def test_background_decides_what_is_found(results):
    results["similarity"] |= {"copy_rate_memorized": 0.3, "copy_rate_background": 0.2}
    assert verdict(results).level == "clear"


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0 %"), (0.001, "under 1 %"), (0.125, "12 %"), (0.999, "over 99 %"), (1, "100 %")],
)
def test_percent_never_rounds_to_none_or_all(rate, text):
    assert percent(rate).replace("\N{NO-BREAK SPACE}", " ") == text
    assert percent(None) == "not measured"


def test_empty_results_still_make_a_page():
    page = render_html({}, {})
    assert "was not measured" in page
    assert "None" not in "".join(_Reader(page).text)


def test_missing_fields(results):
    assert missing_fields(results) == []
    del results["detection"]["first_k"], results["seed"]
    assert "detection.first_k.auc" in missing_fields(results)
    assert missing_fields(results)[-1] == "seed"
    assert "similarity.copy_rate_other" in missing_fields({})


def test_files(results, tmp_path):
    results["detection"]["first_step"]["auc"] = float("nan")
    paths = write_report(tmp_path / "deep" / "run", results, {"pairs": _png()})
    got = json.loads(paths.json.read_text(encoding="utf-8"))
    assert got["detection"]["first_k"]["auc"] == 0.973123
    assert got["detection"]["first_step"]["auc"] is None
    assert list(got) == sorted(got)
    assert paths.html.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {p.name for p in paths.html.parent.iterdir()} == {"report.html", "report.json"}


def test_a_failed_write_leaves_the_old_file(results, tmp_path, monkeypatch):
    paths = write_report(tmp_path, results, {})
    before = paths.json.read_bytes(), paths.html.read_bytes()
    with pytest.raises(ValueError, match="figure 'pairs' is not a PNG"):
        write_report(tmp_path, results, {"pairs": b"GIF89a"})

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, results | {"seed": 4}, {})
    assert (paths.json.read_bytes(), paths.html.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_to_plain():
    value = {
        1: (jnp.float32(0.1), np.arange(2), jnp.ones(1, jnp.bfloat16)),
        "b": [np.bool_(True), None, float("inf"), {2, 1}],
        "named": report.Section("t", "c"),
        "text": np.array(["x"]),
        "odd": complex(1, 2),
    }
    got = to_plain(value, digits=3)
    assert got == {
        "1": [0.1, [0, 1], [1.0]],
        "b": [True, None, None, [1, 2]],
        "named": {"title": "t", "caption": "c"},
        "text": ["x"],
        "odd": "(1+2j)",
    }
    json.dumps(got, allow_nan=False)


def test_provenance_says_what_and_not_who():
    got = provenance({"b": 1, "a": (2.5, None)}, 3, 1200, checkpoint_sha256="ab")
    assert got["config_sha256"] == config_digest({"a": [2.5, None], "b": 1})
    assert got["config_sha256"] != config_digest({"a": [2.5, None], "b": 2})
    assert (got["seed"], got["checkpoint_step"], got["checkpoint_sha256"]) == (3, 1200, "ab")
    assert set(versions()) == {"memjax", "python", "jax", "jaxlib", "flax", "optax", "numpy"}
    text = json.dumps(got)
    assert os.getcwd() not in text
    assert os.path.expanduser("~") not in text
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert provenance({}, 0)["checkpoint_step"] is None


def test_tables_read_both_shapes():
    rates = {"copy_rate_memorized": 0.4, "copy_rate_memorized_low": 0.2}
    nested = {"rule": "adaptive", "copy_rate_memorized": 0.7, "by_rule": {"third": rates}}
    flat = {
        "rule": "calibrated distance",
        "copy_rate_memorized": 0.7,
        "copy_rate_third_memorized": 0.4,
        "copy_rate_third_memorized_low": 0.2,
    }
    for shape in (nested, flat):
        first, second = similarity_rows(shape)
        assert (first.chosen, first.rates["copy_rate_memorized"]) == (True, 0.7)
        assert (second.chosen, dict(second.rates)) == (False, rates)
    assert similarity_rows({}) == []
    one = {"Edema": 0.9, "Fracture": None}
    two = {"held_out_auc": one, "judged_findings": ["Edema"]}
    assert [r[2] for r in classifier_rows(one)] == [True, True]
    assert [r[2] for r in classifier_rows(two)] == [True, False]
    assert classifier_rows({"Edema": {"auc": 0.9}})[0][1] == {"auc": 0.9}
    assert versus({"once": {"auc": 1}}, "once") == versus({"against_once": {"auc": 1}}, "once")


def test_what_counts_as_memorised_is_said(results):
    results["detection"]["label_source"] = "half of its pictures copy"
    del results["data"]
    page = render_html(results, {})
    assert "count as memorised by: half of its pictures copy" in page
    assert "Given the memorised prompts" in verdict(results).sentences[1]
