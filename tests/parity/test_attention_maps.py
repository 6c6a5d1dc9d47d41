"""Attention of the condition's tokens against probabilities that diffusers' network computes."""

import jax
import numpy as np
import pytest

from memjax.models.adapters import LinenEps
from memjax.models.unet.network import UNet
from tests.models.unet.unet_cases import CONFIGS, inputs
from tests.parity.test_unet import build

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
# torch and diffusers warn about their own deprecations.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


def _recording(kept):
    """Returns a processor that keeps each cross-attention's probabilities, in order of calls."""
    from diffusers.models.attention_processor import AttnProcessor

    class Recording(AttnProcessor):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, mask=None, **other):
            mask = other.pop("attention_mask", mask)
            if encoder_hidden_states is not None:
                b, length, _ = encoder_hidden_states.shape
                query = attn.head_to_batch_dim(attn.to_q(hidden_states))
                key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
                allowed = attn.prepare_attention_mask(mask, length, b)
                found = attn.get_attention_scores(query, key, allowed)
                kept.append(found.reshape(b, attn.heads, -1, length).mean(dim=(1, 2)))
            return super().__call__(attn, hidden_states, encoder_hidden_states, mask, **other)

    return Recording()


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_maps_equal_the_mean_probabilities_of_diffusers(name):
    """One number of heads, and heads and transformer blocks a level; padding in two of three rows.

    diffusers is read in the order in which it calls its layers.
    """
    from tests.parity.diffusers_unet import run_torch

    config, kept = CONFIGS[name], []
    net, params = build(name, seed=2)
    net.set_attn_processor(_recording(kept))
    x, t, cond = inputs(config)
    with torch.no_grad():
        expected = run_torch(net, config, x, t, cond).permute(0, 2, 3, 1).numpy()
    eps, maps = jax.jit(LinenEps(UNet(config)).with_maps)(params, x, t, cond)
    want = torch.stack(kept, dim=1).numpy()
    assert want.shape == maps.shape == (3, config.num_cross_attentions, 7)
    np.testing.assert_allclose(maps, want, atol=2e-6)
    assert want[0].std(axis=0).max() > 1e-3  # no two layers attend alike
    error = np.abs(eps - expected).max() / np.sqrt(np.mean(expected**2))
    assert error < 2e-5  # as without maps
