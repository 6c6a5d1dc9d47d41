"""memjax demo --workdir=DIR

Draws chest phantoms in CheXpert's layout, trains a small diffusion model on them, audits it and
writes report.html: under five minutes on two CPU cores. Settings: configs/phantoms_demo.py.
"""

import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from memjax.cli.flags import force_flag, refuse_files, require
from memjax.runs.config import check_config, check_data, plain

DEFAULT_CONFIG = "phantoms_demo"
FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration.",
    lock_config=True,
    flag_values=FLAGS,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/demo", "Folder of the run and its report.", flag_values=FLAGS
)
_FORCE = force_flag(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    require(workdir=_WORKDIR.value)
    refuse_files(workdir=_WORKDIR.value)
    check_config(plain(_CONFIG.value))
    check_data(plain(_CONFIG.value))


def main() -> int:
    """Runs the command."""
    from memjax.report.pages.audit_files import FILES
    from memjax.runs.outputs import held_run
    from memjax.sampling import SamplingOptions

    config = plain(_CONFIG.value)
    SamplingOptions(**config["sampling"]).repeatable()
    with held_run(_WORKDIR.value, FILES, force=_FORCE.value):
        return _demo(config)


def _demo(config: dict[str, Any]) -> int:
    from memjax.cli.audit_run import run_audit_command, summary_table
    from memjax.runs.model import load_model
    from memjax.runs.outputs import sampling_options
    from memjax.runs.train import train_run

    began = time.monotonic()
    print(f"memjax demo: phantoms, training and audit in {_WORKDIR.value}")
    train_run(config, _WORKDIR.value, force=_FORCE.value)
    model = load_model(_WORKDIR.value)
    paths, results = run_audit_command(
        model, model.path, sampling_options(model), discard_other=True, force=_FORCE.value
    )
    print(summary_table(results))
    print(f"done in {time.monotonic() - began:.0f} s; report: {paths.html}")
    return 0
