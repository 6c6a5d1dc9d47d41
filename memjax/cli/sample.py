"""memjax sample --model=RUN --prompts=FILE.jsonl --out=DIR

Makes pictures for prompts: one PNG a picture, one grid, and prompts.jsonl with provenance.
"""

from functools import partial

import jax
import numpy as np
from absl import flags
from tqdm.auto import tqdm

from memjax.cli.common import (
    load_model,
    model_provenance,
    out_folder,
    require,
    safe_names,
    sampling_options,
)
from memjax.cli.prompts import read_prompts, write_rows
from memjax.core.condition import repeat_cond, take_rows
from memjax.data.images import to_uint8
from memjax.sampling import sample
from memjax.training.atomic import write_bytes
from memjax.training.samples import png_bytes, write_grid

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", "", "Folder of a trained run.", flag_values=FLAGS)
_PROMPTS = flags.DEFINE_string(
    "prompts", "", "JSONL file with one prompt a line.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", "", "Folder for the pictures.", flag_values=FLAGS)
_GENERATIONS = flags.DEFINE_integer(
    "generations", 4, "Pictures a prompt.", lower_bound=1, flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Sampling steps (default: the run's).", flag_values=FLAGS
)
_SCALE = flags.DEFINE_float(
    "guidance_scale", None, "Guidance scale (default: the run's).", flag_values=FLAGS
)
_STEPPER = flags.DEFINE_string(
    "stepper", "", "ddim, ddpm or dpm-solver++ (default: the run's).", flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", flag_values=FLAGS)
_CHUNK = 8


def main() -> int:
    """Runs the command."""
    require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
    rows = read_prompts(_PROMPTS.value)
    run = load_model(_MODEL.value)
    options = sampling_options(run, _STEPS.value, _SCALE.value)
    if _STEPPER.value:
        options = type(options)(**{**vars(options), "stepper": _STEPPER.value})
    bundle, g = run.bundle, _GENERATIONS.value
    cond = bundle.encode(rows)
    settings = options.static()
    folder = out_folder(_OUT.value)
    key = jax.random.key(_SEED.value)
    draw = jax.jit(partial(sample, bundle.eps_fn, **settings))
    pictures = []
    for start in tqdm(range(0, len(rows), _CHUNK), desc="sampling", unit="batch", leave=False):
        part = take_rows(cond, np.arange(start, start + _CHUNK).clip(max=len(rows) - 1))
        x_T = jax.random.normal(jax.random.fold_in(key, start), (_CHUNK * g, *bundle.sample_shape))
        end = draw(
            bundle.params,
            x_T,
            repeat_cond(part, g),
            bundle.null_cond,
            bundle.schedule,
            key=jax.random.fold_in(key, start + 1),
        )
        images = np.asarray(bundle.decode(np.asarray(end.x)))
        pictures.append(images.reshape(_CHUNK, g, *images.shape[1:]))
    images = np.concatenate(pictures)[: len(rows)]
    made = model_provenance(run, _SEED.value, sampling=vars(options))
    out_rows = []
    stems = safe_names([row["id"] for row in rows])
    for i, row in enumerate(rows):
        names = [f"{stems[i]}_{k}.png" for k in range(g)]
        for name, image in zip(names, images[i], strict=True):
            write_bytes(folder / name, png_bytes(to_uint8(image)))
        out_rows.append({**row, "images": names, "provenance": made})
    write_grid(folder / "grid.png", images.reshape(-1, *images.shape[2:]), columns=g)
    write_rows(folder / "prompts.jsonl", out_rows)
    print(f"{len(rows) * g} pictures in {folder} (grid.png shows them all)")
    return 0
