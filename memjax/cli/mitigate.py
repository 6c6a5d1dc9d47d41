"""memjax mitigate --model=RUN_OR_FOLDER --prompts=FILE.jsonl --out=DIR

Optimizes each prompt's embedding until it no longer pulls towards one image (Wen et al., ICLR
2024), and shows before and after from the same noise. --targets=1,2,3,4,5 leaves one optimization
at several magnitudes. With training images (the rows' field image, or --references) it measures
likeness to them (--sscd=FILE; without weights, pixels), with --clip=FOLDER whether the images
still show what was asked. Writes embeddings.npz, mitigated.jsonl, table.csv, before_after.png,
mitigation.html with the trade-off curve, and the images. A run that was stopped goes on. A model
without a null condition needs --null=random_labels, or --null=companion and --companion=MODEL.
"""

import math

from absl import flags

from memjax.cli.flags import (
    MOST,
    chunk_flag,
    force_flag,
    initial_noise_flag,
    model_flags,
    noise_flags,
    null_flags,
    numbers,
    prompts_flag,
    refuse_files,
    refuse_given,
    require,
    require_files,
    sampling_flags,
)
from memjax.core.names import ARMS, NOISE, SWAP

FLAGS = flags.FlagValues()
_MODEL = model_flags(FLAGS)
_PROMPTS = prompts_flag(FLAGS)
_OUT = flags.DEFINE_string("out", "", "Folder for the results.", flag_values=FLAGS)
_METHOD = flags.DEFINE_enum(
    "method",
    None,
    ARMS,
    "Which mitigation (default: embedding_optimization for a memjax run, embedding_first_step, the "
    "published setting, for other models; none where --mitigations is given).",
    flag_values=FLAGS,
)
_MITIGATIONS = flags.DEFINE_list(
    "mitigations",
    [],
    "Mitigations by name, each an arm of its own: NAME:field=value, joined by + where several are "
    "applied together; `--mitigations=help` lists them.",
    flag_values=FLAGS,
)
_AT = flags.DEFINE_list(
    "steps", None, "Step indices to minimize over (default: the run's).", flag_values=FLAGS
)
_ITERS = flags.DEFINE_integer(
    "num_iters", None, "Updates (default: the run's).", 1, MOST, flag_values=FLAGS
)
_RATE = flags.DEFINE_float(
    "learning_rate", None, "AdamW's rate (default: the run's).", 0.0, 1000.0, flag_values=FLAGS
)
_DECAY = flags.DEFINE_float(
    "weight_decay",
    None,
    "AdamW's weight decay (default: 0 for a memjax run, 0.01 for other models, as published).",
    lower_bound=0.0,
    upper_bound=1000.0,
    flag_values=FLAGS,
)
_TARGET = flags.DEFINE_float(
    "target", None, "Stop a prompt at this raw magnitude.", 0.0, 1e9, flag_values=FLAGS
)
_TARGET_RMS = flags.DEFINE_float(
    "target_rms", None, "Stop a prompt at this RMS magnitude.", 0.0, 1e9, flag_values=FLAGS
)
_TARGETS = flags.DEFINE_list(
    "targets", None, "Several raw magnitudes, such as 1,2,3,4,5, in one run.", flag_values=FLAGS
)
_TARGETS_RMS = flags.DEFINE_list(
    "targets_rms", None, "Several RMS magnitudes in one run.", flag_values=FLAGS
)
_RADIUS = flags.DEFINE_float(
    "radius",
    None,
    "Keep the embedding in an l2 ball of this radius.",
    lower_bound=0.0,
    upper_bound=math.inf,
    flag_values=FLAGS,
)
_NEGATIVES = flags.DEFINE_string(
    "negatives",
    "",
    "File of prompts that are not memorized: stop at their mean magnitude.",
    flag_values=FLAGS,
)
_PROTECT = flags.DEFINE_list(
    "protect",
    None,
    "Labels whose tokens stay fixed, e.g. findings,View (default: the run's).",
    flag_values=FLAGS,
)
_REFERENCES = flags.DEFINE_string(
    "references",
    "",
    "Folder with training images called after the prompts' ids (or the rows' field image).",
    flag_values=FLAGS,
)
_SSCD = flags.DEFINE_string(
    "sscd", "", "SSCD's weights, for likeness to the training images.", flag_values=FLAGS
)
_MEASURES = flags.DEFINE_list(
    "measures",
    [],
    "Measures of likeness to the training images, NAME:field=value; `help` lists them (default: "
    "SSCD where its weights are given, else all that need no network).",
    flag_values=FLAGS,
)
_CLIP = flags.DEFINE_string(
    "clip", "", "Folder of a CLIP model, for the CLIP score.", flag_values=FLAGS
)
_BASELINES = flags.DEFINE_list(
    "baselines",
    [],
    "Baselines to compare with: random_word, random_number, word_repetition, random_token, "
    "embedding_noise, or all.",
    flag_values=FLAGS,
)
_INSERTIONS = flags.DEFINE_list(
    "insertions", ["4"], "Insertions of the text baselines, such as 1,2,4.", flag_values=FLAGS
)
_SAVE = flags.DEFINE_boolean("pictures", True, "Keep every image as a PNG file.", flag_values=FLAGS)
_NOISE = noise_flags(FLAGS, "Images a prompt.")
_INITIAL = initial_noise_flag(FLAGS)
_SAMPLING = sampling_flags(FLAGS)
_CHUNK = chunk_flag(FLAGS)
_NULL = null_flags(FLAGS)
_FORCE = force_flag(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    if ["help"] in (_MITIGATIONS.value, _MEASURES.value):
        return
    require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
    if _METHOD.value in (NOISE, SWAP) or (_MITIGATIONS.value and _METHOD.value is None):
        of_optimization = (
            *("num_iters", "learning_rate", "weight_decay", "radius", "protect", "steps"),
            *("target", "target_rms", "targets", "targets_rms"),
        )
        why = "it is for a --method that optimizes; write it into --mitigations=NAME:field=value."
        refuse_given(FLAGS, of_optimization, why)
    numbers("steps", _AT.value, 0, MOST)
    numbers("insertions", _INSERTIONS.value, 1, 1000)
    for flag in (_TARGETS, _TARGETS_RMS):
        numbers(flag.name, flag.value, 0.0, 1e9)
    if not _BASELINES.value:
        refuse_given(FLAGS, ("insertions",), "it is for --baselines, and none is given.")
    refuse_files(out=_OUT.value)
    require_files(
        prompts=_PROMPTS.value,
        negatives=_NEGATIVES.value,
        initial_noise=_INITIAL.value,
    )


def main() -> int:
    """Runs the command."""
    from memjax.evaluate.similarity.measures import MEASURES
    from memjax.mitigations import MITIGATIONS

    for value, registry in ((_MITIGATIONS.value, MITIGATIONS), (_MEASURES.value, MEASURES)):
        if value == ["help"]:
            print(registry.help())
            return 0
    from memjax.cli.mitigate_run import mitigate
    from memjax.studies.mitigation.asked import Asked

    asked = Asked(
        prompts=_PROMPTS.value,
        out=_OUT.value,
        method=_METHOD.value,
        mitigations=_MITIGATIONS.value,
        steps=_AT.value,
        num_iters=_ITERS.value,
        learning_rate=_RATE.value,
        weight_decay=_DECAY.value,
        target=_TARGET.value,
        target_rms=_TARGET_RMS.value,
        targets=_TARGETS.value,
        targets_rms=_TARGETS_RMS.value,
        radius=_RADIUS.value,
        negatives=_NEGATIVES.value,
        protect=_PROTECT.value,
        references=_REFERENCES.value,
        sscd=_SSCD.value,
        clip=_CLIP.value,
        measures=_MEASURES.value,
        baselines=_BASELINES.value,
        insertions=_INSERTIONS.value,
        pictures=_SAVE.value,
        generations=_NOISE.generations.value,
        seed=_NOISE.seed.value,
        initial_noise=_INITIAL.value,
        chunk=_CHUNK.value,
    )
    return mitigate(_MODEL, _SAMPLING, _NULL, asked, force=_FORCE.value)
