"""The U-Net: golden outputs of diffusers' network, invariances, options, refusals."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.core.types import TokenCond
from memjax.models.initial import draw_params
from memjax.models.unet.layers import Refinement
from memjax.models.unet.network import UNet, UNetConfig, masked_mean
from tests.models.unet.unet_cases import CONFIGS, GOLDEN, inputs, template, weights

TINY = UNetConfig(
    in_channels=1,
    out_channels=1,
    block_out_channels=(8, 16),
    layers_per_block=1,
    attention_blocks=(False, True),
    num_heads=2,
    cross_attention_dim=6,
    norm_num_groups=4,
    pooled_condition=True,
    patch_size=2,
    zero_init_out=False,
)


@pytest.fixture(scope="module")
def tiny():
    x, t, cond = inputs(TINY)
    params = weights(TINY)
    apply = jax.jit(lambda p, x, t, cond: UNet(TINY).apply({"params": p}, x, t, cond))
    return apply, params, x, t, cond


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_the_golden_output_of_diffusers(name):
    golden = np.load(pathlib.Path(__file__).parent / "golden_unet.npz")
    config = CONFIGS[name]
    actual = jax.jit(UNet(config).apply)({"params": weights(config)}, *inputs(config))
    error = np.abs(np.asarray(actual) - golden[name]).max() / np.sqrt(np.mean(golden[name] ** 2))
    assert error < 2e-5, str(golden["header"])  # float32 rounding; measured 4e-6


def test_masked_tokens_do_not_matter(tiny):
    apply, params, x, t, cond = tiny
    other = np.where(cond.mask[:, :, None], cond.embeddings, 17.0)
    np.testing.assert_allclose(
        apply(params, x, t, TokenCond(other, cond.mask)), apply(params, x, t, cond), atol=1e-6
    )
    changed = apply(params, x, t, TokenCond(cond.embeddings + 1.0, cond.mask))
    assert np.abs(changed - apply(params, x, t, cond)).max() > 1e-2


def test_examples_are_independent(tiny):
    apply, params, x, t, cond = tiny
    order = np.array([2, 0, 1])
    expected = np.asarray(apply(params, x, t, cond))[order]
    permuted = jax.tree.map(lambda leaf: leaf[order], cond)
    np.testing.assert_allclose(apply(params, x[order], t[order], permuted), expected, atol=1e-5)


def test_time_matters(tiny):
    apply, params, x, t, cond = tiny
    assert np.abs(apply(params, x, t + 100, cond) - apply(params, x, t, cond)).max() > 1e-3


def test_fresh_network_predicts_zero(tiny):
    apply, _, x, t, cond = tiny
    config = dataclasses.replace(TINY, zero_init_out=True)
    params = draw_params(UNet(config), jax.random.key(0), x, t, cond, zero=("conv_out",))
    assert not np.any(apply(params, x, t, cond))
    init = jax.eval_shape(UNet(config).init, jax.random.key(0), x, t, cond)["params"]
    assert jax.tree.structure(init) == jax.tree.structure(params)


REFINED = dataclasses.replace(TINY, patch_size=4, refine_channels=8)


def with_refinement(params, seed=2):
    """Returns the same weights with a last convolution that is not zero."""
    kernel = params["refine"]["conv_residual"]["kernel"]
    drawn = 0.3 * np.random.default_rng(seed).standard_normal(kernel.shape).astype(np.float32)
    refine = {**params["refine"], "conv_residual": {"kernel": drawn, "bias": np.zeros(1)}}
    return {**params, "refine": refine}


def test_a_refinement_adds_weights_and_changes_none_of_the_others():
    plain = template(dataclasses.replace(REFINED, refine_channels=0))
    refined = template(REFINED)
    added = refined.pop("refine")
    assert jax.tree.map(jnp.shape, refined) == jax.tree.map(jnp.shape, plain)
    assert sum(leaf.size for leaf in jax.tree.leaves(added)) == (9 * 2 + 1) * 8 + 33 * 8 + 9 * 8 + 1


def test_a_refinement_starts_as_the_identity():
    x, t, cond = inputs(REFINED)
    fresh = UNet(REFINED).init(jax.random.key(3), x, t, cond)["params"]
    assert not np.any(fresh["refine"]["conv_residual"]["kernel"])
    assert np.any(fresh["refine"]["conv_joint"]["kernel"])
    plain = UNet(dataclasses.replace(REFINED, refine_channels=0))
    without = {name: leaves for name, leaves in fresh.items() if name != "refine"}
    np.testing.assert_array_equal(
        UNet(REFINED).apply({"params": fresh}, x, t, cond),
        plain.apply({"params": without}, x, t, cond),
    )


def test_a_refinement_treats_every_pixel_alike_and_sees_across_patches():
    """A pixel's shift by one, which carries it over a border of patches, shifts what comes out."""
    y, x = np.random.default_rng(0).standard_normal((2, 1, 16, 16, 1)).astype(np.float32)
    emb = np.random.default_rng(1).standard_normal((1, 32)).astype(np.float32)
    params = with_refinement(weights(REFINED))["refine"]

    def apply(y, x):
        return np.asarray(Refinement(8).apply({"params": params}, y, x, emb))

    inner = (slice(None), slice(3, -3), slice(3, -3))  # away from the padding
    moved = apply(np.roll(y, 1, axis=1), np.roll(x, 1, axis=1))
    np.testing.assert_allclose(moved[inner], np.roll(apply(y, x), 1, axis=1)[inner], atol=1e-5)
    for given in (0, 1):  # what the network said, and the noisy image
        bumped = [y.copy(), x.copy()]
        bumped[given][0, 7, 7, 0] += 1.0
        assert np.abs(apply(*bumped) - apply(y, x))[0, 8, 7, 0] > 1e-3


