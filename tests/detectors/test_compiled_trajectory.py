"""What a trajectory compiles to: once, and with the condition's keys and values before the loop."""

import re

import jax
import numpy as np
import pytest

from memjax.data.labels.space import chexpert_label_space
from memjax.detectors import detect, prepare
from memjax.training.network import build_network
from tests.compilations import compilations

SPACE = chexpert_label_space()
TOKENS = SPACE.num_tokens + 1  # BOS
UNET = {
    "block_out_channels": (16, 24),
    "layers_per_block": 1,
    "attention_blocks": (False, True),
    "mid_attention": False,
    "num_heads": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
    "patch_size": 2,
}


@pytest.fixture(scope="module")
def model():
    network = build_network(SPACE, size=16, unet=UNET)
    return network, network.module.init_params(jax.random.key(0))


def conditions(model, count, seed):
    network, params = model
    ids = np.random.default_rng(seed).integers(0, 2, (count, SPACE.num_tokens)).astype(np.int32)
    return network.encode_fn(params, ids)


def noise(seed, generations=2):
    return jax.random.normal(jax.random.key(seed), (generations, 16, 16, 1))


def test_a_detection_job_compiles_its_trajectory_once(model):
    network, params = model

    def job(prompts, seed, scale):
        return detect(
            network.eps_fn,
            params,
            noise(seed),
            conditions(model, prompts, seed),
            conditions(model, 1, 99),
            network.schedule,
            num_steps=4,
            guidance_scale=scale,
            chunk=3,
        ).scores()

    with compilations() as first:
        before = job(7, 0, 3.0)
    assert [name for name in first if "trajectory" in name] == ["jit(trajectory_statistics)"]
    with compilations() as later:
        after = job(5, 1, 7.5), job(11, 2, np.float32(1.5))
    assert [name for name in later if "trajectory" in name] == []
    assert len(before) == 7
    assert [len(scores) for scores in after] == [5, 11]


def computations(text):
    """Name → lines of every computation of a compiled program."""
    block = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
    found = block.findall(text)
    return {name: body.splitlines() for name, body in found}


def reached(name, parts):
    """Names of all computations that one calls, itself too."""
    seen, todo = set(), [name]
    while todo:
        here = todo.pop()
        if here in seen or here not in parts:
            continue
        seen.add(here)
        todo += re.findall(r"[=,{(]\s*%?([\w.\-]+)", "\n".join(parts[here]))
    return seen


def products(names, parts, rows):
    """Lines of matrix products with so many rows."""
    pattern = re.compile(rf"f32\[{rows},\d+\]\S* dot\(")
    return [line for name in names for line in parts[name] if pattern.search(line)]


def test_keys_and_values_of_the_condition_are_computed_before_the_loop(model):
    network, params = model
    prompts, generations = 5, 3
    null = conditions(model, 1, 99)
    probe = prepare(
        network.eps_fn, params, noise(0, generations), null, network.schedule, num_steps=4
    )
    compiled = probe.trace(conditions(model, prompts, 0)).lower().compile()
    parts = computations(compiled.as_text())
    bodies = re.findall(r"body=%?([\w.\-]+)", compiled.as_text())
    inside = set().union(*(reached(body, parts) for body in bodies))
    rows = 2 * prompts * generations
    # Three attentions (one down, two up), each with keys and values.
    assert len(products(set(parts) - inside, parts, rows * TOKENS)) == 6
    assert products(inside, parts, rows * TOKENS) == []
    assert len(products(inside, parts, rows * 16)) >= 12  # the pixels' own are in the loop
