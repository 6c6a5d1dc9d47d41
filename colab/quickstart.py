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
# # memjax in one notebook
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/memjax/memjax/blob/main/colab/quickstart.ipynb)
#
# Train a small diffusion model on drawn chest X-rays, find what it memorised, see which word brings
# the copy back, and repair it. About six minutes on a CPU runtime.

# %%
import sys

if "google.colab" in sys.modules:
    # %pip install -q "memjax @ git+https://github.com/memjax/memjax"
    pass

# %%
# @title Settings
CONFIG = "phantoms_demo"  # @param ["phantoms_demo", "phantoms_demo:short"]
WORKDIR = "runs/quickstart"  # @param {type:"string"}

# %% [markdown]
# ## Train and audit
# The command line works from a notebook too; `main` returns the exit code.

# %%
from memjax.cli.main import main

assert main(["demo", f"--config={CONFIG}", f"--workdir={WORKDIR}"]) == 0

# %% [markdown]
# ## Read the report

# %%
import json
from pathlib import Path

from IPython.display import HTML, display

report = json.loads(Path(WORKDIR, "report.json").read_text())
chosen = report["detection"]["default"]
print("detector:", chosen, "AUC", report["detection"][chosen]["auc"])
print("copies of memorised prompts:", report["similarity"]["copy_rate_memorized"])
print("after the repair:", report["mitigation"]["copy_rate_after"])
display(HTML(Path(WORKDIR, "report.html").read_text()))

# %% [markdown]
# ## Use the functions yourself
# Everything below is a pure function of arrays. `run.bundle` holds a network, its weights and its
# schedule; your own network would do as well.

# %%
import jax

from memjax.detectors import detect
from memjax.training.run import open_run

run = open_run(WORKDIR)
bundle = run.bundle
rows = [
    json.loads(line)
    for line in Path(WORKDIR, "prompts", "memorized.jsonl").read_text().splitlines()
]
x_T = jax.random.normal(jax.random.key(1), (4, *bundle.sample_shape))
found = detect(
    bundle.eps_fn,
    bundle.params,
    x_T,
    bundle.encode(rows),
    bundle.null_cond,
    bundle.schedule,
    steps="first",
)
for row, score in zip(rows, found.scores(rms=True), strict=True):
    print(f"{row['id']}  {score:.4f}")
print("forward evaluations:", found.forward_evals)
