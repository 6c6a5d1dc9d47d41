"""memjax explain --model=RUN --prompts=FILE.jsonl --out=DIR

Shows which token of each prompt drives the copying: one bar chart a prompt and tokens.jsonl.
"""

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
from memjax.cli.prompts import initial_noise, read_prompts, write_rows
from memjax.core.condition import take_rows
from memjax.detectors import null_or_refuse
from memjax.evaluate.figures import token_bars
from memjax.explain import ATTRIBUTIONS, explain_tokens
from memjax.training.atomic import write_bytes

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", "", "Folder of a trained run.", flag_values=FLAGS)
_PROMPTS = flags.DEFINE_string(
    "prompts", "", "JSONL file with one prompt a line.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", "", "Folder for pictures and tokens.jsonl.", flag_values=FLAGS)
_EVERY = flags.DEFINE_integer(
    "every", 10, "Differentiate at every so many steps.", lower_bound=1, flag_values=FLAGS
)
_GENERATIONS = flags.DEFINE_integer(
    "generations", 4, "Initial noises.", lower_bound=1, flag_values=FLAGS
)
_ATTRIBUTION = flags.DEFINE_enum(
    "attribution", "grad_norm", ATTRIBUTIONS, "How to attribute.", flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", flag_values=FLAGS)

_explain = jax.jit(
    explain_tokens,
    static_argnames=(
        "eps_fn",
        "steps",
        "attribution",
        "num_steps",
        "stepper",
        "spacing",
        "steps_offset",
        "clip_x0",
    ),
)


def main() -> int:
    """Runs the command."""
    require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
    rows = read_prompts(_PROMPTS.value)
    run = load_model(_MODEL.value)
    bundle = run.bundle
    options = sampling_options(run)
    cond = bundle.encode(rows)
    null = null_or_refuse(bundle.null_cond)
    folder = out_folder(_OUT.value)
    noise = initial_noise(None, bundle, _GENERATIONS.value, _SEED.value)
    steps = tuple(range(0, options.num_steps, _EVERY.value))
    made = model_provenance(
        run, _SEED.value, sampling=vars(options), attribution=_ATTRIBUTION.value, steps=steps
    )
    out = []
    stems = safe_names([row["id"] for row in rows])
    for i in tqdm(range(len(rows)), desc="explaining", unit="prompt", leave=False):
        weights = _explain(
            bundle.eps_fn,
            bundle.params,
            noise,
            take_rows(cond, slice(i, i + 1)),
            null,
            bundle.schedule,
            steps=steps,
            attribution=_ATTRIBUTION.value,
            **options.static(),
        )
        mean = np.asarray(jax.device_get(weights))[0].mean(axis=(0, 1))
        names = bundle.describe(rows[i])
        tokens = {name: float(w) for name, w in zip(names, mean, strict=True)}
        picture = token_bars(
            names[1:], mean[1:], highlight=[n for n in names if n.startswith("Marker")]
        )
        name = f"{stems[i]}.png"
        write_bytes(folder / name, picture)
        out.append({**rows[i], "tokens": tokens, "picture": name, "provenance": made})
        top = sorted(zip(names[1:], mean[1:], strict=True), key=lambda item: -item[1])[:3]
        print(f"{rows[i]['id']}: " + ", ".join(f"{n} ({w:.3g})" for n, w in top))
    write_rows(folder / "tokens.jsonl", out)
    print(f"{len(rows)} prompts explained in {folder}")
    return 0
