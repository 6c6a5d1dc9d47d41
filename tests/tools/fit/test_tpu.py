"""`memjax fit` with the real TPU compiler, on programs it compiles in seconds."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from memjax.cli.fit import measure
from memjax.core.chips import chip_of
from memjax.core.mesh import announced, make_mesh, row_shards, rows_over
from memjax.models.unet.attention import attend
from memjax.tools.fit.compile import Refused, compile_at
from memjax.tools.fit.programs import Program
from memjax.tools.fit.topology import EXAMPLES, devices_of, parse_topology, prepare_compiler
from memjax.training.sharding import Sharding

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu)"
    ),
]
WIDTH = 512


@pytest.fixture(scope="module", autouse=True)
def compiler():
    prepare_compiler()


def toy(topology, *, fsdp=8, each=WIDTH, layers=3, gathers_activations=False):
    """Layers whose weights are under FSDP; a row needs about ``4 · each`` bytes a layer."""
    mesh = make_mesh(-1, fsdp, slices=topology.slices, devices=devices_of(topology))
    sharding = Sharding(mesh)
    params = {
        f"w{i}": jax.ShapeDtypeStruct((WIDTH, each + 1024 * i), jnp.float32) for i in range(layers)
    }

    def loss(params, x):
        for whole in sharding.gather(params).values():
            y = jnp.tanh(x @ whole)
            if gathers_activations:
                y = jax.lax.with_sharding_constraint(y, sharding.whole)
                y = jnp.sin(y - y.mean(axis=0, keepdims=True))
            x = y @ whole.T
        return jnp.mean(x**2)

    places = sharding.of(params)
    step = jax.jit(jax.grad(loss), out_shardings=places)
    placed = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), params, places
    )

    def arguments(batch):
        x = jax.ShapeDtypeStruct((batch, WIDTH), jnp.float32, sharding=rows_over(mesh))
        return step, (placed, x)

    size, unit = sum(math.prod(leaf.shape) for leaf in params.values()), row_shards(mesh)
    return Program(sharding, params, size, "a toy", "rows a step", unit, 8 * unit, arguments)


@pytest.mark.parametrize(
    "name", [name for names in EXAMPLES.values() for name in names.split(", ")]
)
def test_every_example_is_one_device_a_chip(name):
    topology = parse_topology(name)
    devices = devices_of(topology)
    assert len(devices) == topology.chips
    assert {chip_of(device.device_kind) for device in devices} == {topology.chip}


@pytest.mark.parametrize("name", ["v5e:1x1", "v5e:2x2", "v5p:2x2x1", "v5p:8x8x16"])
def test_small_and_large_slices(name):
    topology = parse_topology(name)
    assert len(devices_of(topology)) == topology.chips


def test_slices_are_told_apart():
    devices = devices_of(parse_topology("v5e:2x4", 2))
    assert [device.slice_index for device in devices] == [0] * 8 + [1] * 8


def test_a_slice_that_cannot_be_is_one_sentence():
    with pytest.raises(ValueError, match=r"v5e:3x3 is no slice.*v5e:16x16"):
        devices_of(parse_topology("v5e:3x3"))


@pytest.mark.parametrize(("name", "fsdp"), [("v5e:2x4", 8), ("v5p:2x2x2", 8), ("v4:2x2x2", 4)])
def test_a_report_of_the_real_compiler(name, fsdp):
    topology = parse_topology(name)
    report = measure(toy(topology, fsdp=fsdp), topology, 1024, search=False)
    assert report["fits"]
    assert report["largest_batch"] is None
    assert report["roofline_seconds"] > 0
    numbers = report["parameters"]
    gathered = report["collectives"]["all-gather"]
    assert gathered["weights_bytes"] == gathered["bytes"] >= 2 * numbers  # two bytes each at least
    moved = sum(row["weights_bytes"] for row in report["collectives"].values())
    assert moved >= 1.6 * gathered["bytes"]  # the gradients go back, in rings of 7 parts of 8
    assert report["activation_gathers"]["count"] == 0
    # Two products a layer, each again for the weights' gradient and, but the first, the input's.
    assert report["flops_traced"] == pytest.approx(
        2 * 2 * 1024 * numbers * 3 / topology.chips, rel=0.1
    )
    assert report["flops"] == pytest.approx(report["flops_traced"], rel=0.2)
    assert report["flops_kernels"] == 0


def test_attention_of_many_pixels_writes_no_scores(monkeypatch):
    """The kernel is split over examples and heads, and moves a fifth of what XLA's own moves."""
    monkeypatch.setenv("MEMJAX_SPLASH_ATTENTION", "1")
    mesh = make_mesh(-1, 1, 2, devices=devices_of(parse_topology("v5e:2x4")))
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
    query = jax.ShapeDtypeStruct((8, 1024, 8, 40), jnp.bfloat16, sharding=split)

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v).astype(jnp.float32) ** 2)

    def announcing(q, k, v):
        with announced(mesh):
            return jax.grad(loss, (0, 1, 2))(q, k, v)

    kernel, plain = (
        jax.jit(f).lower(query, query, query).compile()
        for f in (announcing, jax.grad(loss, (0, 1, 2)))
    )
    assert kernel.as_text().count("tpu_custom_call") == 3  # forward, and two backward
    assert "tpu_custom_call" not in plain.as_text()
    assert not re.search(r"all-(gather|reduce|to-all)|collective-permute", kernel.as_text())
    moved = [compiled.cost_analysis()["bytes accessed"] for compiled in (kernel, plain)]
    assert moved[0] < 0.5 * moved[1]


