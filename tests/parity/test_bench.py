"""Both sides of ``memjax bench`` compute the same: equal weights, noise and prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.cli.bench_memjax import MemjaxSide
from memjax.cli.bench_workload import Settings, make_workload
from memjax.cli.configs import plain
from memjax.cli.defaults import base_config
from memjax.core.process import q_sample
from memjax.training.losses import denoising_target, per_example_loss
from tests.parity.torch_weights import flax_params

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

from memjax.cli.bench_torch import TorchSide  # noqa: E402


def workload(prediction: str):
    config = plain(base_config())
    config["data"]["size"] = 8
    config["model"].update(block_out_channels=(16, 16), cross_attention_dim=16)
    config["train"].update(batch_size=4, warmup_steps=0)
    config["diffusion"]["prediction"] = prediction
    config["audit"]["options"].update(generations=3)
    settings = Settings(repeats=1, steps=2, prompts=3, mitigate_prompts=2)
    return make_workload(config, settings)


@pytest.fixture(scope="module", params=["eps", "v"])
def sides(request):
    """Two sides on the weights that torch drew."""
    work = workload(request.param)
    theirs = TorchSide(work, threads=1)
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
    t = np.array([0, 300, 700, 999])
    noise = rng.standard_normal(work.images.shape).astype(np.float32)
    network, prediction = work.network, work.config["diffusion"]["prediction"]
    x_t = q_sample(network.schedule, work.images, t, noise)
    cond = network.encode_fn(ours.params, work.labels)
    output = network.predict_fn(ours.params, x_t, jnp.asarray(t), cond)
    target = denoising_target(network.schedule, work.images, t, noise, prediction)
    expected = float(per_example_loss(output, target).mean())
    with torch.no_grad():
        actual = theirs.loss(
            theirs._nchw(work.images),
            torch.from_numpy(t),
            theirs._nchw(noise),
            torch.from_numpy(work.labels.astype(np.int64)),
        )
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_magnitudes_are_equal(sides):
    _, ours, theirs = sides
    np.testing.assert_allclose(ours.detect(), theirs.detect(), rtol=2e-4)


def test_mitigated_embeddings_are_equal(sides):
    work, ours, theirs = sides
    actual, expected = ours.mitigate(), theirs.mitigate()
    start = work.network.encode_fn(ours.params, work.prompts[:2]).embeddings
    moved = np.abs(expected - np.asarray(start))
    assert np.all(moved[:, 0] == 0)  # BOS stays
    assert np.median(moved[:, 1:]) > 0.1  # ten updates at rate 0.05 go far
    # AdamW divides by the gradient's size, so rounding shows where a gradient is nearly zero.
    assert np.quantile(np.abs(actual - expected), 0.99) < 5e-3


def test_training_moves_both(sides):
    _, ours, theirs = sides
    before = theirs.parameters[0].detach().clone()
    assert np.isfinite([ours.train(), theirs.train()]).all()
    assert int(ours._state.updates) == 2
    assert not torch.equal(before, theirs.parameters[0])
