"""memjax audit --model=RUN_OR_FOLDER --workdir=DIR

Detects, explains, mitigates and validates, and writes report.html and report.json. A memjax run is
audited with the settings and data of its configuration. A Stable-Diffusion-format model needs
--data=DIR, a folder of captioned training pictures (those repeated in training stand there several
times, or metadata.jsonl says repeats; the sub-folder valid was not trained on), or
--prompts=memorized.jsonl with --negatives=ordinary.jsonl and pictures in the field image. A
fine-tuned run knows its data itself.
"""

from absl import flags

from memjax.cli.auditing import audit_run, summary_table
from memjax.cli.common import out_folder, require
from memjax.cli.flag_sets import chunk_flag, model_flags, prompts_flag, sampling_flags
from memjax.cli.ladder import published_rung
from memjax.cli.models import Model

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
    "data", "", "Text models: folder of captioned training pictures.", flag_values=FLAGS
)
_HELD_OUT = flags.DEFINE_string(
    "held_out", "", "Text models: folder of captioned pictures never trained on.", flag_values=FLAGS
)
_PROMPTS = prompts_flag(FLAGS)
_NEGATIVES = flags.DEFINE_string(
    "negatives", "", "Text models: JSONL file of prompts not memorised.", flag_values=FLAGS
)
_CLIP = flags.DEFINE_string(
    "clip", "", "Text models: folder of a CLIP model, for the CLIP score.", flag_values=FLAGS
)
_SIDE = flags.DEFINE_integer(
    "compare_at",
    64,
    "Text models: short side in pixels at which pictures are compared pixel by pixel.",
    lower_bound=8,
    flag_values=FLAGS,
)
_GENERATIONS = flags.DEFINE_integer(
    "generations", None, "Text models: pictures a prompt.", lower_bound=1, flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "Text models: seed of noise and draws.", flag_values=FLAGS)
_SAMPLING = sampling_flags(FLAGS)
_CHUNK = chunk_flag(FLAGS)


def main() -> int:
    """Runs the command."""
    require(model=_MODEL.value)
    _check()
    for entry in _FEATURES.value:
        published_rung(entry)  # a wrong name or file is said before anything runs
    model = _MODEL.load()
    if model.run is None:
        paths, results = _text(model)
    else:
        _refuse_text_flags()
        folder = out_folder(_WORKDIR.value or _MODEL.value, "workdir")
        paths, results = audit_run(model, folder, _FEATURES.value)
    print(summary_table(results))
    print(f"report: {paths.html}")
    return 0


def _check() -> None:
    if _DATA.value and (_PROMPTS.value or _NEGATIVES.value):
        raise ValueError("--data and --prompts are both given: give one of them.")
    if bool(_PROMPTS.value) != bool(_NEGATIVES.value):
        missing = "--negatives" if _PROMPTS.value else "--prompts"
        raise ValueError(f"{missing} must be given too: an audit compares the two.")


def _refuse_text_flags() -> None:
    given = {
        "data": _DATA.value,
        "prompts": _PROMPTS.value,
        "held_out": _HELD_OUT.value,
        "clip": _CLIP.value,
    }
    for name, value in given.items():
        if value:
            raise ValueError(
                f"--{name}={value} is for models that read text, and {_MODEL.value} was trained on "
                "labels: leave it out, its configuration says what it is audited with."
            )


def _text(model: Model):
    from memjax.cli.captioned import from_fine_tuning, from_folder, from_prompts
    from memjax.cli.references import clip_score
    from memjax.cli.text_auditing import TextAudit, audit_text_model

    if _DATA.value:
        data = from_folder(_DATA.value, _HELD_OUT.value)
    elif _PROMPTS.value:
        data = from_prompts(_PROMPTS.value, _NEGATIVES.value)
    else:
        data = from_fine_tuning(model)
    if not _WORKDIR.value and not model.record:
        raise ValueError("--workdir must be given: the model's folder is left as it is.")
    asked = TextAudit(
        _FEATURES.value,
        clip_score(_CLIP.value),
        _SIDE.value,
        _GENERATIONS.value,
        _CHUNK.value,
        _SEED.value,
    )
    folder = out_folder(_WORKDIR.value or _MODEL.value, "workdir")
    return audit_text_model(model, folder, data, _SAMPLING.options(model), asked)
