"""The sweep's page: plain answers, every figure with its data, whatever the rows lack."""

import csv
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from memjax.report.charts.factor import factor_lines, numeric, training_panels
from memjax.report.charts.image_grid import sorted_wall, thumbnail_wall
from memjax.report.pages.sweep import sweep_figures, write_sweep_report
from memjax.studies.sweep.table import arms_of, estimate, long_table, summary_of

HOSTILE = "<script>alert('x')</script>\"&$\n日本語"


def _metric(value, spread=0.1):
    return {"value": value, "low": value - spread, "high": value + spread, "n": 20}


def _row(arm, seed, order, value, **metrics):
    found = {name: _metric(number) for name, number in metrics.items()}
    return {"arm": arm, "key": arm.replace(" ", "_"), "seed": seed, "factor": "condition",
            "value": value, "order": order, "metrics": found, "seconds": 1.0}  # fmt: skip


def _rows():
    return [
        _row("marker", seed, 1, "marker", copy_rate=0.6 + 0.1 * seed, spearman_ssim=0.5)
        for seed in (0, 1)
    ] + [_row("nothing", seed, 0, "nothing", copy_rate=0.1) for seed in (0, 1)]


def _plan(**changes):
    plan = {
        "title": "What it is told",
        "question": "Does more detail copy more?",
        "command": "memjax sweep --config=sweep_conditions",
        "expected_time": "an hour",
        "expected_picture": "Rates rise.",
        "factor": "condition",
        "factor_label": "Condition",
        "scale": "category",
        "headline": ["copy_rate", "auc_first_k"],
        "num_arms": 4,
        "expectations": [
            {"text": "marker > nothing", "holds": True, "because": "0.65 against 0.10"},
            {"text": "guidance amplifies", "holds": False, "because": "0.1 against 0.2"},
            {"text": "unmeasured", "holds": None, "because": None},
        ],
    }
    return plan | changes


def _wall():
    films = np.zeros((2, 8, 8, 1), np.float32)
    return thumbnail_wall(films, films, similarity=[0.1, 0.9], copies=[False, True])


class _Reader(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.alts, self.pieces = [], [], [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        self.alts += [dict(attrs).get("alt") for _ in (0,) if tag == "img"]

    def handle_data(self, data):
        self.pieces.append(data)


def _read(path):
    return _Reader(path.read_text(encoding="utf-8"))


def test_the_page_answers_in_words_and_figures(tmp_path):
    paths = write_sweep_report(tmp_path, _plan(), _rows(), {"marker, seed 0": _wall()})
    page = _read(paths.html)
    assert "1 of 3 expectations hold; 1 fails." in page.text
    assert "marker > nothing ✓ yes 0.65 against 0.10" in page.text
    assert "guidance amplifies ✗ no 0.1 against 0.2" in page.text
    assert "unmeasured ? not decided –" in page.text
    assert "lowest at “nothing” (10\N{NO-BREAK SPACE}%), highest at “marker” (65" in (
        paths.html.read_text(encoding="utf-8")
    )
    assert "marker 65 % 60–70 % 2" in page.text  # mean, lowest to highest seed, seeds
    assert "ssim 0.50 0.50–0.50" in page.text
    assert "Not finished" not in page.text
    order = [page.text.index(t) for t in ("What was found", "one’s own eyes", "arms in figures",
                                          "arms side by side", "How this was made")]  # fmt: skip
    assert order == sorted(order)


def test_the_page_stands_alone(tmp_path):
    walls = {"marker, seed 0": _wall(), "nothing, seed 1": _wall()}
    page = _read(write_sweep_report(tmp_path, _plan(), _rows(), walls).html)
    assert page.tags.count("img") == 3
    assert all(alt and len(alt) > 10 for alt in page.alts)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    for link in page.links:
        assert link.startswith("data:image/png;base64,") or (tmp_path / link).is_file(), link
    text = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", text)


def test_csv_files_hold_the_rows(tmp_path):
    rows = _rows()
    paths = write_sweep_report(tmp_path, _plan(), rows, {})
    found = list(csv.DictReader(paths.csv.read_text(encoding="utf-8").splitlines()))
    assert list(found[0]) == ["arm", "seed", "factor", "value", "metric", "figure", "low", "high"]
    wanted = {
        (row["arm"], row["seed"], name): (m["value"], m["low"], m["high"])
        for row in rows
        for name, m in row["metrics"].items()
    }
    got = {
        (r["arm"], int(r["seed"]), r["metric"]): tuple(
            float(r[k]) for k in ("figure", "low", "high")
        )
        for r in found
    }
    assert got == wanted
    own = (tmp_path / "figures" / "copy_rate.csv").read_text(encoding="utf-8").splitlines()
    assert len(own) == 1 + 4
    assert not (tmp_path / "figures" / "auc_first_k.csv").exists()  # nobody has it


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"arm": "a"}],
        [{"arm": "a", "key": "a", "seed": 0, "metrics": {"copy_rate": None}}],
        [{"arm": "a", "metrics": {"copy_rate": {"value": float("nan")}}}],
        [{"arm": "a", "metrics": {"copy_rate": {"value": 0.5}}}],
        [{"arm": "a", "metrics": {"copy_rate": 0.5}}],
    ],
)
def test_rows_may_lack_anything(rows, tmp_path):
    for scale in ("category", "linear"):
        page = _read(write_sweep_report(tmp_path, _plan(scale=scale), rows, {}).html)
        assert not re.search(r"\b(nan|None|inf)\b", page.text)
        assert f"Not finished: {len(rows)} of 4 arms done" in page.text


