"""memjax extract --model=MODEL --out=DIR

Which images does a model give back? Many images are made of each prompt; those that are all alike
from many initial noises (a clique) are one image that the model knows by heart, found without a
look at the training data. They are then compared with the training images: the run's own, or
--training=DIR. Writes DIR/index.html, wall.png, extracted.csv (one row a clique) and extract.json.

Prompts come from --prompts=FILE, or are the --loudest=K of the run's own training prompts by the
magnitude of the first step; else those that an audit has flagged (prompts/flagged.jsonl). A run
without conditions is asked once, for --generations images from seeds. A stopped run goes on where
it was.
"""

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

FLAGS = flags.FlagValues()
_MODEL = model_flags(FLAGS)
_OUT = flags.DEFINE_string("out", "", "Folder for the page and the tables.", flag_values=FLAGS)
_PROMPTS = prompts_flag(FLAGS)
_LOUDEST = flags.DEFINE_integer(
    "loudest",
    None,
    "How many of the run's own training prompts to ask for, the loudest at the first step.",
    1,
    MOST,
    flag_values=FLAGS,
)
_TRAINING = flags.DEFINE_string(
    "training",
    "",
    "Folder of the images that the model was trained on (default: the run's own data).",
    flag_values=FLAGS,
)
_HELD_OUT = flags.DEFINE_string(
    "held_out", "", "Folder of like images that it was not trained on.", flag_values=FLAGS
)
_GENERATIONS = flags.DEFINE_integer(
    "generations", 32, "Images a prompt; 500 in the paper.", 2, MOST, flag_values=FLAGS
)
_THRESHOLD = flags.DEFINE_float(
    "threshold",
    0.15,
    "Two images are alike where no tile of 4×4 differs by this RMS, in [0, 1] units.",
    0.0,
    1.0,
    flag_values=FLAGS,
)
_LEAST = flags.DEFINE_integer(
    "least", 10, "Images of a prompt that must all be alike.", 2, MOST, flag_values=FLAGS
)
_SEED = seed_flag(FLAGS, 0, "Seed of the noise.")
_SAMPLING = sampling_flags(FLAGS)
_NULL = null_flags(FLAGS)
_CHUNK = chunk_flag(FLAGS)
_RESTART = flags.DEFINE_boolean(
    "restart", False, "Discard the parts that a stopped run has kept.", flag_values=FLAGS
)
_FORCE = force_flag(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    require(model=_MODEL.value, out=_OUT.value)
    require_files(prompts=_PROMPTS.value)
    refuse_files(out=_OUT.value)
    if _PROMPTS.value:
        refuse_given(FLAGS, ("loudest",), "--prompts=FILE says which prompts; leave one out.")
    if not _TRAINING.value:
        refuse_given(FLAGS, ("held_out",), "it goes with --training=DIR.")
    if not _THRESHOLD.value > 0:
        raise ValueError(f"--threshold={_THRESHOLD.value}, expected a distance above 0, at most 1.")
    if _LEAST.value > _GENERATIONS.value:
        raise ValueError(
            f"--least={_LEAST.value} of --generations={_GENERATIONS.value} images cannot be alike: "
            "lower --least or make more."
        )


def main() -> int:
    """Runs the command."""
    from memjax.cli.extract_run import run

    return run()
