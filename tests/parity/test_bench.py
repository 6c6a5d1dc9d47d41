"""Both sides of ``memjax bench`` compute the same: equal weights, noise and prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.cli.config_fields import base_config
from memjax.core.process import q_sample
from memjax.runs.config import plain
from memjax.tools.bench.memjax_side import MemjaxSide
from memjax.tools.bench.run import run_under
from memjax.tools.bench.worker import KEEP
from memjax.tools.bench.workload import Settings, make_workload
from memjax.training.objective import denoising_target, per_example_loss
from tests.parity.torch_weights import flax_params

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

from memjax.tools.bench.torch_side import TorchSide  # noqa: E402

SETTINGS = Settings(repeats=1, steps=2, prompts=3, mitigate_prompts=2, samples=4)


def small_config(prediction: str):
    config = plain(base_config())
    config["data"]["size"] = 8
    config["model"].update(block_out_channels=(16, 16), cross_attention_dim=16)
    config["train"].update(batch_size=4, warmup_steps=0)
    config["diffusion"]["prediction"] = prediction
    config["audit"]["options"].update(generations=3)
    config["sampling"].update(num_steps=6)
    return config


@pytest.fixture(scope="module", params=["eps", "v"])
def sides(request):
    """Two sides on the weights that torch drew."""
    work = make_workload(small_config(request.param), SETTINGS)
    theirs = TorchSide(work.task, threads=1)
    state = {k: v.detach().numpy() for k, v in theirs.network.modules.state_dict().items()}
    prefix = "unet."
    net = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    template = work.network.module.init_params(jax.random.key(0))
    params = {
        "net": flax_params(net, template["net"]),
        "tokens": {k: state[f"tokens.{k}"].copy() for k in template["tokens"]},
    }
    return work, MemjaxSide(work, params), theirs


def test_parameter_counts_are_equal(sides):
    _, ours, theirs = sides
    assert ours.num_parameters == theirs.num_parameters


def test_training_losses_are_equal(sides):
    work, ours, theirs = sides
    rng = np.random.default_rng(1)
    task, t = work.task, np.array([0, 300, 700, 999])
    noise = rng.standard_normal(task.images.shape).astype(np.float32)
    network, prediction = work.network, task.config["diffusion"]["prediction"]
    x_t = q_sample(network.schedule, task.images, t, noise)
    cond = network.encode_fn(ours.params, task.labels)
    output = network.predict_fn(ours.params, x_t, jnp.asarray(t), cond)
    target = denoising_target(network.schedule, task.images, t, noise, prediction)
    expected = float(per_example_loss(output, target).mean())
    with torch.no_grad():
        actual = theirs.loss(
            theirs._nchw(task.images),
            torch.from_numpy(t),
            theirs._nchw(noise),
            torch.from_numpy(task.labels.astype(np.int64)),
        )
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_magnitudes_are_equal(sides):
    _, ours, theirs = sides
    np.testing.assert_allclose(ours.detect(), theirs.detect(), rtol=2e-4)


def test_guided_samples_are_equal(sides):
    """Same noise, weights, grid and guidance; float32 through six steps of guidance 3."""
    work, ours, theirs = sides
    actual, expected = ours.sample(), theirs.sample()
    assert actual.shape == expected.shape == work.task.sample_noise.shape
    np.testing.assert_allclose(actual, expected, atol=2e-4)
    assert np.std(expected) > 0.1
    inside = np.abs(expected) < 0.99  # not all of it is what clipping left
    assert np.mean(inside) > 0.2


def test_mitigated_embeddings_are_equal(sides):
    work, ours, theirs = sides
    actual, expected = ours.mitigate(), theirs.mitigate()
    start = work.network.encode_fn(ours.params, work.task.prompts[:2]).embeddings
    moved = np.abs(expected - np.asarray(start))
    assert np.all(moved[:, 0] == 0)  # BOS stays
    assert np.median(moved[:, 1:]) > 0.1  # ten updates at rate 0.05 go far
    # AdamW divides by the gradient's size, so rounding shows where a gradient is nearly zero.
    assert np.quantile(np.abs(actual - expected), 0.99) < 5e-3


def test_training_moves_both(sides):
    _, ours, theirs = sides
    before = theirs.parameters[0].detach().clone()
    assert np.isfinite([ours.train(), theirs.train()]).all()
    assert int(ours.state.updates) == 2
    assert not torch.equal(before, theirs.parameters[0])


def test_each_side_is_measured_in_a_process_of_its_own():
    only = ("sample",)
    run = run_under(KEEP, small_config("eps"), SETTINGS._replace(only=only, repeats=2))
    assert run["torch_missing"] == ""
    assert list(run["cases"]) == list(only)
    for name, case in run["cases"].items():
        ours, theirs = case["sides"]["memjax"], case["sides"]["torch"]
        assert case["ratio"] == theirs["median_seconds"] / ours["median_seconds"], name
        assert ours["parameters"] == theirs["parameters"] == run["parameters"]["torch"]
        rate = case["flops"] / theirs["median_seconds"]  # memjax's operations, torch's time
        assert theirs["tflop_per_second"] == pytest.approx(rate / 1e12)
        # Torch with diffusers holds more than its libraries' code, and no JAX beside it.
        assert 2**26 < theirs["ready_bytes"] <= theirs["peak_bytes"] < 2**30
