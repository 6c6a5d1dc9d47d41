"""memjax detect --model=MODEL --prompts=FILE.jsonl --out=SCORES.jsonl

Scores how memorized each prompt is, by the magnitude of Wen et al. (ICLR 2024) or by any of
--detectors (--detectors=help lists them), all on one trajectory. One row a prompt: the row itself
with score, score_rms, per_step ([generation][step]) and provenance; the first detector's, and those
of all under "detectors" where there are several. With --negatives also a threshold, ROC figures in
SCORES.summary.json, and a verdict per prompt.

MODEL is a memjax run, a diffusers folder, a single .safetensors file or a hub id; captions are
read by its text encoder, labels by a run. Scores are kept part by part in SCORES.jsonl.parts: a
stopped run goes on with the same command.
"""

from absl import flags

from memjax.cli.flags import (
    chunk_flag,
    force_flag,
    initial_noise_flag,
    model_flags,
    noise_flags,
    null_flags,
    prompts_flag,
    refuse_given,
    require,
    require_files,
    sampling_flags,
)

FLAGS = flags.FlagValues()
_MODEL = model_flags(FLAGS)
_PROMPTS = prompts_flag(FLAGS)
_OUT = flags.DEFINE_string("out", "", "JSONL file to write.", flag_values=FLAGS)
_DETECTORS = flags.DEFINE_list(
    "detectors",
    ["noise_magnitude"],
    "Detectors by name, NAME:field=value; the first one decides score and verdict. `help` lists "
    "them.",
    flag_values=FLAGS,
)
_STEPS = flags.DEFINE_string(
    "steps",
    None,
    "How far the trajectory runs: first, a number K (the first K steps) or all (default: as far as "
    "the detectors look).",
    flag_values=FLAGS,
)
_NEGATIVES = flags.DEFINE_string(
    "negatives", "", "File of prompts known not to be memorized, as --prompts.", flag_values=FLAGS
)
_NOISE = noise_flags(FLAGS)
_INITIAL = initial_noise_flag(FLAGS)
_SAMPLING = sampling_flags(FLAGS)
_FPR = flags.DEFINE_float(
    "target_fpr", 0.01, "False alarms accepted by the threshold.", 0.0, 0.999, flag_values=FLAGS
)
_CHUNK = chunk_flag(FLAGS)
_RESTART = flags.DEFINE_boolean(
    "restart", False, "Discard the parts that a stopped run has kept.", flag_values=FLAGS
)
_FORCE = force_flag(FLAGS)
_NULL = null_flags(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    if _DETECTORS.value != ["help"]:
        require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
        if not _NEGATIVES.value:
            refuse_given(FLAGS, ("target_fpr",), "a threshold needs --negatives=FILE.")
        require_files(
            prompts=_PROMPTS.value, negatives=_NEGATIVES.value, initial_noise=_INITIAL.value
        )


def main() -> int:
    """Runs the command."""
    from memjax.cli.detect_run import run

    return run()
