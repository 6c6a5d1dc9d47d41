"""memjax audit --model=RUN_OR_FOLDER --workdir=DIR

Detects, explains, mitigates and validates, and writes report.html and report.json. A memjax run is
audited with the settings and data of its configuration. A Stable-Diffusion-format model needs
--data=DIR, a folder of captioned training images (those repeated in training stand there several
times, or metadata.jsonl says repeats; the sub-folder valid was not trained on), or
--prompts=memorized.jsonl with --negatives=ordinary.jsonl and images in the field image. A
fine-tuned run knows its data itself.

Nobody need know what was repeated: every different training prompt is scored at the first step
(training_scores.csv), the threshold is fitted on held-out prompts, and images are made for the
loudest, for a random sample and for held-out prompts; returned.csv names the training images that
came back. --budget=10m asks for as much as fits into that time; the same command with more goes on.

A run without a null condition (train.cond_dropout=0) is audited without what needs an unconditional
prediction, or with --null=random_labels, or --null=companion and --companion=MODEL. A run without
conditions (train.cond_dropout=1) is asked for images from seeds: how many copy a training image.
"""

from pathlib import Path

from absl import flags

from memjax.cli.flags import (
    MOST,
    chunk_flag,
    force_flag,
    model_flags,
    null_flags,
    prompts_flag,
    refuse_files,
    refuse_given,
    require,
    require_files,
    sampling_flags,
    seed_flag,
)
from memjax.core.names import RUN_FILE

FLAGS = flags.FlagValues()
_MODEL = model_flags(FLAGS)
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
_DATA = flags.DEFINE_string(
    "data", "", "Text models: folder of captioned training images.", flag_values=FLAGS
)
_HELD_OUT = flags.DEFINE_string(
    "held_out", "", "Text models: folder of captioned images never trained on.", flag_values=FLAGS
)
_PROMPTS = prompts_flag(FLAGS)
_NEGATIVES = flags.DEFINE_string(
    "negatives", "", "Text models: file of prompts not memorized.", flag_values=FLAGS
)
_CLIP = flags.DEFINE_string(
    "clip", "", "Text models: folder of a CLIP model, for the CLIP score.", flag_values=FLAGS
)
_SIDE = flags.DEFINE_integer(
    "compare_at",
    64,
    "Text models: short side in pixels at which images are compared pixel by pixel.",
    lower_bound=8,
    upper_bound=4096,
    flag_values=FLAGS,
)
_GENERATIONS = flags.DEFINE_integer(
    "generations",
    None,
    "Images a prompt (default: the configuration's).",
    lower_bound=1,
    upper_bound=MOST,
    flag_values=FLAGS,
)
_SEED = seed_flag(FLAGS, None, "Seed of noise and draws (default: the configuration's).")
_DETECTORS = flags.DEFINE_list(
    "detectors",
    None,
    "Detectors to measure beside the magnitude, NAME:field=value; `help` lists them.",
    flag_values=FLAGS,
)
_ARMS = flags.DEFINE_list(
    "mitigations",
    None,
    "Mitigations to try, NAME:field=value, joined by + where several are applied together; the "
    "first is the chosen one (default: the configuration's); `help` lists them.",
    flag_values=FLAGS,
)
_RESTART = flags.DEFINE_boolean(
    "restart", False, "Discard what a stopped audit has kept.", flag_values=FLAGS
)
_BUDGET = flags.DEFINE_string(
    "budget",
    "",
    "How long the audit may take, such as 10m or 1h: decides how many prompts are asked for; the "
    "same command with a larger one goes on from there.",
    flag_values=FLAGS,
)
_NULL = null_flags(FLAGS)
_SAMPLING = sampling_flags(FLAGS)
_CHUNK = chunk_flag(FLAGS)
_FORCE = force_flag(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    if ["help"] not in (_DETECTORS.value, _ARMS.value):
        require(model=_MODEL.value)
        if not _DATA.value:
            refuse_given(FLAGS, ("held_out",), "it goes with --data=DIR.")
        if _DATA.value and (_PROMPTS.value or _NEGATIVES.value):
            raise ValueError("--data and --prompts are both given: give one of them.")
        if bool(_PROMPTS.value) != bool(_NEGATIVES.value):
            missing = "--negatives" if _PROMPTS.value else "--prompts"
            raise ValueError(f"{missing} must be given too: an audit compares the two.")
        here = Path(_MODEL.value)
        if here.exists() and not _WORKDIR.value and not (here / RUN_FILE).is_file():
            raise ValueError("--workdir must be given: the model's folder is left as it is.")
        refuse_files(workdir=_WORKDIR.value)
        require_files(prompts=_PROMPTS.value, negatives=_NEGATIVES.value)


def main() -> int:
    """Runs the command."""
    from memjax.cli.audit_run import run

    return run()
