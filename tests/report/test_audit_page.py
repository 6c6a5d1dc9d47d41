"""The report: plain words, escaped, self-contained, whole or not there."""

import csv
import getpass
import html.parser
import json
import os
import re
import socket

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.report.charts.curves import token_bars
from memjax.report.pages.audit_text import percent, verdict
from memjax.report.pages.base import missing_fields, render_html, write_report
from memjax.report.sections import Section
from memjax.report.tables import classifier_rows, similarity_rows, versus
from memjax.runtime.json import to_plain
from memjax.runtime.provenance import config_digest, provenance, versions

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
        self.tags, self.links, self.text, self.alts = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.alts += [dict(attrs).get("alt") for _ in (0,) if tag == "img"]
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


def test_width_of_images_is_half_their_pixels(results):
    png = _png()
    width = int.from_bytes(png[16:20], "big")
    assert f'width="{width // 2}"' in render_html(results, {"pairs": png})


def test_four_sentences_and_the_headline(results):
    got = verdict(results)
    assert got.level == "repaired"
    assert [question for question, _ in got.answers] == ["Does it copy?", "What can be done?"]
    assert len(got.sentences) == 2  # trained on, warning
    assert "from 69\N{NO-BREAK SPACE}% to 12\N{NO-BREAK SPACE}%" in got.headline
    assert "does not halve the copies" in got.answers[1][1]  # the arm that was tried leaves 40 %
    assert "97 of 100 pairs" in got.sentences[1]
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


def _validation():
    """Made-up figures of two rungs, three families and the copy encoder."""
    rung = {
        "name": "copy_encoder",
        "title": "Contrastive copy encoder",
        "rule": "above the 95th percentile",
        "spearman": 0.81,
        "spearman_low": 0.7,
        "spearman_high": 0.89,
        "num_copied": 30,
        "num_pictures": 256,
        "copy_rate_memorized": 0.7,
        "similarity_before": 0.8,
        "similarity_after": 0.5,
        "wilcoxon_p": 0.0004,
        "change": -0.3,
        "change_low": -0.4,
        "change_high": -0.2,
    }
    weak = {"name": "ssim", "title": HOSTILE, "spearman": 0.05, "spearman_low": -0.1}
    weak["spearman_high"] = 0.2
    return {
        "rungs": [weak, rung, {"name": "lost", "title": "Lost rung", "spearman": None}],
        "families": [
            {"name": "once", "num": 40, "auc": 0.95, "auc_low": 0.9, "auc_high": 0.99},
            {"name": "near_miss", "num": 20, "auc": 0.82},
            {"name": "all", "num": 60, "auc": 0.5},
        ],
        "dar": [{"rung": "copy_encoder", "memorized_share": 0.09, "copies_share": 0.3}],
        "calibration": {"auc_planted": 0.981, "auc_low": 0.97, "auc_high": 0.99, "blurred": 0.97},
    }


def _distribution():
    return {
        "features": HOSTILE,
        "fd": 12.34,
        "coverage": 0.7,
        "c_t": -8.2,
        "n_generated": 256,
        "warnings": [HOSTILE],
        "background": {"fd": 5.0},
    }


def _words(page):
    return " ".join(" ".join(_Reader(page).text).split())


def test_validation_tables(results):
    results |= {"validation": _validation(), "distribution": [_distribution()]}
    text = _words(render_html(results, {}))
    assert "Contrastive copy encoder 0.81 (0.70–0.89)" in text
    assert "0.05 (−0.10 to 0.20)" in text
    assert "30 / 256" in text
    assert "0.80 → 0.50 −0.30 (−0.40 to −0.20) p < 0.001" in text
    assert "trained once 40 0.95 (0.90–0.99)" in text
    assert "9\N{NO-BREAK SPACE}% 30\N{NO-BREAK SPACE}%".replace("\N{NO-BREAK SPACE}", " ") in text
    assert "all planted copies 0.981 (0.970–0.990)" in text
    assert "12.34 5 0 = same distribution" in text
    assert "−8.2 –" in text
    assert "Caution: " + HOSTILE in text


def test_the_new_sentences(results):
    results["validation"] = _validation()
    said = verdict(results).sentences
    assert len(said) == 4
    assert "goes along" not in said[2]  # one of two is clear: no majority
    assert "clearly so by 1 of 2 ways" in said[2]
    assert "most by Contrastive copy encoder with 0.81 (range 0.70–0.89)" in said[2]
    assert "with 0.05 (range −0.10 to 0.20)" in said[2]
    assert "by 13 points: 95 of 100 against “trained once”, 82 against “near miss" in said[3]
    results["validation"]["rungs"] = results["validation"]["rungs"][1:2]
    results["validation"]["families"] = results["validation"]["families"][:1]
    said = verdict(results).sentences
    assert len(said) == 3
    assert "The signal goes along with likeness" in said[2]
    assert not any(word in " ".join(said) for word in ("AUC", "Spearman", "RMS", "TPR"))


