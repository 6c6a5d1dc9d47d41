"""A method is one file and one registry line: then every command, audit, sweep and table has it."""

import csv
import importlib
import json
import shutil
import sys

import numpy as np
import pytest

from memjax.cli.config_fields import sweep_config
from memjax.detectors import DETECTORS
from memjax.mitigations import MITIGATIONS
from memjax.runs.config import plain
from memjax.runs.model import with_defaults
from memjax.studies import budget
from memjax.studies.store import Store
from memjax.studies.sweep.measure import make_sweep_data, measure_arm
from memjax.studies.table import Row, csv_bytes
from memjax.training.run import open_run
from tests.commands import memjax, read_rows

DETECTOR = '''
"""Energy of the conditional prediction."""

import dataclasses
from typing import ClassVar

from memjax.core.numerics import per_example_norm
from memjax.core.types import Detector, Steps


@dataclasses.dataclass(frozen=True)
class Energy(Detector):
    """Energy of the conditional prediction.

    References:
        None.
    """

    cost: ClassVar[str] = "free"
    power: float = 2.0
    steps: Steps | None = None

    def __call__(self, state, net):
        return per_example_norm(state.eps_cond) ** self.power
'''
MITIGATION = '''
"""Shrunken conditions."""

import dataclasses
from typing import ClassVar

from memjax.core.condition import embeddings_of, with_embeddings
from memjax.mitigations import Mitigation


@dataclasses.dataclass(frozen=True)
class Shrink(Mitigation):
    """Shrunken conditions.

    References:
        None.
    """

    stage: ClassVar = "cond"
    cost: ClassVar[str] = "free"
    by: float = 0.5

    def __call__(self, problem, setup, key):
        if not self.by:
            return problem
        smaller = (1.0 - self.by) * embeddings_of(problem.cond)
        return problem._replace(cond=with_embeddings(problem.cond, smaller))
'''
TEXTS = (
    *("name", "title", "question", "expected_time", "expected_picture", "factor"),
    "factor_label",
)
QUICK = ("--num_steps=3", "--generations=1")


@pytest.fixture(scope="module", autouse=True)
def methods(tmp_path_factory):
    """One file each, and one line each."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "toy_energy.py").write_text(DETECTOR)
    (folder / "toy_shrink.py").write_text(MITIGATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.invalidate_caches()
        DETECTORS.register("toy_energy", "toy_energy:Energy")
        MITIGATIONS.register("toy_shrink", "toy_shrink:Shrink")
        yield
        DETECTORS.unregister("toy_energy")
        MITIGATIONS.unregister("toy_shrink")
        for name in ("toy_energy", "toy_shrink"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def audited(run, tmp_path_factory):
    """The short run audited with both, in a folder of its own."""
    folder = tmp_path_factory.mktemp("audited")
    done = memjax(
        "audit",
        f"--model={run}",
        f"--workdir={folder}",
        *QUICK,
        "--detectors=toy_energy:power=1",
        "--mitigations=toy_shrink:by=0.25+embedding_noise,toy_shrink",
    )
    assert done.code == 0, done.err
    return folder


def test_detect_scores_with_it_beside_others(run, prompts, tmp_path):
    out = tmp_path / "scores.jsonl"
    asked = "--detectors=toy_energy,noise_magnitude:rms=true"
    done = memjax("detect", f"--model={run}", f"--prompts={prompts}", f"--out={out}", *QUICK, asked)
    assert done.code == 0, done.err
    for row in read_rows(out):
        assert set(row["detectors"]) == {"toy_energy", "noise_magnitude:rms=true"}
        assert row["score"] == row["detectors"]["toy_energy"]["score"] > 0
        magnitude = row["detectors"]["noise_magnitude:rms=true"]
        assert magnitude["score"] == magnitude["score_rms"] < 0.5 * row["score"]
        assert "score_rms" not in row  # no norm
        assert row["provenance"]["detectors"] == ["toy_energy", "noise_magnitude:rms=true"]


def test_mitigate_tries_it_alone_and_in_a_chain(run, prompts, tmp_path):
    done = memjax(
        "mitigate",
        f"--model={run}",
        f"--prompts={prompts}",
        f"--out={tmp_path}",
        *QUICK,
        "--mitigations=toy_shrink:by=0.9,toy_shrink+embedding_noise:scale=0.1",
    )
    assert done.code == 0, done.err
    arms = {row["arm"] for row in read_rows(tmp_path / "mitigated.jsonl")}
    assert arms == {"toy_shrink-by-0.9", "toy_shrink-embedding_noise-scale-0.1"}
    assert "toy_shrink:by=0.9" in (tmp_path / "mitigation.html").read_text()


def test_the_audit_and_its_report_show_both(audited):
    report = json.loads((audited / "report.json").read_text())
    rows = {row["name"]: row for row in report["detectors"]["rows"]}
    assert set(rows) == {"noise_magnitude", "toy_energy:power=1"}
    assert 0 <= rows["toy_energy:power=1"]["auc"] <= 1
    names = [arm["name"] for arm in report["mitigation"]["arms"]]
    assert names == ["toy_shrink:by=0.25+embedding_noise", "toy_shrink"]
    page = (audited / "report.html").read_text()
    assert "toy_energy:power=1" in page
    assert "All detectors on the same trajectories" in page


def test_every_value_stands_in_the_tidy_table(audited):
    with (audited / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["arm"] for row in rows} == {
        "as_asked",
        "toy_shrink:by=0.25+embedding_noise",
        "toy_shrink",
    }
    assert {row["metric"] for row in rows} >= {
        "copy_distance",
        "noise_magnitude",
        "toy_energy:power=1",
    }
    assert {row["step"] for row in rows if row["metric"] == "copy_distance"} == {""}
    hostile = Row("=1+1", 0, "-a", "@b", "c", 0, "", "m", 0.5)
    assert csv_bytes(iter([hostile])).decode().splitlines()[1] == "'=1+1,0,'-a,'@b,c,0,,m,0.5"
    report = json.loads((audited / "report.json").read_text())
    values = [
        float(row["value"])
        for row in rows
        if row["metric"] == "copy_distance" and row["arm"] == "as_asked"
        if row["family"] == "memorized"
    ]
    share = np.mean(np.asarray(values) <= 1)
    assert share == pytest.approx(report["similarity"]["copy_rate_memorized"])
    steps = [
        (row["prompt"], row["generation"], row["step"])
        for row in rows
        if row["metric"] == "noise_magnitude" and row["arm"] == "as_asked"
    ]
    assert len(set(steps)) == len(steps)


def test_a_sweep_measures_it(run):
    """An arm's row, measured on the run that is there."""
    record = open_run(run)
    config = with_defaults(record.config)
    config["audit"]["options"] |= {"detectors": ("toy_energy",)}
    config["audit"]["rungs"] = ("pixel_l2",)
    record = record._replace(config=config)
    measure = plain(sweep_config(**dict.fromkeys(TEXTS, "")).measure)
    measure |= {"generations": 1, "near_miss": 0, "random": 0, "loss_rows": 2, "loss_timesteps": 1}
    look = measure_arm(record, make_sweep_data(record, lambda text: None), measure)
    found = look.metrics["auc_toy_energy"]
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert found["n"] == look.metrics["auc_all_steps"]["n"]


