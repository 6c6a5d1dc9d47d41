"""``memjax bench --what=sd``: a tiny run without torch, the worker, the count of operations."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.types import TokenCond
from memjax.models.ops.convolution import convolve
from memjax.models.unet.network import UNet
from memjax.runtime.flops import count_flops
from memjax.tools.bench.stable_diffusion.run import comparisons, difference, measure_side
from memjax.tools.bench.stable_diffusion.tables import gpu_table
from memjax.tools.bench.stable_diffusion.task import SdSettings, draw, make_inputs, rates, template
from memjax.tools.bench.timing import Times
from memjax.tools.bench.worker import DEFAULT, KEEP, Worker
from memjax.tools.bench.workload import detection_flops, mitigation_flops
from tests.commands import PATIENCE

TINY = SdSettings(size="tiny", prompts=3, generations=2, iterations=2)
WITHOUT_TORCH = (
    "import sys; sys.modules.update(torch=None, diffusers=None); "
    "from memjax.cli.main import main; sys.exit(main())"
)


def run_bench(*arguments: str, timeout: int = PATIENCE) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "bench", "--what=sd", "--size=tiny", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.thorough
def test_memjax_alone_where_torch_is_missing(tmp_path):
    out = tmp_path / "bench.json"
    done = run_bench("--only=forward", "--repeats=2", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "pip install 'memjax[parity]'" in done.stdout
    report = json.loads(out.read_text())
    assert list(report["runs"]) == ["same"]
    case = report["runs"]["same"]["cases"]["forward"]
    side = case["sides"]["memjax"]
    assert set(case["sides"]) == {"memjax"}
    assert case["ratio"] is None
    assert len(side["raw_seconds"]) == 2
    assert side["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(template(TINY)))
    assert side["peak_bytes"] > 2**20
    assert report["pair_flops"] == case["flops"] > 0
    assert side["of_peak"] > 0
    assert (report["kind"], report["size"]) == ("sd", "tiny")
    assert report["settings"]["prompts"] == 8
    assert {"jax", "flax", "torch", "diffusers"} <= set(report["versions"])


@pytest.mark.thorough
@pytest.mark.slow
def test_all_cases_run_alone(tmp_path):
    out = tmp_path / "bench.json"
    done = run_bench("--prompts=3", "--iterations=2", "--repeats=1", f"--out={out}")
    assert done.returncode == 0, done.stderr
    cases = json.loads(out.read_text())["runs"]["same"]["cases"]
    assert list(cases) == ["detect", "forward", "mitigate"]
    assert cases["detect"]["amount_per_repeat"] == 3


def test_a_wrong_case_gets_a_suggestion():
    done = run_bench("--only=detekt")
    assert done.returncode == 2
    assert "Did you mean 'detect'?" in done.stderr


def test_each_as_it_comes_is_measured_on_the_forward_alone():
    found = comparisons(KEEP, ("forward", "detect"))
    assert {name: (c.memjax, c.torch, c.only) for name, c in found.items()} == {
        "same": (KEEP, KEEP, ("forward", "detect")),
        "as_they_come": (KEEP, DEFAULT, ("forward",)),
    }
    assert list(comparisons(KEEP, ("detect",))) == ["same"]
    assert list(comparisons(DEFAULT, ("forward",))) == ["default"]
    assert list(comparisons("both", ("forward",))) == ["same", "as_they_come", "default"]


class Side:
    """What a worker holds in these tests."""

    def __init__(self, factor):
        self.factor = factor

    def times(self, value):
        return self.factor * value

    def leave(self):
        os._exit(3)


def test_a_worker_answers_and_says_how_it_failed():
    with Worker("three", DEFAULT, Side, 3) as side:
        value, times = side.call("times", 5)
        assert value == 15
        assert 0 <= times.wall < 1.0
        assert not side.kept
        with pytest.raises(ValueError, match="the three side failed: TypeError"):
            side.call("times", None)
    with (
        Worker("three", DEFAULT, Side, 3) as side,
        pytest.raises(ValueError, match="ended with exit code 3"),
    ):
        side.call("leave")
    with Worker("three", DEFAULT, Side, 3) as side:
        for _ in range(2):  # the second call finds nobody
            with pytest.raises(ValueError, match="ended with exit code 3"):
                side.call("leave")


def test_a_side_that_cannot_be_built_is_reported():
    with pytest.raises(ValueError, match="the broken side failed: TypeError"):
        Worker("broken", DEFAULT, Side)


def test_operations_are_counted_by_hand():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert count_flops(jnp.matmul, a, b) == 2 * 3 * 5 * 7
    x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 6))
    pads = ((1, 1), (1, 1))
    assert count_flops(lambda x, k: convolve(x, k, 1, pads), x, kernel) == 2 * 2 * 16 * 6 * 27
    assert count_flops(lambda a: jax.lax.map(lambda row: row @ b, a), a) == 2 * 3 * 5 * 7
    assert count_flops(jax.jit(jax.checkpoint(jnp.matmul)), a, b) == 2 * 3 * 5 * 7


def test_a_pair_of_stable_diffusion_is_counted():
    """1,354.4 GFLOP without the products of attention, as ``torch.utils.flop_counter`` counts
    diffusers' network of this shape (torch 2.13, measured); the products themselves by hand.

    The three doublings do 4 products a pixel instead of the 9 of a 3×3 convolution of the
    doubled image.
    """
    settings = SdSettings()
    shapes, inputs = template(settings), make_inputs(settings._replace(prompts=1))
    tokens = np.concatenate([inputs.null, inputs.prompts])
    cond = TokenCond(tokens, np.ones(tokens.shape[:2], bool))
    x, t = np.zeros((2, 64, 64, 4), np.float32), np.zeros(2, np.int32)
    found = count_flops(
        lambda p: UNet(settings.config).apply({"params": p}, x, t, cond),
        shapes,
    )
    saved = 2 * 2 * (9 - 4) * (256 * 1280**2 + 1024 * 1280**2 + 4096 * 640**2)
    levels = [(4096, 320, 5), (1024, 640, 5), (256, 1280, 5), (64, 1280, 1)]
    attention = sum(2 * 4 * n * (n + 77) * c * layers for n, c, layers in levels)
    assert found + saved - attention == pytest.approx(1354e9, rel=1e-3)


def test_detection_and_mitigation_are_counted_by_hand():
    """A network of one product; its gradient with respect to the embedding takes one more."""
    noise, cond = np.zeros((2, 3, 3, 1), np.float32), TokenCond(np.ones((1, 4, 5)), np.ones((1, 4)))

    def eps_fn(params, x, t, cond):
        return (cond.embeddings.reshape(len(x), 20) @ params).reshape(x.shape)

    one = 2 * 2 * 20 * 9  # two noises
    weights = jnp.ones((20, 9))
    assert detection_flops(eps_fn, weights, noise, cond, prompts=3) == 4 * one
    assert mitigation_flops(eps_fn, weights, noise, cond, iterations=5) == (5 * 2 + 1) * one


def test_weights_are_the_same_wherever_they_are_drawn():
    one, other = (draw(TINY, ("conv_in", "kernel"), (3, 3, 4, 16)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert np.std(one) == pytest.approx(1 / 6, rel=0.1)  # 36 inputs each; 576 numbers
    assert np.all(draw(TINY, ("norm", "scale"), (4,)) == 1.0)
    another = draw(TINY, ("conv_out", "kernel"), (3, 3, 4, 16))
    assert abs(np.corrcoef(one.ravel(), another.ravel())[0, 1]) < 0.2  # 0.04 by chance


def test_rates_stop_where_memory_ends():
    def forward(pairs):
        if pairs > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED")

    assert list(rates(forward, (1, 2, 4), 1)) == [1, 2]
    with pytest.raises(ValueError, match="one pair does not run: RESOURCE_EXHAUSTED"):
        rates(forward, (4,), 1)


def test_differences_are_relative():
    values = {"memjax": np.array([1.0, 2.2]), "torch": np.array([1.0, 2.0])}
    expected = 0.2 / np.sqrt(2.5)
    assert difference("forward", values, TINY) == pytest.approx(expected)
    start = make_inputs(TINY).prompts[:1]
    moved = {"memjax": start + 0.9, "torch": start + 1.0}
    assert difference("mitigate", moved, TINY) == pytest.approx(0.1, rel=1e-4)


class _Device:
    """A worker whose times are known: at four pairs it is fastest."""

    def call(self, method, *arguments):
        answers = {
            "pairs_per_second": {1: 1.0, 4: 3.0, 8: 2.0},
            "facts": {"peak_bytes": 2**31, "platform": "cuda", "parameters": 7},
        }
        return answers.get(method), Times(2.0 if method == "detect" else 5.0, 0.0)


def test_on_a_gpu_every_side_runs_at_its_best_batch():
    side = measure_side(_Device(), TINY)
    assert (side["best_pairs"], side["pairs_per_second"]) == (4, 3.0)
    assert (side["detect_seconds"], side["mitigate_seconds"]) == (2.0, 5.0)
    report = {
        "settings": TINY._asdict(),
        "torch_missing": "",
        "flops_per_pair": 1e12,
        "matmul_flops_per_second": 6e12,
        "sides": {"memjax": side},
        "ratios": {"torch": {"forward": 1.5, "detect": 4.0, "mitigate": 2.0}},
    }
    text = gpu_table(report)
    assert "memjax is faster than torch by: forward 1.50x, detect 4.00x, mitigate 2.00x" in text
    assert "50%" in text  # 3 pairs of 1 TFLOP a second, of 6
