"""From a sweep's configuration to its rows and its report."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax.evaluate.denoising_loss import stopping_point
from memjax.evaluate.statistics.bootstrap import Interval
from memjax.report.charts.image_grid import thumbnail_wall
from memjax.report.files import FOLDER
from memjax.report.pages.sweep import PAGES, write_sweep_report
from memjax.runtime.files import write_bytes
from memjax.runtime.locks import hold
from memjax.runtime.provenance import provenance
from memjax.sampling import SamplingOptions
from memjax.studies.run import AS_ASKED
from memjax.studies.store import Store, content_digest
from memjax.studies.sweep.expectations import check_expectations
from memjax.studies.sweep.measure import SweepData, make_sweep_data, measure_arm
from memjax.studies.sweep.metrics import ArmLook
from memjax.studies.sweep.plan import Arm, data_root, plan_arms
from memjax.studies.sweep.rows import FILE, digest, find_row, put_row, read_rows
from memjax.studies.sweep.runs import ensure_run, open_arm
from memjax.studies.table import Asked, csv_bytes, observed_rows

Say = Callable[[str], None]
_WALL = 8


def run_sweep(
    sweep: Mapping[str, Any],
    workdir: Path,
    *,
    runs: Path | None = None,
    say: Say = print,
    studios: dict[str, SweepData] | None = None,
    force: bool = False,
) -> Path:
    """Trains and measures every arm that is not there yet, and writes ``sweep.html``.

    Args:
        sweep: A plain sweep configuration.
        workdir: Folder for ``sweep.jsonl``, ``arms/`` and the report.
        runs: Folder of the trained runs and drawn data; sweeps that share it share runs.
        say: Told what is being done.
        studios: What was made for earlier sweeps' data; filled.
        force: Replace files there that memjax did not write.

    Returns:
        The page.
    """
    writes = (FILE, *PAGES, FOLDER, "arms")
    with hold(workdir, writes, force=force, flag="workdir"):
        return _run_sweep(sweep, workdir, runs or workdir, say, {} if studios is None else studios)


def _run_sweep(
    sweep: Mapping[str, Any], workdir: Path, runs: Path, say: Say, studios: dict[str, SweepData]
) -> Path:
    arms = plan_arms(sweep)
    for arm in arms:
        SamplingOptions(**arm.config["sampling"]).repeatable()
    rows = read_rows(workdir)
    missing = [a for a in arms if find_row(rows, a, sweep["measure"]) is None]
    say(f"{sweep['title']}: {len(arms)} arms, {len(missing)} to measure")
    for seed, of_seed in groupby(arms, key=lambda arm: arm.seed):
        own = [arm for arm in of_seed if arm in missing]
        for number, arm in enumerate(own, start=1):
            say(f"seed {seed}, arm {number} of {len(own)}: {arm.title}")
            put_row(workdir, _row(sweep, arm, workdir, runs, say, studios))
            if number == len(own):
                write_page(sweep, workdir, arms)
    return write_page(sweep, workdir, arms)


def _row(
    sweep: Mapping[str, Any],
    arm: Arm,
    workdir: Path,
    runs: Path,
    say: Say,
    studios: dict[str, SweepData],
) -> dict[str, Any]:
    """Trains an arm's run where it is missing, measures the arm and keeps its images."""
    began = time.monotonic()
    ensure_run(runs, arm)
    trained = time.monotonic() - began
    run = open_arm(runs, arm)
    data = json.dumps([data_root(arm.config, runs), arm.config["audit"], arm.seed])
    if data not in studios:
        studios.clear()  # one data set at a time: programs and images of the last one go
        jax.clear_caches()
        place = runs / "data" / f"copy_encoder-{hashlib.sha256(data.encode()).hexdigest()[:10]}.npz"
        studios[data] = make_sweep_data(run, say, tuple(sweep["measure"]["published"]), place)
    folder = f"arms/{arm.name}"
    (workdir / folder).mkdir(parents=True, exist_ok=True)
    mark = digest(arm, sweep["measure"])
    store = Store(
        workdir / folder / "parts", {"row": mark, "model": content_digest(run.bundle.params)}
    )
    with hold(workdir / folder, flag="workdir"), store.held():
        if not store.same_job():
            store.discard()
        store.start()
        look = measure_arm(run, studios[data], sweep["measure"], store)
        store.remove()
    wall = f"{folder}/wall.png"
    write_bytes(workdir / wall, _wall(look, studios[data]))
    asked = Asked(arm.title, arm.seed, AS_ASKED, look.prompts, look.families)
    write_bytes(workdir / folder / "table.csv", csv_bytes(observed_rows(asked, look.seen)))
    return {
        "arm": arm.title,
        "key": arm.key,
        "seed": arm.seed,
        "factor": sweep["factor"],
        "value": arm.value,
        "order": arm.order,
        "run": arm.run,
        "step": run.step,
        "metrics": look.metrics | _planted(studios[data]),
        "wall": wall,
        "seconds": time.monotonic() - began,
        "seconds_training": trained,
        "digest": mark,
        "provenance": provenance(arm.config, arm.seed, run.step),
    }