def test_an_empty_plan_still_makes_a_page(tmp_path):
    assert "Sweep" in _read(write_sweep_report(tmp_path, {}, _rows(), {}).html).text


def test_hostile_names_are_text(tmp_path):
    rows = [_row(HOSTILE, 0, 0, HOSTILE, copy_rate=0.5, spearman_ssim=0.1)]
    words = dict.fromkeys(("title", "question", "command", "factor_label"), HOSTILE)
    plan = _plan(expectations=[{"text": HOSTILE, "holds": True, "because": HOSTILE}], **words)
    paths = write_sweep_report(tmp_path, plan, rows, {HOSTILE: _wall()})
    text = paths.html.read_text(encoding="utf-8")
    assert "<script" not in text.lower()
    assert _read(paths.html).text.count("<script>alert") >= 8
    found = list(csv.reader(io.StringIO(paths.csv.read_bytes().decode(), newline="")))
    assert found[1][0] == HOSTILE


def test_bad_input_leaves_the_earlier_page(tmp_path):
    paths = write_sweep_report(tmp_path, _plan(), _rows(), {})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="scale is 'cubic', expected 'category'"):
        write_sweep_report(tmp_path, _plan(scale="cubic"), _rows(), {})
    with pytest.raises(ValueError, match="is not a PNG"):
        write_sweep_report(tmp_path, _plan(), _rows(), {"marker, seed 0": b"GIF"})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert paths.html in before


def _steps(losses=True):
    rows = []
    for seed in (0, 1):
        for order, step in enumerate((100, 1000, 300)):
            metrics = {"copy_rate": min(step / 1000, 0.9)}
            if losses:
                metrics |= {"train_loss": 10 / step, "held_out_loss": 11 / step}
            rows.append(_row(f"{step} steps", seed, order, step, **metrics))
    return rows


def test_training_sweep_has_both_panels_and_the_stopping_point(tmp_path):
    plan = _plan(scale="log", stopping_point={0: 300, 1: None}, headline=["copy_rate"])
    figures = sweep_figures(plan, arms_of(_steps()))
    assert list(figures) == ["training", "copy_rate"]
    assert set(figures["training"].table["metric"]) == {"copy_rate", "train_loss", "held_out_loss"}
    assert list(sweep_figures(plan, arms_of(_steps(losses=False)))) == ["copy_rate"]
    page = _read(write_sweep_report(tmp_path, plan, _steps(), {}).html)
    assert "Seed 0: training and held-out loss part after step 300." in page.text
    assert "Seed 1: training and held-out loss do not part." in page.text
    arms, dark = arms_of(_steps()), []
    for stops in ({}, {0: 300}):
        png = training_panels(arms, ["copy_rate"], "steps", stops=stops)
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        dark.append(int((pixels[:, 300:1300] < 60).sum()))
    assert dark[1] > dark[0] + 500  # the line stands in both panels