def test_a_refinement_can_remove_a_grid_of_patches():
    """A pattern of patches on a smooth image, and the image without: least squares in its span."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 3, 32)
    smooth = np.stack(
        [np.sin(a * grid[:, None] + b * grid[None, :]) for a, b in rng.random((8, 2))]
    )
    pattern = np.tile(rng.standard_normal((4, 4)), (8, 8))
    noisy = (smooth + 0.3 * pattern)[..., None].astype(np.float32)
    emb = np.zeros((8, 32), np.float32)
    module, tx = Refinement(8), optax.adam(2e-2)
    params = module.init(jax.random.key(0), noisy, noisy, emb)["params"]

    def loss(params):
        return jnp.mean(
            (module.apply({"params": params}, noisy, 0 * noisy, emb)[..., 0] - smooth) ** 2
        )

    @jax.jit
    def fit(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=150)[0][0]

    assert loss(fit(params)) < 0.1 * loss(params)


def test_bfloat16_stays_near_and_keeps_float32_parameters(tiny):
    apply, params, x, t, cond = tiny
    module = UNet(dataclasses.replace(TINY, dtype="bfloat16"))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, cond)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    actual = jax.jit(module.apply)({"params": params}, x, t, cond)
    expected = apply(params, x, t, cond)
    assert actual.dtype == jnp.float32
    error = np.abs(actual - expected).max() / np.sqrt(np.mean(np.square(expected)))
    assert 1e-4 < error < 0.1  # eight bits of mantissa through some twenty layers


@pytest.mark.parametrize("policy", ["full", "products"])
def test_remat_changes_no_gradient(policy):
    one_level = dataclasses.replace(
        TINY, block_out_channels=(8,), attention_blocks=(False,), pooled_condition=False
    )
    x, t, cond = inputs(one_level)
    params = weights(one_level)

    def gradient(config):
        def loss(p):
            return jnp.mean(UNet(config).apply({"params": p}, x, t, cond) ** 2)

        return jax.jit(jax.grad(loss))(params)

    plain, remat = (
        gradient(one_level),
        gradient(dataclasses.replace(one_level, remat=True, remat_policy=policy)),
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max() + 1e-7)


def test_a_policy_keeps_what_its_name_says():
    """Counted in the traced gradient: how often the network's products with weights are made."""
    levels = dataclasses.replace(TINY, num_heads=2)
    x, t, cond = inputs(levels)
    params = weights(levels)

    def products(**remat):
        unet = UNet(dataclasses.replace(levels, **remat))

        def loss(p):
            return jnp.mean(unet.apply({"params": p}, x, t, cond) ** 2)

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("memjax_convolve")

    plain = products()
    assert products(remat=True, remat_policy="products") == plain
    assert products(remat=True, remat_policy="full") > 1.2 * plain


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match=r"remat_policy is 'dots', expected one of .*products"):
        UNetConfig(remat_policy="dots")


def test_masked_mean():
    embeddings = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mask = np.array([[True, True, False], [False, False, False]])
    actual = masked_mean(TokenCond(jnp.asarray(embeddings), jnp.asarray(mask)))
    np.testing.assert_array_equal(actual, [[1.0, 2.0], [0.0, 0.0]])


def test_stable_diffusion_sizes():
    """The default is Stable Diffusion 1's network: 859,520,964 parameters."""
    cond = TokenCond(jnp.zeros((1, 77, 768)), jnp.ones((1, 77), bool))
    x, t = jnp.zeros((1, 64, 64, 4)), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(UNet(UNetConfig()).init, jax.random.key(0), x, t, cond)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 859_520_964


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": ()}, "block_out_channels is empty"),
        ({"block_out_channels": (8, 18)}, r"block_out_channels\[1\] is 18.*norm_num_groups=4"),
        ({"num_heads": (2, 5)}, r"block_out_channels\[1\] is 16.*num_heads=5"),
        ({"num_heads": (2, 2, 2)}, "num_heads.*3 entries, expected 2"),
        ({"attention_blocks": (True,)}, "attention_blocks.*1 entries, expected 2"),
        ({"transformer_layers": (1,)}, "transformer_layers.*1 entries, expected 2"),
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"refine_channels": -1}, r"refine_channels is -1, expected 0 \(none\) or more"),
    ],
)
def test_refuses_impossible_configs(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_refuses_image_sizes_that_do_not_halve():
    TINY.validate(32)
    with pytest.raises(ValueError, match="image size 30 is not divisible by 4"):
        TINY.validate((32, 30))


def test_lists_become_tuples_and_configs_hash():
    config = dataclasses.replace(TINY, block_out_channels=[8, 16], num_heads=[2, 2])
    assert config.block_out_channels == (8, 16)
    assert hash(config) == hash(dataclasses.replace(TINY, num_heads=(2, 2)))
