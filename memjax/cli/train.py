"""memjax train --config=NAME_OR_PATH[:arg] --workdir=DIR [--config.a.b=c ...]

Trains a diffusion model, or fine-tunes one (--config=finetune_...). The run resumes by itself:
start the same command again after a stop.
"""

from absl import flags
from ml_collections import config_flags

from memjax.cli.flags import MOST, force_flag, refuse_files
from memjax.runs.config import check_config, check_data, plain

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Bundled name or path of a configuration.", lock_config=True, flag_values=FLAGS
)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=FLAGS)
_ALLOW = flags.DEFINE_bool(
    "allow_config_change",
    False,
    "Resume although the configuration differs from the saved one.",
    flag_values=FLAGS,
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "Steps to record in WORKDIR/profile, for TensorBoard's profile page or XProf.",
    lower_bound=0,
    upper_bound=MOST,
    flag_values=FLAGS,
)
_FORCE = force_flag(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    if _CONFIG.value is None or not _WORKDIR.value:
        raise ValueError(
            "train needs --config and --workdir, for example: "
            "memjax train --config=phantoms_demo --workdir=runs/demo."
        )
    refuse_files(workdir=_WORKDIR.value)
    check_config(plain(_CONFIG.value))
    check_data(plain(_CONFIG.value))


def main() -> int:
    """Runs the command."""
    from memjax.runs.fine_tune import fine_tune_run
    from memjax.runs.train import train_run

    config = plain(_CONFIG.value)
    run = fine_tune_run if "fine_tune" in config else train_run
    result = run(
        config,
        _WORKDIR.value,
        allow_config_change=_ALLOW.value,
        profile_steps=_PROFILE.value or 0,
        force=_FORCE.value,
    )
    first = f", first step after {result.compile_seconds:.1f} s" if result.compile_seconds else ""
    print(f"done: {_WORKDIR.value} at step {int(result.state.step)}{first}")
    return 0