def test_a_forced_gather_of_activations_is_seen():
    topology = parse_topology("v5e:2x4")
    program = toy(topology, gathers_activations=True)
    found = measure(program, topology, 1000, search=False)["activation_gathers"]
    assert found["count"] > 0
    assert found["bytes"] >= 1000 * WIDTH * 2


def test_what_crosses_slices_is_told_from_what_does_not():
    topology = parse_topology("v5e:2x4", 2)
    report = measure(toy(topology), topology, 1024, search=False)
    assert report["devices"] == 16
    assert report["roofline"]["network"] > 0
    assert report["roofline"]["links"] > 0
    crossing = [row for row in report["largest_collectives"] if row["crosses_slices"]]
    assert crossing
    assert {row["group"] for row in crossing} == {2}
    assert sum(row["bytes"] for row in crossing) <= report["parameters"] * 4 / 8 * 1.1


def test_a_program_that_does_not_fit_is_refused_with_its_bytes():
    topology = parse_topology("v5e:2x4")
    refused = compile_at(toy(topology, each=16 * WIDTH, layers=1), 8 << 20)
    assert isinstance(refused, Refused)
    assert refused.limit == topology.chip.usable
    assert refused.needed > refused.limit


def test_the_largest_batch_of_the_real_compiler():
    topology = parse_topology("v5e:2x4")
    program = toy(topology, each=4 * WIDTH, layers=1)
    report = measure(program, topology, 1 << 20, search=True)
    found = report["largest_batch"]
    assert found["compiles"] <= 6
    assert found["batch"] > 0
    assert found["batch"] % 8 == 0
    if found["refused"] is not None:
        assert found["refused"] < 1.3 * found["batch"]


@pytest.mark.parametrize("job", ["train", "detect"])
def test_the_command(job, tmp_path):
    """A network small enough for a minute, from flag to file."""
    out, text = tmp_path / "fit.json", tmp_path / "step.hlo"
    small = ("block_out_channels=(8, 16)", "cross_attention_dim=16", "num_heads=2")
    changes = [f"--config.model.{change}" for change in (*small, "norm_num_groups=4")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "memjax", "fit", "--config=phantoms_demo", "--steps=2"),
            *("--topology=v5e:2x4", f"--job={job}", f"--out={out}", f"--hlo={text}"),
            *("--config.parallel.fsdp=2", "--config.parallel.tensor=2", "--largest_batch=false"),
            *("--config.data.size=16", "--generations=1", "--prompts=8", *changes),
        ],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(out.read_text())
    assert report["fits"]
    assert report["job"] == job
    assert report["activation_gathers"]["count"] == 0
    assert "Traceback" not in done.stderr
    assert "all figures" in done.stdout
    assert text.read_text().startswith("HloModule")
