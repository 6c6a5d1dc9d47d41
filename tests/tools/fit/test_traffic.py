"""What an exchange moves, told from its sizes."""

import jax
import jax.numpy as jnp
import pytest

from memjax.tools.fit import traffic
from memjax.tools.fit.collectives import Collective, Shape

STATE = {
    "conv": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32),
    "dense": jax.ShapeDtypeStruct((256, 512), jnp.float32),
    "bias": jax.ShapeDtypeStruct((512,), jnp.float32),
}
ROWS = 4  # examples a device


def exchange(kind, *dims, group=8, times=1):
    shapes = tuple(Shape("bf16", d) for d in dims)
    return Collective(kind, shapes, group, False, times, True, "jit(step)/somewhere")


def content(one, parts=(1,)):
    (found,) = traffic.by_content([one], traffic.weight_dims(STATE, parts), ROWS)
    return found


@pytest.mark.parametrize("dims", [(3, 3, 64, 128), (128, 3, 3, 64), (1, 256, 512), (512, 1, 256)])
def test_a_weight_is_known_however_it_is_turned(dims):
    found = content(exchange("all-gather", dims))
    assert found["activations"] == found["other"] == 0
    assert found["weights"] > 0


def test_merged_taps_are_weights_and_more_taps_are_not():
    assert content(exchange("all-gather", (2, 2, 64, 128)))["activations"] == 0
    assert content(exchange("all-gather", (4, 4, 64, 128)))["activations"] > 0


def test_a_part_of_a_weight_is_known_where_weights_are_split():
    one = exchange("all-reduce", (256, 64))
    assert content(one)["weights"] == 0
    assert content(one, (1, 8))["weights"] == 256 * 64 * 2
    assert content(exchange("all-gather", (256, 8, 64)), (1, 8))["activations"] == 0


@pytest.mark.parametrize("dims", [(32, 16, 16, 128), (32, 77, 768), (32 * 256, 128)])
def test_gathered_activations_are_found(dims):
    one = exchange("all-gather", dims)
    found = content(one)
    assert found["weights"] == 0
    assert found["activations"] == one.bytes
    gathers = traffic.activation_gathers([one], [found])
    assert (gathers["count"], gathers["bytes"]) == (1, one.bytes)
    assert gathers["largest"][0]["operation"] == "jit(step)/somewhere"


def test_labels_and_statistics_are_neither():
    for one in (exchange("all-gather", (32, 17)), exchange("all-reduce", (), (32,))):
        found = content(one)
        assert found["weights"] == found["activations"] == 0
        assert found["other"] == one.bytes


def test_sums_of_activations_are_no_gather():
    """A layer split in its inside sums activations: that is what the split costs."""
    one = exchange("all-reduce", (4, 256, 64))
    assert content(one)["activations"] == one.bytes
    assert traffic.activation_gathers([one], [content(one)])["count"] == 0


def test_the_tiles_a_gradient_is_padded_with_are_weights():
    """As in Stable Diffusion's step for a v5e:2x4: 1280 / 8 + 8 rows, shifts of 7 tiles of 8."""
    state = {"kernel": jax.ShapeDtypeStruct((1280, 10240), jnp.float32)}
    for cuts, moves in (((1, 8), "weights"), ((1,), "activations")):
        dims = traffic.weight_dims(state, cuts)
        for shape in ((168, 10240), (1344, 10240), (56, 10240)):
            (found,) = traffic.by_content([exchange("reduce-scatter", shape)], dims, ROWS)
            assert found[moves] > 0
    (found,) = traffic.by_content(
        [exchange("collective-permute", (64, 10240))], traffic.weight_dims(state, (1, 8)), ROWS
    )
    assert found["activations"] > 0  # 64 pixels of one image


def test_loops_and_kinds_add_up():
    two = [exchange("all-gather", (256, 512), times=3), exchange("all-reduce", (512,))]
    contents = traffic.by_content(two, traffic.weight_dims(STATE), ROWS)
    found = traffic.summary(two, contents)
    assert list(found) == ["all-gather", "all-reduce"]
    assert found["all-gather"]["count"] == 3
    assert found["all-gather"]["bytes"] == found["all-gather"]["weights_bytes"] == 3 * 256 * 512 * 2
    assert found["all-reduce"]["received"] == 2 * 7 / 8 * 1024
    listed = traffic.largest([*two] * 9, contents * 9)
    assert len(listed) == 10
    assert listed[0]["kind"] == "all-gather"