def test_arms_without_a_number_are_refused_where_one_is_needed():
    arms = arms_of([_row("a", 0, 0, "text", copy_rate=0.1)])
    with pytest.raises(ValueError, match=r"no arm's value is a number, found \['text'\]"):
        factor_lines(arms, "copy_rate", "x")
    assert [a.value for a in numeric(arms_of(_steps()))] == [100, 300, 1000]


def test_a_zero_on_a_log_axis_falls_back_to_a_linear_one():
    rows = [_row(f"{v}", 0, i, v, copy_rate=0.1 * v) for i, v in enumerate((0, 1, 5))]
    arms = arms_of(rows)
    assert factor_lines(arms, "copy_rate", "x", log=True) == factor_lines(arms, "copy_rate", "x")


def test_rows_in_order_and_the_later_of_two_counts():
    rows = [*_rows(), _row("marker", 1, 1, "marker", copy_rate=0.2)]
    arms = arms_of(rows)
    assert [arm.name for arm in arms] == ["nothing", "marker"]
    assert summary_of(arms[1], "copy_rate") == pytest.approx((0.4, 0.2, 0.6, 2), abs=1e-12)
    assert summary_of(arms[0], "missing") is None
    assert estimate(None, "x").value is None
    twins = [{**_row("same", 0, i, i, copy_rate=0.1), "key": key} for i, key in enumerate("ab")]
    assert [arm.name for arm in arms_of(twins)] == ["same (a)", "same (b)"]
    assert len(long_table(arms)["arm"]) == 5


def test_a_huge_sweep_is_written(tmp_path):
    rows = [_row(f"arm {i}", s, i, i, copy_rate=i / 60) for i in range(60) for s in range(5)]
    for scale in ("category", "linear"):
        page = _read(write_sweep_report(tmp_path, _plan(scale=scale, num_arms=300), rows, {}).html)
        assert "arm 59" in page.text


def test_walls_are_sorted_and_say_what_is_unknown():
    grey = np.linspace(-0.9, 0.9, 3, dtype=np.float32)[:, None, None] * np.ones((3, 8, 8))
    near = np.zeros((3, 8, 8), np.float32)
    kwargs = {"captions": ["a", "b", "c"], "copies": [True, False, False]}
    png = sorted_wall(grey, near, similarity=[0.1, 0.9, np.nan], **kwargs)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    row = pixels[200]
    centers = [int((1.12 + side * (2.0 + 0.16) + 1.0) * 200) for side in range(3)]
    shown = [int(row[x][0]) for x in centers]
    # b, then a, then the one whose similarity is unknown; gray levels are rounded
    np.testing.assert_allclose(shown, [127.5, 12.75, 242.25], atol=1)
    orange = np.abs(pixels - (0xD5, 0x5E, 0)).max(-1) <= 3
    assert orange[:, np.arange(pixels.shape[1]) > 1.12 * 200 + 2.16 * 200].any()
    with pytest.raises(ValueError, match="similarity has 2 values for 3 images"):
        sorted_wall(grey, near, similarity=[0.1, 0.9], **kwargs)
    with pytest.raises(ValueError, match="holds no image"):
        thumbnail_wall(grey[:0], near[:0], similarity=[])
    distance = sorted_wall(grey, near, similarity=[-0.1, -0.9, -2], written=[0.1, 0.9, 2], **kwargs)
    assert distance != sorted_wall(grey, near, similarity=[-0.1, -0.9, -2], **kwargs)
