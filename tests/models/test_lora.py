"""Adapters: zero at the start, the closed form when merged, and nothing else in the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.types import TokenCond
from memjax.models.adapters import LinenEps
from memjax.models.initial import draw_params
from memjax.models.lora import LowRank, init_lora, merge_lora
from memjax.models.unet.network import UNet, UNetConfig

UNET = UNet(
    UNetConfig(
        block_out_channels=(8, 8),
        layers_per_block=1,
        attention_blocks=(False, True),
        mid_attention=False,
        num_heads=2,
        cross_attention_dim=6,
        norm_num_groups=2,
        zero_init_out=False,
    )
)
COND = TokenCond(jnp.linspace(-1, 1, 2 * 3 * 6).reshape(2, 3, 6), jnp.ones((2, 3), bool))
X = jnp.linspace(-1, 1, 2 * 4 * 4 * 4).reshape(2, 4, 4, 4)
T = jnp.array([3, 700])


@pytest.fixture(scope="module")
def params():
    return draw_params(UNET, jax.random.key(0), X, T, COND)


def leaves(tree):
    flat = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, LowRank))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def filled(lora, key):
    """The same adapters with a B that is not zero."""
    number = iter(range(1000))

    def fill(leaf):
        return leaf._replace(
            b=jax.random.normal(jax.random.fold_in(key, next(number)), leaf.b.shape)
        )

    return jax.tree.map(fill, lora, is_leaf=lambda x: isinstance(x, LowRank))


def test_it_stands_beside_every_attention_projection(params, key):
    lora = leaves(init_lora(key, params, 2))
    assert set(lora) == {
        path
        for path in leaves(params)
        if "/attn" in path and path.split("/")[-2][:3] == "to_" and path.endswith("kernel")
    }
    assert len(lora) == 8 * 3  # one attention on the way down, two on the way up
    for path, leaf in lora.items():
        assert (leaf.a.shape, leaf.b.shape) == (
            (leaves(params)[path].shape[0], 2),
            (2, leaves(params)[path].shape[1]),
        )


def test_the_merge_is_the_closed_form_and_touches_nothing_else(params, key):
    lora = filled(init_lora(key, params, 3), jax.random.key(1))
    merged, adapters, before = leaves(merge_lora(params, lora, 0.5)), leaves(lora), leaves(params)
    assert merged.keys() == before.keys()
    for path, leaf in merged.items():
        if path not in adapters:
            assert leaf is before[path]
            continue
        a, b = (np.asarray(part, np.float64) for part in adapters[path])
        np.testing.assert_allclose(
            leaf, np.asarray(before[path], np.float64) + 0.5 * a @ b, atol=2e-6
        )
        assert np.linalg.matrix_rank(np.asarray(leaf - before[path], np.float64), tol=1e-4) <= 3


def test_at_the_start_the_network_is_the_frozen_one_bit_for_bit(params, key):
    start = init_lora(key, params, 2)
    merged = merge_lora(params, start, 8.0)
    for path, leaf in leaves(merged).items():
        np.testing.assert_array_equal(leaf, leaves(params)[path])
    a = np.concatenate([np.ravel(leaf.a) for leaf in leaves(start).values()])
    assert 0.2 < a.std() < 0.6  # 1/√8 = 0.35 and 1/√6 = 0.41, from some hundreds of draws


@pytest.mark.thorough
def test_gradients_reach_b_first_and_then_a(params, key):
    def loss(lora):
        return jnp.mean(LinenEps(UNET)(merge_lora(params, lora, 1.0), X, T, COND) ** 2)

    start = init_lora(key, params, 2)
    grads = leaves(jax.grad(loss)(start))
    assert grads.keys() == leaves(start).keys()
    assert all(not np.any(g.a) for g in grads.values())  # since B is zero
    assert all(np.any(g.b) for g in grads.values())
    later = leaves(jax.grad(loss)(filled(start, jax.random.key(2))))
    assert all(np.any(g.a) and np.any(g.b) for g in later.values())


def test_a_kernel_keeps_its_type(params, key):
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    merged = merge_lora(half, filled(init_lora(key, half, 2), jax.random.key(3)), 1.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("rank", "targets", "said"),
    [
        (2, "attn3/to_q", "matches no weight"),
        (2, "conv1/kernel", "expected matrices only"),
        (0, "attn1/to_q/kernel", "rank is 0, expected 1 to 8"),
        (9, "attn1/to_q/kernel", "rank is 9"),
        (2, "attn[", "no regular expression"),
    ],
)
def test_what_does_not_fit_is_refused(params, key, rank, targets, said):
    with pytest.raises(ValueError, match=said):
        init_lora(key, params, rank, targets)


def test_adapters_of_another_network_are_refused(params, key):
    with pytest.raises(ValueError, match="another network"):
        merge_lora(params, {"down_blocks_7": init_lora(key, params, 1)}, 1.0)