def test_the_tables_of_the_readmes_have_a_row_of_it():
    assert "| `toy_energy` | Energy of the conditional prediction |" in DETECTORS.table()
    assert "| `toy_shrink` | Shrunken conditions |" in MITIGATIONS.table()


def test_a_typo_is_told_with_the_nearest_name(run, prompts, tmp_path):
    out = tmp_path / "scores.jsonl"
    done = memjax(
        "detect", f"--model={run}", f"--prompts={prompts}", f"--out={out}", "--detectors=toy_enrgy"
    )
    assert done.code == 2
    assert "did you mean 'toy_energy'?" in done.err
    done = memjax("audit", f"--model={run}", "--mitigations=toy_shrink:bye=1")
    assert done.code == 2
    assert "did you mean 'by'?" in done.err


def test_an_audit_that_was_stopped_goes_on_and_ends_alike(run, audited, tmp_path, monkeypatch):
    """Stopped at the second part: the same command finishes, and its report says the same."""
    flags = (
        f"--model={run}",
        f"--workdir={tmp_path}",
        *QUICK,
        "--detectors=toy_energy:power=1",
        "--mitigations=toy_shrink:by=0.25+embedding_noise,toy_shrink",
    )
    keep, kept = Store.keep, []

    def limited(self, name, *arguments):
        if self.folder.name == "audit.parts":  # not the scores of the training prompts
            if len(kept) == 2:
                raise OSError("the machine went away")
            kept.append(name)
        keep(self, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "keep", limited)
        assert memjax("audit", *flags).code == 2
    parts = tmp_path / "audit.parts"
    assert len(list(parts.glob("part-*.npz"))) == 2
    other = memjax("audit", *flags, "--guidance_scale=9")
    assert other.code == 2
    assert "--restart" in other.err
    with monkeypatch.context() as patch:
        patch.setattr(Store, "keep", lambda self, name, *rest: kept.append(name))
        done = memjax("audit", *flags)
    assert done.code == 0, done.err
    assert len(set(kept)) == len(kept)  # nothing twice
    assert not parts.exists()
    reports = [json.loads((f / "report.json").read_text()) for f in (audited, tmp_path)]
    for section in ("detection", "similarity", "detectors", "validation"):
        assert reports[0][section] == reports[1][section]
    shutil.rmtree(tmp_path)


def test_a_larger_budget_goes_on_with_what_a_smaller_one_made(run, tmp_path, monkeypatch):
    """Two plans of one command: what the first one made is not made again."""
    flags = (f"--model={run}", f"--workdir={tmp_path}", *QUICK, "--mitigations=toy_shrink")
    monkeypatch.setattr(budget, "LEVELS", (0.125, 0.25))
    assert memjax("audit", *flags, "--budget=1s").code == 0
    first = json.loads((tmp_path / "report.json").read_text())
    assert not first["budget"]["complete"]
    assert first["budget"]["mitigations_left_out"] == ["toy shrink"]
    assert "--budget=1s asks for" in first["notes"]
    parts = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "audit.parts").glob("part-as_*")}
    assert parts
    keep, kept = Store.keep, []

    def seen(self, name, *arguments):
        kept.append(f"part-{name}.npz")
        keep(self, name, *arguments)

    monkeypatch.setattr(Store, "keep", seen)
    assert memjax("audit", *flags, "--budget=1h").code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["budget"]["complete"]
    assert report["budget"]["prompts"] >= first["budget"]["prompts"]
    assert report["mitigation"]["method"] == "toy_shrink"
    assert not {name for name in kept if name.startswith("part-as_")} & set(list(parts)[:-1])
    assert not (tmp_path / "audit.parts").exists()
    assert memjax("audit", *flags, "--budget=soon").code == 2
