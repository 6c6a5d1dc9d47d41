"""Rules and splits by size, decided from paths and shapes alone."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from memjax.data.labels.space import chexpert_label_space
from memjax.training.network import build_network
from memjax.training.optimizer import make_optimizer
from memjax.training.sharding import (
    BY_SIZE,
    RULES,
    WHOLE,
    check_rules,
    placed,
    placements,
    unused_rules,
)
from memjax.training.state import create_state


def mesh(data=1, fsdp=1, tensor=1):
    return types.SimpleNamespace(shape={"data": data, "fsdp": fsdp, "tensor": tensor})


@pytest.fixture(scope="module")
def state():
    """Shapes of a whole state; no number is drawn."""
    unet = {"block_out_channels": (32, 64), "cross_attention_dim": 16, "norm_num_groups": 8}
    unet |= {"attention_blocks": (False, True), "num_heads": 4, "layers_per_block": 1}
    network = build_network(chexpert_label_space(), size=16, unet=unet)
    inputs = (np.zeros((1, 16, 16, 1), np.float32), np.zeros(1, np.int32))
    ids = np.zeros((1, chexpert_label_space().num_tokens), np.int32)
    key = jax.random.key(0)
    params = jax.eval_shape(network.module.init, key, *inputs, ids)["params"]
    make = lambda p, k: create_state(p, make_optimizer(1e-3), k, 100, True)  # noqa: E731
    return jax.eval_shape(make, params, key)


def specs(tree, where, min_size=1000):
    return {one.path: one for one in placements(tree, where, RULES, min_size)}


def test_attention_and_feed_forward_are_split_over_tensor_and_every_rule_is_used(state):
    found = specs(state, mesh(tensor=2))
    block = "params/net/down_blocks_1/attentions_0/transformer_blocks_0"
    assert found[f"{block}/attn1/to_q/kernel"].spec == P(None, "tensor")
    assert found[f"{block}/attn2/to_v/kernel"].spec == P(None, "tensor")
    assert found[f"{block}/attn1/to_out_0/kernel"].spec == P("tensor")
    assert found[f"{block}/attn1/to_out_0/bias"].spec == P()
    assert found[f"{block}/ff/net_0_proj/kernel"].spec == P(None, "tensor")
    assert found[f"{block}/ff/net_0_proj/bias"].spec == P("tensor")
    assert found[f"{block}/ff/net_2/kernel"].spec == P("tensor")
    assert found["params/net/conv_in/kernel"].spec == P()
    assert unused_rules(list(found.values())) == []
    without = [one for path, one in found.items() if "attn" not in path]
    assert unused_rules(without) == [RULES[0][0], RULES[1][0]]


def test_moments_and_average_lie_as_the_weights_do(state):
    found = specs(state, mesh(fsdp=2, tensor=2))
    weights = {
        path.removeprefix("params/"): one for path, one in found.items() if path[:7] == "params/"
    }
    assert len(weights) > 50
    for path, one in weights.items():
        others = [o for p, o in found.items() if p.endswith("/" + path) and o is not one]
        assert len(others) == 3, path  # the average, and Adam's two moments
        assert {o.spec for o in others} == {one.spec}


def test_large_leaves_are_split_by_size_along_their_longest_free_dimension(state):
    found = specs(state, mesh(fsdp=4, tensor=2))
    conv = found["params/net/down_blocks_1/resnets_0/conv1/kernel"]  # [3, 3, 32, 64]
    assert (conv.shape, conv.spec, conv.rules) == (
        (3, 3, 32, 64),
        P(None, None, None, "fsdp"),
        (BY_SIZE,),
    )
    block = "params/net/down_blocks_1/attentions_0/transformer_blocks_0"
    both = found[f"{block}/ff/net_0_proj/kernel"]
    assert both.spec == P("fsdp", "tensor")
    assert both.rules == (RULES[2][0], BY_SIZE)
    small = found["params/net/conv_norm_out/scale"]
    assert (small.spec, small.rules) == (P(), (WHOLE,))
    for one in found.values():
        for size, axis in zip(one.shape, one.spec, strict=False):
            parts = {None: 1, "fsdp": 4, "tensor": 2}[axis]
            assert size % parts == 0


def test_a_record_of_rows_stays_whole_and_so_do_odd_shapes(state):
    found = specs(state, mesh(fsdp=2), 1)
    assert found["filter/seen"].spec == P()
    assert found["step"].spec == P()
    assert placed("w", (7, 9), RULES, mesh(fsdp=2), 1).spec == P()
    assert placed("w", (7, 8), RULES, mesh(fsdp=2), 1).spec == P(None, "fsdp")
    assert placed("w", (8, 8), RULES, mesh(fsdp=2), 1).spec == P(None, "fsdp")
    assert placed("w", (8, 8), RULES, mesh(fsdp=2), 65).spec == P()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([("w$",)], "is none: expected"),
        ([("w$", "tensor")], "is none: expected"),
        ([("w(", ("tensor",))], "is no regular expression"),
        ([("w$", ("tensr",))], "names the axis 'tensr'"),
    ],
)
def test_a_wrong_rule_is_named(rules, said):
    with pytest.raises(ValueError, match=said):
        check_rules(rules)


def test_a_rule_that_does_not_fit_its_leaf_is_named():
    with pytest.raises(ValueError, match=r"parallel.tensor=3 does not divide 8 of a/w \(4, 8\)"):
        placed("a/w", (4, 8), (("w$", ("-", "tensor")),), mesh(tensor=3), 1)
    with pytest.raises(ValueError, match="names 3 axes, but a/w has shape"):
        placed("a/w", (4, 8), (("w$", ("-", "-", "tensor")),), mesh(tensor=2), 1)
    assert check_rules([["w$", ["-", "fsdp"]]]) == (("w$", ("-", "fsdp")),)  # as JSON has them