def test_order_of_the_sections(results):
    keys = ("roc", "arms", "paired/a", "before_after", "families", "scatter/a", "wall_others",
            "wall", "tokens/a")  # fmt: skip
    results |= {"validation": _validation(), "distribution": [_distribution()]}
    page = render_html(results, dict.fromkeys(keys, _png()))
    titles = (
        "seen with one&#39;s own eyes",
        "The same for other prompts",
        "Does the warning signal go along",
        "What the warning is compared with",
        "Before and after the repair",
        "Likeness before and after, prompt",
        "The repairs side by side",
        "How reliable the warning is",
        "Which words bring",
        "Do the images as a whole",
        "How far the instruments",
    )
    at = [page.index(f"{title}", page.index("</style>")) for title in titles]
    assert at == sorted(at)


def test_no_empty_headings():
    page = render_html({"config": {}}, {})
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[1:] == ["Words used here", "Where this came from"]
    assert "<table>" not in page
    assert "<img" not in page


def test_every_image_has_words_and_a_link_to_its_data(results, tmp_path):
    figures = {"wall": _png(), "scatter/" + HOSTILE: _png(), "roc": _png(), "odd": _png()}
    x = np.random.default_rng(0).normal(size=7)
    tables = {"scatter/" + HOSTILE: {"x": x}, "roc": {"fpr": [0.0, 1.0]}, "loose": {"v": [1]}}
    paths = write_report(tmp_path, results, figures, tables=tables)
    reader = _Reader(paths.html.read_text(encoding="utf-8"))
    assert len(reader.alts) == 4
    assert all(alt and len(alt.strip()) > 3 for alt in reader.alts)
    links = [link for link in reader.links if not link.startswith("data:image/png")]
    assert len(links) == 3
    for link in links:
        assert (tmp_path / link).is_file()
    scatter = next(link for link in links if "scatter" in link)
    rows = list(csv.reader((tmp_path / scatter).read_text(encoding="utf-8").splitlines()))
    assert [float(cell) for (cell,) in rows[1:]] == x.tolist()
    assert (tmp_path / "figures" / "wall.png").read_bytes() == figures["wall"]


def test_images_of_digits_are_no_films(results):
    results["data"] = {"name": "handwritten digits", "unit": "images", "num_images": 1800}
    results |= {"validation": _validation(), "distribution": [_distribution()]}
    keys = ("wall", "wall_others", "pairs", "pairs_other", "similarity", "before_after", "arms")
    page = render_html(results, dict.fromkeys(keys, _png()))
    text = _words(page).lower()
    assert "trained on 1,800 handwritten digits" in text
    for word in ("film", "x-ray", "finding", "patient"):
        assert word not in text, word
    results["data"] = {"name": "chest X-rays", "unit": "films"}
    assert "Films never shown" in _words(render_html(results, {}))


def test_nan_and_none_are_dashes(results):
    results["validation"] = _validation()
    rung = results["validation"]["rungs"][1]
    rung |= {"spearman": float("nan"), "auc_copied": None, "similarity_before": float("inf")}
    results["validation"]["families"][0]["auc"] = float("nan")
    results["distribution"] = [{"features": "f", "fd": float("nan"), "kid": 0.1}]
    text = _words(render_html(results, {}))
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_files(results, tmp_path):
    results["detection"]["first_step"]["auc"] = float("nan")
    paths = write_report(tmp_path / "deep" / "run", results, {"pairs": _png()})
    got = json.loads(paths.json.read_text(encoding="utf-8"))
    assert got["detection"]["first_k"]["auc"] == 0.973123
    assert got["detection"]["first_step"]["auc"] is None
    assert list(got) == sorted(got)
    assert paths.html.read_text(encoding="utf-8").startswith("<!doctype html>")
    names = {str(p.relative_to(paths.html.parent)) for p in paths.html.parent.rglob("*.*")}
    assert names == {"report.html", "report.json", "figures/pairs.png", "figures/index.json"}


def test_a_failed_write_leaves_the_old_file(results, tmp_path, monkeypatch):
    paths = write_report(tmp_path, results, {})
    before = paths.json.read_bytes(), paths.html.read_bytes()
    with pytest.raises(ValueError, match="figure 'pairs' is not a PNG"):
        write_report(tmp_path, results, {"pairs": b"GIF89a"})

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, results | {"seed": 4}, {})
    assert (paths.json.read_bytes(), paths.html.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_to_plain():
    value = {
        1: (jnp.float32(0.1), np.arange(2), jnp.ones(1, jnp.bfloat16)),
        "b": [np.bool_(True), None, float("inf"), {2, 1}],
        "named": Section("t", "c"),
        "text": np.array(["x"]),
        "odd": complex(1, 2),
    }
    got = to_plain(value, digits=3)
    assert got == {
        "1": [0.1, [0, 1], [1.0]],
        "b": [True, None, None, [1, 2]],
        "named": {"title": "t", "caption": "c", "meaning": ""},
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


def test_what_counts_as_memorized_is_said(results):
    results["detection"]["label_source"] = "half of its images copy"
    del results["data"]
    page = render_html(results, {})
    assert "count as memorized by: half of its images copy" in page
    assert "Given the memorized prompts" in verdict(results).texts[0]
