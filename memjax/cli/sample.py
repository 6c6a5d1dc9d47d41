"""memjax sample --model=MODEL --prompts=FILE.jsonl --out=DIR

Makes images for prompts: one PNG an image, one grid, and prompts.jsonl with provenance. MODEL is
a memjax run, a diffusers folder, a single .safetensors file or a hub id.
"""

from absl import flags

from memjax.cli.flags import (
    chunk_flag,
    force_flag,
    initial_noise_flag,
    model_flags,
    noise_flags,
    prompts_flag,
    refuse_files,
    require,
    require_files,
    sampling_flags,
)

FLAGS = flags.FlagValues()
_MODEL = model_flags(FLAGS)
_PROMPTS = prompts_flag(FLAGS)
_OUT = flags.DEFINE_string("out", "", "Folder for the images.", flag_values=FLAGS)
_NOISE = noise_flags(FLAGS, "Images a prompt.")
_INITIAL = initial_noise_flag(FLAGS)
_SAMPLING = sampling_flags(FLAGS)
_CHUNK = chunk_flag(FLAGS)
_FORCE = force_flag(FLAGS)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
    refuse_files(out=_OUT.value)
    require_files(prompts=_PROMPTS.value, initial_noise=_INITIAL.value)


def main() -> int:
    """Runs the command."""
    from memjax.cli.sample_run import run

    return run()
