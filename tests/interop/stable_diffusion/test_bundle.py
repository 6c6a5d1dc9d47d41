"""A pipeline as a bundle: conditions, predictions and images as the networks alone give them."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.condition import repeat_cond
from memjax.detectors import AttentionEntropyChange
from memjax.interop import make_bundle
from memjax.interop.stable_diffusion import bundle as bundle_module
from memjax.interop.stable_diffusion.scheduler_settings import SPEC
from memjax.models.adapters import EpsFromV, LinenEps
from memjax.sampling import sample
from tests.interop.stable_diffusion.pipelines import tiny


@pytest.fixture(scope="module")
def pair():
    return tiny(), make_bundle(tiny())


def test_encoding_is_the_text_encoder_and_attends_to_padding(pair):
    pipeline, bundle = pair
    rows = [{"caption": text} for text in ("a cat", "", "zebras on a beach")]
    cond = bundle.encode(rows)
    ids = pipeline.tokenizer.encode([row["caption"] for row in rows]).ids
    expected = jax.jit(pipeline.text.apply)({"params": pipeline.text_params}, ids).hidden
    # Only the size of the batch differs: rounding of float32 sums of 64 terms.
    np.testing.assert_allclose(cond.embeddings, expected, atol=2e-6)
    assert cond.embeddings.dtype == np.float32
    assert cond.mask.shape == (3, 77)
    assert bool(jnp.all(cond.mask))
    np.testing.assert_array_equal(cond.length, [4, 2, _length(bundle, "zebras on a beach")])
    np.testing.assert_array_equal(bundle.null_cond.length, [2])
    np.testing.assert_allclose(bundle.null_cond.embeddings[0], cond.embeddings[1], atol=2e-6)
    assert bundle.null_cond.embeddings.shape == (1, 77, 32)


def _length(bundle, text):
    """Tokens up to and including the end token, by their names."""
    return bundle.describe({"caption": text}).index("EOS") + 1


def test_a_prompt_that_is_cut_ends_at_the_last_token(pair):
    assert pair[1].encode([{"caption": "y" * 90}]).length.tolist() == [77]


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_detectors_are_given_the_attention_of_every_layer(kind):
    bundle = make_bundle(tiny(kind))
    cond, x_T = bundle.encode([{"caption": "a cat"}]), jnp.zeros((2, *bundle.sample_shape))
    inputs = (bundle.params, x_T, repeat_cond(cond, 2), bundle.null_cond, bundle.schedule)
    seen = []

    class Look(AttentionEntropyChange):
        def __call__(self, trajectory, net):
            seen.append((trajectory.maps.shape, trajectory.cond.length.shape))
            return super().__call__(trajectory, net)

    run = functools.partial(sample, bundle.eps_fn, num_steps=3, tap={"change": Look()})
    found = jax.eval_shape(run, *inputs).taps["change"]
    layers = tiny(kind).unet.num_cross_attentions
    assert seen == [((3, 2, layers, 77), (2,))]
    assert found.shape == (3, 2)


def test_many_prompts_are_encoded_in_parts(pair, monkeypatch):
    _, bundle = pair
    rows = [{"caption": "a cat " * k} for k in range(5)]
    whole = np.concatenate([bundle.encode([row]).embeddings for row in rows])
    monkeypatch.setattr(bundle_module, "TEXTS_AT_ONCE", 2)
    np.testing.assert_allclose(bundle.encode(rows).embeddings, whole, atol=2e-6)
    assert bundle.encode([]).embeddings.shape == (0, 77, 32)


def test_prediction_is_epsilon():
    """Equal adapters share a trace; that v becomes ε is the adapter's own test."""
    first, second = (make_bundle(tiny(kind)) for kind in ("sd1", "sd2"))
    assert first.eps_fn == LinenEps(tiny("sd1").unet)
    assert second.eps_fn == EpsFromV(LinenEps(tiny("sd2").unet), SPEC)
    assert first.params is tiny("sd1").unet_params
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(second.schedule.alphas_bar, np.cumprod(1 - betas), rtol=1e-6)


def test_decoding_scales_clips_and_goes_in_parts(pair, monkeypatch):
    pipeline, bundle = pair
    latents = np.random.default_rng(1).normal(size=(3, *bundle.sample_shape)).astype(np.float32)
    latents[0] *= 100
    decode = jax.jit(functools.partial(pipeline.vae.apply, method="decode"))
    params = {"params": pipeline.vae_params}
    raw = np.concatenate([decode(params, one[None] / 0.18215) for one in latents])
    monkeypatch.setattr(bundle_module, "PIXELS_AT_ONCE", 16 * 16)
    images = bundle.decode(latents)
    assert images.shape == (3, 32, 32, 3)
    # 1/s is rounded to float32 before the product: 6e-8 of latents that reach 400/s here.
    np.testing.assert_allclose(images, np.clip(raw, -1, 1), atol=1e-4)
    assert np.abs(images).max() == 1.0


def test_parts_compile_few_programs():
    traced = []

    @jax.jit
    def run(rows):
        traced.append(rows.shape)
        return rows * 2

    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 100):
        rows = np.arange(count, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(bundle_module.in_parts(run, rows, 8), rows * 2)
    assert traced == [(1, 1), (2, 1), (4, 1), (8, 1)]


def test_names_of_positions_and_provenance(pair):
    pipeline, bundle = pair
    names = bundle.describe({"caption": "A red circle"})
    assert names[:6] == ["BOS", "a", "red", "circle", "EOS", "PAD"]
    assert bundle.info is pipeline.info


def test_cut_prompts_are_counted_once(caplog):
    bundle = make_bundle(tiny())
    rows = [{"caption": "y" * 90}, {"caption": "x" * 80}, {"caption": "a cat"}]
    with caplog.at_level(logging.WARNING, "memjax"):
        bundle.encode(rows)
        bundle.encode(rows)
    expected = "2 of 3 prompts are longer than 77 tokens and were cut (at most by 15 tokens)"
    assert [record.getMessage() for record in caplog.records] == [expected]


@pytest.mark.parametrize("row", [{"id": "p7"}, {"id": "p7", "caption": None}])
def test_rows_without_a_caption(pair, row):
    with pytest.raises(ValueError, match=r"prompt p7: caption is None, expected a text"):
        pair[1].encode([row])
