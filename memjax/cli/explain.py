"""memjax explain --model=MODEL --prompts=FILE.jsonl --out=DIR

Shows which words of each prompt drive the copying (Wen et al., ICLR 2024, Eq. 4): words.html with
the words shaded, one bar chart a prompt, and tokens.jsonl with a weight for every token. MODEL is a
memjax run, a diffusers folder, a single .safetensors file or a hub id.
"""

from absl import flags

from memjax.cli.flags import (
    MOST,
    chunk_flag,
    force_flag,
    initial_noise_flag,
    model_flags,
    noise_flags,
    null_flags,
    prompts_flag,
    refuse_files,
    refuse_given,
    require,
    require_files,
    sampling_flags,
)
from memjax.core.names import ATTRIBUTIONS

FLAGS = flags.FlagValues()
_MODEL = model_flags(FLAGS)
_PROMPTS = prompts_flag(FLAGS)
_OUT = flags.DEFINE_string("out", "", "Folder for the page and tokens.jsonl.", flag_values=FLAGS)
_EVERY = flags.DEFINE_integer(
    "every",
    10,
    "Differentiate at every so many steps.",
    lower_bound=1,
    upper_bound=MOST,
    flag_values=FLAGS,
)
_NOISE = noise_flags(FLAGS)
_INITIAL = initial_noise_flag(FLAGS)
_NULL = null_flags(FLAGS)
_SAMPLING = sampling_flags(FLAGS)
_ATTRIBUTION = flags.DEFINE_enum(
    "attribution", "grad_norm", ATTRIBUTIONS, "How to attribute.", flag_values=FLAGS
)
_EXPLANATION = flags.DEFINE_string(
    "explanation",
    "token_significance",
    "What explains, NAME:field=value, such as token_significance:detector=(sharpness); `help` "
    "lists them.",
    flag_values=FLAGS,
)
_CHUNK = chunk_flag(FLAGS)
_RESTART = flags.DEFINE_boolean(
    "restart", False, "Discard the parts that a stopped run has kept.", flag_values=FLAGS
)
_FORCE = force_flag(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    if _EXPLANATION.value == "help":
        return
    if "attribution=" in _EXPLANATION.value:
        refuse_given(FLAGS, ("attribution",), f"--explanation={_EXPLANATION.value} says it.")
    require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
    refuse_files(out=_OUT.value)
    require_files(prompts=_PROMPTS.value, initial_noise=_INITIAL.value)


def main() -> int:
    """Runs the command."""
    from memjax.cli.explain_run import run

    return run()
