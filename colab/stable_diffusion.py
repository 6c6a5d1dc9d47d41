# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Memorisation in Stable Diffusion
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/memjax/memjax/blob/main/colab/stable_diffusion.ipynb)
#
# Load a Stable Diffusion checkpoint in JAX, without torch; find prompts it has memorised from one
# network evaluation each; see which words bring the copy back; repair the prompts; compare side by
# side. Weights and states are bfloat16, one prompt at a time: meant for a GPU of 16 GB.
#
# The prompts below are captions that are known to be copied by Stable Diffusion 1 (Webster 2023,
# arXiv 2305.08694) and everyday ones. `MODEL = "tiny"` makes a random network of a few hundred
# kilobytes instead: it shows that everything runs, its figures mean nothing.

# %%
import sys

if "google.colab" in sys.modules:
    # %pip install -q "memjax @ git+https://github.com/memjax/memjax"
    pass

# %%
# @title Settings
MODEL = "CompVis/stable-diffusion-v1-4"  # @param {type:"string"}
DTYPE = "bfloat16"  # @param ["bfloat16", "float32"]
NUM_STEPS = 50  # @param {type:"integer"}
GUIDANCE_SCALE = 7.5  # @param {type:"number"}
GENERATIONS = 2  # @param {type:"integer"}
SEED = 0  # @param {type:"integer"}

# %% [markdown]
# ## Load
# A folder that diffusers wrote, a single `.safetensors` file or a name on the Hub. Tensors are read
# one by one, so host memory holds the weights once.

# %%
from memjax.interop import load, make_bundle, tiny_pipeline

pipeline = tiny_pipeline("sd1") if MODEL == "tiny" else load(MODEL, dtype=DTYPE)
bundle = make_bundle(pipeline)
print(bundle.info)

# %%
suspected = [
    "Living in the Light with Ann Graham Lotz",
    "The No Limits Business Woman Podcast",
    "Prince Reunites With Warner Brothers, Plans New Album",
]
ordinary = [
    "a watercolour of a lighthouse in the rain",
    "two dogs asleep on a green sofa",
    "a bowl of ramen on a wooden table, overhead view",
    "an astronaut reading a newspaper in a cafe",
]
rows = [{"id": f"prompt-{i}", "caption": text} for i, text in enumerate(suspected + ordinary)]

# %% [markdown]
# ## Detect
# One magnitude a prompt at the first step: how far the caption moves the predicted noise. All prompts
# share the initial noise, so the unconditional half is computed once.

# %%
import jax
import numpy as np

from memjax.core.condition import take_rows
from memjax.detectors import detect, fit_threshold
from memjax.sampling import SamplingOptions

chosen = {"num_steps": NUM_STEPS, "guidance_scale": GUIDANCE_SCALE}
options = SamplingOptions(**{**pipeline.sampling, **chosen}).static()
x_T = jax.random.normal(jax.random.key(SEED), (GENERATIONS, *bundle.sample_shape))
cond = bundle.encode(rows)
model = (bundle.eps_fn, bundle.params)
found = detect(
    *model, x_T, cond, bundle.null_cond, bundle.schedule, steps="first", chunk=1, **options
)
scores = found.scores()
threshold = fit_threshold(scores[len(suspected) :], target_fpr=0.01)  # of everyday prompts
for row, score in zip(rows, scores, strict=True):
    print(f"{score:7.3f}  {'memorised' if score > threshold else '         '}  {row['caption']}")
print("forward evaluations:", found.forward_evals)

# %% [markdown]
# ## Which words?
# The gradient of the magnitude with respect to each token's embedding. The tokens that mark the
# beginning, the end and the padding carry a summary of the whole prompt; they are left out here.

# %%
from functools import partial

import jax.numpy as jnp
import matplotlib.pyplot as plt

from memjax.explain import explain_states
from memjax.mitigations import first_step_states
from memjax.sampling import timesteps

first_t = jnp.asarray(
    timesteps(
        bundle.schedule.num_timesteps, NUM_STEPS, options["spacing"], options["steps_offset"]
    )[0]
)
start = partial(jax.jit, static_argnames=("eps_fn",))(first_step_states)
explain = partial(jax.jit, static_argnames=("eps_fn",))(explain_states)
one = take_rows(cond, slice(0, 1))
weights = explain(*model, start(*model, x_T, first_t, one, bundle.null_cond), one)
names = bundle.describe(rows[0])
words = [i for i, name in enumerate(names) if name not in ("BOS", "EOS", "PAD")]
mean = np.asarray(weights)[0].mean(axis=0)
fig, axis = plt.subplots(figsize=(8, 0.35 * len(words) + 1))
axis.barh(range(len(words)), mean[words], color="#b2182b", tick_label=[names[i] for i in words])
axis.invert_yaxis()
axis.set_xlabel("significance (gradient of the magnitude)")
axis.set_title(rows[0]["caption"], fontsize=10)
fig.tight_layout()
plt.show()

# %% [markdown]
# ## Repair
# The prompt's embedding is moved, with gradients through the network, until the prompt is as loud as
# an everyday one. The first token stays where it is.

# %%
from memjax.detectors import NoiseMagnitude
from memjax.mitigations import optimize_embedding

ordinary_level = float(scores[len(suspected) :].mean())
optimize = partial(jax.jit, static_argnames=("statistic", "eps_fn", "num_iters"))(
    optimize_embedding
)
repaired = []
for i, row in enumerate(rows[: len(suspected)]):
    one = take_rows(cond, slice(i, i + 1))
    states = start(*model, x_T, first_t, one, bundle.null_cond)
    result = optimize(NoiseMagnitude(), *model, states, one, num_iters=10, target=ordinary_level)
    repaired.append(result.cond)
    print(
        f"{scores[i]:.3f} -> {float(result.loss[0]):.3f} "
        f"in {int(result.iterations[0])} updates: {row['caption']}"
    )

# %% [markdown]
# ## Side by side, from the same noise
# Above the prompt as it was, below the repaired one.

# %%
from memjax.core.condition import repeat_cond
from memjax.sampling import sample

draw = jax.jit(partial(sample, bundle.eps_fn, **options))
for i, row in enumerate(rows[: len(suspected)]):
    fig, axes = plt.subplots(
        2, GENERATIONS, figsize=(3 * GENERATIONS, 6.4), squeeze=False, layout="constrained"
    )
    for line, condition in enumerate((take_rows(cond, slice(i, i + 1)), repaired[i])):
        end = draw(
            bundle.params,
            x_T,
            repeat_cond(condition, GENERATIONS),
            bundle.null_cond,
            bundle.schedule,
        )
        for axis, image in zip(axes[line], bundle.decode(np.asarray(end.x)), strict=True):
            axis.imshow(np.clip(image * 0.5 + 0.5, 0, 1))
            axis.axis("off")
        axes[line][0].set_title(("before", "repaired")[line], loc="left", fontsize=10)
    fig.suptitle(row["caption"], fontsize=10)
    plt.show()

# %% [markdown]
# ## The same from the command line
# `memjax detect`, `explain`, `mitigate`, `sample` and `audit` take the same folder, file or name as
# `--model=`, and a JSONL file with one `{"caption": "…"}` a line as `--prompts=`.
