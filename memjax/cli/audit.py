"""memjax audit --model=RUN --workdir=DIR

Detects, explains, mitigates and validates on a trained run, with the settings of its
configuration (section audit), and writes report.html and report.json.
"""

from absl import flags

from memjax.cli.auditing import audit_run, summary_table
from memjax.cli.common import load_model, out_folder, require
from memjax.cli.ladder import published_rung

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", "", "Folder of a trained run.", flag_values=FLAGS)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder for the report (default: the run's).", flag_values=FLAGS
)
_FEATURES = flags.DEFINE_list(
    "features",
    [],
    "Weights you have, as NAME=PATH: sscd, sscd_large, xrv, rad_dino, dinov2, inception. Each "
    "becomes a rung of the similarity ladder; nothing is downloaded.",
    flag_values=FLAGS,
)


def main() -> int:
    """Runs the command."""
    require(model=_MODEL.value)
    for entry in _FEATURES.value:
        published_rung(entry)  # a wrong name or file is said before anything runs
    run = load_model(_MODEL.value)
    folder = out_folder(_WORKDIR.value or _MODEL.value, "workdir")
    paths, results = audit_run(run, folder, _FEATURES.value)
    print(summary_table(results))
    print(f"report: {paths.html}")
    return 0
