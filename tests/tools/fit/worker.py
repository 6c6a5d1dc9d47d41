"""Programs compiled for eight devices of the CPU, in a process of their own; prints JSON.

Usage: python worker.py toy|networks
"""

import json
import sys

import jax
import jax.numpy as jnp

from memjax.cli.config import load_config
from memjax.cli.fit import measure
from memjax.core.guidance import predict_pair
from memjax.core.mesh import make_mesh, rows_over
from memjax.models.unet.attention import FeedForward
from memjax.runs.config import plain
from memjax.tools.fit.collectives import KINDS
from memjax.tools.fit.programs import Program, detect_program, train_program
from memjax.tools.fit.report import rules_table, table
from memjax.tools.fit.topology import parse_topology
from memjax.training.sharding import RULES, Sharding, placements, unused_rules

WIDTH = 256


def toy(gathers_activations):
    """Two layers under FSDP, taken four times in a loop; the gradient's step."""
    sharding = Sharding(make_mesh(1, 8, devices=jax.devices()))
    params = {
        name: jax.ShapeDtypeStruct((WIDTH, 2 * WIDTH)[:: 1 if name == "up" else -1], jnp.float32)
        for name in ("up", "down")
    }

    def loss(params, x):
        whole = sharding.gather(params)
        h = jnp.tanh(x @ whole["up"])
        if gathers_activations:
            h = jax.lax.with_sharding_constraint(h, sharding.whole)
            h = jnp.sin(h - h.mean(axis=0))
        return jnp.mean((h @ whole["down"]) ** 2)

    @jax.jit
    def step(params, x):
        def body(p, _):
            grads = jax.grad(loss)(p, x)
            return jax.tree.map(lambda a, g: a - 0.1 * g, p, grads), None

        return jax.lax.scan(body, params, length=4)[0]

    def arguments(batch):
        placed = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
            params,
            sharding.of(params),
        )
        rows = rows_over(sharding.mesh)
        return step, (placed, jax.ShapeDtypeStruct((batch, WIDTH), jnp.float32, sharding=rows))

    size = 2 * WIDTH * 2 * WIDTH
    return Program(sharding, params, size, "a toy", "rows a step", 8, 512, arguments)


def feed_forward():
    """How often pixels change devices in the gradient of a feed-forward layer under `tensor`."""
    sharding = Sharding(make_mesh(2, 1, 4, devices=jax.devices()))
    layer = FeedForward()
    x = jax.ShapeDtypeStruct((8, 64, 32), jnp.float32, sharding=rows_over(sharding.mesh))
    params = {"ff": jax.eval_shape(layer.init, jax.random.key(0), x)["params"]}
    places = sharding.of(params)
    params = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), params, places
    )

    def loss(p, x):
        return jnp.mean(layer.apply({"params": p["ff"]}, x) ** 2)

    step = jax.jit(jax.grad(loss), out_shardings=places)
    text = step.lower(params, x).compile().as_text()
    split = [str(s.spec) for s in jax.tree.leaves(places) if any(s.spec)]
    return {"split": split, "moves": text.count(" all-to-all("), "sums": text.count(" all-reduce(")}


def guided_pair():
    """What a guided prediction exchanges whose rows lie on eight devices."""
    rows = rows_over(make_mesh(8, devices=jax.devices()))
    x = jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.float32, sharding=rows)
    t = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=rows)
    cond = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=rows)

    @jax.jit
    def pair(x, t, cond):
        eps_fn = lambda p, x, t, c: jnp.sin(p * x + t[:, None, None, None]) + c[:, None, None]  # noqa: E731
        return predict_pair(eps_fn, 2.0, x, t, cond, jnp.zeros((1, 3)))

    text = pair.lower(x, t, cond).compile().as_text()
    return [kind for kind in KINDS if f" {kind}(" in text or f" {kind}-start(" in text]


def toys():
    out = {}
    for name, gathers in {"weights": False, "activations": True}.items():
        report = measure(toy(gathers), parse_topology("v5e:2x4"), 72, search=False)
        report = {"config": "toy", "job": "train", **report}
        out[name] = {"report": report, "table": table(report)}
    return out


def described(program, batch):
    function, arguments = program.arguments(batch)
    lowered = function.lower(*arguments)
    sharding = program.sharding
    decided = placements(program.state, sharding.mesh, sharding.rules, sharding.fsdp_min_size)
    leaves = jax.tree.leaves(arguments)
    return {
        "constraints": lowered.as_text().count("sharding_constraint"),
        "unplaced": sum(getattr(leaf, "sharding", None) is None for leaf in leaves),
        "split": sum(any(one.spec) for one in decided),
        "rules": [row["rule"] for row in rules_table(program)],
        "unused": unused_rules(decided, RULES),
        "unit": program.unit,
        "batch": program.batch,
        "params": program.params,
        "network": program.network,
    }


def networks():
    config = plain(load_config("phantoms_demo"))
    config["parallel"].update(fsdp=2, tensor=2, accumulate=2)
    config["train"]["filter_threshold"] = 1.0
    out = {"train": described(train_program(config, jax.devices()), 32)}
    detection = detect_program(config, jax.devices(), generations=2, steps=2)
    out["detect"] = described(detection, 16)
    tuned = plain(load_config("finetune_wen"))
    tuned["parallel"].update(fsdp=8)
    for method in ("unet", "lora"):
        tuned["fine_tune"]["method"] = method
        program = train_program(tuned, jax.devices())
        _, arguments = program.arguments(8)
        out[method] = {
            "params": program.params,
            "frozen": sum(leaf.size for leaf in jax.tree.leaves(arguments[2])),
            "moments": list(arguments[1].moments.shape),
            "table": list(arguments[1].table.shape),
            "unit": program.unit,
        }
    out["feed_forward"], out["guided_pair"] = feed_forward(), guided_pair()
    try:
        program.arguments(12)
    except ValueError as error:
        out["refused"] = str(error)
    return out


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    made = {"toy": toys, "networks": networks}[sys.argv[1]]()
    sys.stdout.write(f"JSON:{json.dumps(made)}\n")