def _planted(studio: SweepData) -> dict[str, Any]:
    """What the copy encoder reaches on planted copies, as metrics."""
    if studio.encoder is None:
        return {}
    found = studio.encoder.calibration
    out = {}
    for kind, low in (
        ("auc_planted", "auc"),
        *((k, k) for k in ("augmented", "blurred", "shifted")),
    ):
        out[f"planted_{low}"] = {
            "value": found[kind],
            "low": found[f"{low}_low"],
            "high": found[f"{low}_high"],
            "n": found["num_planted"],
        }
    return out


def _wall(look: ArmLook, studio: SweepData) -> bytes:
    """The images most like a training image, one a training image and prompt."""
    rows: list[int] = []
    seen: set[tuple[int, str]] = set()
    near = look.seen.similarity
    ratio, nearest = near.ratio_adaptive, near.index
    for row in np.argsort(ratio, kind="stable"):
        pair = (int(nearest[row]), look.captions[row])
        if pair not in seen and len(rows) < _WALL:
            seen.add(pair)
            rows.append(int(row))
    chosen = np.asarray(rows)
    return thumbnail_wall(
        look.seen.flat[chosen],
        studio.gallery.train[nearest[chosen]],
        similarity=-ratio[chosen],
        written=ratio[chosen],
        copies=(ratio[chosen] <= 1.0).tolist(),
    )


def write_page(sweep: Mapping[str, Any], workdir: Path, arms: Sequence[Arm]) -> Path:
    """Writes the page from the rows there are; what is still missing is said on it."""
    known = read_rows(workdir)
    found = [find_row(known, arm, sweep["measure"]) for arm in arms]
    rows = [row for row in found if row is not None]
    names = ("title", "question", "expected_time", "expected_picture", "factor", "factor_label")
    plan = {name: sweep[name] for name in (*names, "scale", "headline")}
    plan["num_arms"] = len(arms)
    plan["command"] = f"memjax sweep --config={sweep['name']} --workdir=DIR"
    plan["wall_number"] = "the number is the calibrated distance: at 1 or below, a copy"
    plan["expectations"] = check_expectations(sweep["expectations"], rows)
    plan["stopping_point"] = stopping_points(rows) if sweep["factor"] == "step" else None
    walls = {
        f"{row['arm']}, seed {row['seed']}": (workdir / row["wall"]).read_bytes()
        for row in rows
        if (workdir / row["wall"]).is_file()
    }
    return write_sweep_report(workdir, plan, rows, walls).html


def stopping_points(rows: Sequence[Mapping[str, Any]]) -> dict[int, int | None]:
    """Returns, per seed, the last step before training and held-out loss part."""
    out: dict[int, int | None] = {}
    for seed in sorted({row["seed"] for row in rows}):
        own = sorted((r for r in rows if r["seed"] == seed), key=lambda row: row["value"])
        own = [row for row in own if "loss_gap" in row["metrics"]]
        gaps = [
            Interval(*(row["metrics"]["loss_gap"][k] for k in ("value", "low", "high")))
            for row in own
        ]
        losses = [row["metrics"]["train_loss"]["value"] for row in own]
        out[seed] = stopping_point([row["value"] for row in own], gaps, losses=losses)
    return out


def table(rows: Sequence[Mapping[str, Any]], headline: Sequence[str]) -> str:
    """Returns the arms with their main figures: the mean over seeds, and the range."""
    titles = list(dict.fromkeys(row["arm"] for row in rows))
    wide = max([len(t) for t in titles] + [4])
    lines = ["  " + " " * wide + "".join(f"  {name:>22}" for name in headline)]
    for title in titles:
        cells = []
        for name in headline:
            values = [
                row["metrics"][name]["value"]
                for row in rows
                if row["arm"] == title and name in row["metrics"]
            ]
            cells.append(
                f"{np.mean(values):8.2f} ({min(values):.2f}-{max(values):.2f})" if values else "-"
            )
        lines.append(f"  {title:<{wide}}" + "".join(f"  {cell:>22}" for cell in cells))
    return "\n".join(lines)
