"""memjax sweep --config=NAME --workdir=DIR

Answers one question by training and measuring several arms, each with several seeds: one row per
arm in sweep.jsonl, plots in sweep.html. The same command goes on where it was stopped.
"""

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from memjax.cli.config import load_config
from memjax.cli.flags import force_flag, require
from memjax.runs.config import check_sweep, plain

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Sweep: a bundled name or a path.", lock_config=True, flag_values=FLAGS
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the sweep.", flag_values=FLAGS)
_RUNS = flags.DEFINE_string(
    "runs",
    "",
    "Folder of trained runs that sweeps share (default: the workdir).",
    flag_values=FLAGS,
)
_PLAN = flags.DEFINE_bool("plan", False, "Say what would be done and stop.", flag_values=FLAGS)
_FORCE = force_flag(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    require(config=_CONFIG.value, workdir=_WORKDIR.value)
    whole = plain(_CONFIG.value)
    if "arms" not in whole:
        raise ValueError(
            "the configuration has no arms, expected one of a sweep (sweep_conditions, "
            "sweep_guidance, ...): see memjax sweep --help, or use memjax train."
        )
    check_sweep(whole)
    given = config_flags.get_override_values(FLAGS["config"]) if whole["parts"] else {}
    if lost := [name for name in given if name.partition(".")[0] != "seeds"]:
        raise ValueError(
            f"--config.{lost[0]} would change nothing: this sweep is made of "
            f"{', '.join(whole['parts'])}; give it to one of those."
        )


def main() -> int:
    """Runs the command."""
    whole = plain(_CONFIG.value)
    from memjax.studies.sweep.plan import plan_arms

    parts = [(name, plain(load_config(name))) for name in whole["parts"]] or [("", whole)]
    for _, part in parts:
        if whole["parts"]:
            part["seeds"] = whole["seeds"]
        arms = plan_arms(part)
        print(
            f"{part['title']}\n  {part['question']}\n  {len(part['arms'])} arms, seeds "
            f"{', '.join(map(str, part['seeds']))}, {len({a.run for a in arms})} runs; expected: "
            f"{part['expected_time']}"
        )
    if _PLAN.value:
        return 0
    from memjax.runtime.locks import hold

    with hold(_WORKDIR.value, flag="workdir") as workdir:
        return _all_parts(parts, workdir)


def _all_parts(parts: list[tuple[str, dict[str, Any]]], workdir: Path) -> int:
    from memjax.cli.sweeping import run_sweep, table
    from memjax.studies.sweep.measure import SweepData
    from memjax.studies.sweep.rows import read_rows

    runs = Path(_RUNS.value) if _RUNS.value else workdir
    studios: dict[str, SweepData] = {}
    pages = []
    for name, part in parts:
        folder = workdir / name.replace(":", "_") if name else workdir
        pages.append(run_sweep(part, folder, runs=runs, studios=studios, force=_FORCE.value))
        print(table(read_rows(folder), part["headline"]))
    for page in pages:
        print(f"report: {page}")
    return 0
