"""The mesh's shape, and which rows lie where; more devices are in tests/training/test_hosts.py."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from memjax.core import mesh as module
from memjax.core.mesh import (
    check_rows,
    fetch,
    make_mesh,
    my_rows,
    pad_rows,
    place,
    place_rows,
    prompts_mesh,
    replicated,
    row_shards,
    rows_over,
)


def devices(count, slices=1, knows=True):
    """Stand-ins with what the mesh asks of a device."""
    each = count // slices
    return [
        types.SimpleNamespace(
            id=i,
            platform="cpu",
            device_kind="cpu",
            process_index=i // each,
            slice_index=i // each if knows else None,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 4, 1), (2, 4, 1)),
        ((-1, 2, 2), (2, 2, 2)),
        ((1, 1, 8), (1, 1, 8)),
    ],
)
def test_the_shape_and_the_order_of_devices(asked, shape):
    assert module._shape(*asked, 1, 8) == shape


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((3, 1, 1, 1, 8), "need 3 devices, 8 are there"),
        ((-1, 3, 1, 1, 8), "need 6 devices, 8 are there"),
        ((-1, 16, 1, 1, 8), "need 0 devices, 8 are there"),
        ((0, 1, 1, 1, 8), "parallel.data is 0"),
        ((-1, 0, 1, 1, 8), "parallel.fsdp is 0"),
        ((-1, 1, -2, 1, 8), "parallel.tensor is -2"),
        ((-1, 4, 1, 4, 8), "slices=4 does not divide data=2"),
    ],
)
def test_numbers_that_do_not_fit_are_named(asked, said):
    with pytest.raises(ValueError, match=said):
        module._shape(*asked)


@pytest.mark.parametrize("knows", [True, False])
def test_data_alone_goes_across_slices(knows):
    grid = module._across_slices((4, 2, 1), 2, devices(8, 2, knows))
    groups = np.vectorize(lambda d: d.process_index)(grid)
    assert grid.shape == (4, 2, 1)
    np.testing.assert_array_equal(groups[:2], 0)
    np.testing.assert_array_equal(groups[2:], 1)
    what = "slices" if knows else "processes"
    with pytest.raises(ValueError, match=f"the devices lie in 2 {what}"):
        module._across_slices((4, 2, 1), 4, devices(8, 2, knows))


def test_one_device_is_a_mesh_too():
    mesh = make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert row_shards(mesh) == 1
    assert prompts_mesh() is None
    assert prompts_mesh(most_of_cpu=1) is None
    tree = {"rows": np.arange(6.0).reshape(6, 1), "table": np.arange(7.0), "key": np.float32(2)}
    placed = place_rows(tree, mesh, my_rows(mesh, 6), 6)
    assert placed["rows"].sharding == rows_over(mesh)
    assert placed["table"].sharding == replicated(mesh)
    jax.tree.map(np.testing.assert_array_equal, fetch(placed), tree)
    key = place(jax.random.key(3), replicated(mesh))
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(3)))


def test_a_batch_that_cannot_be_spread_is_refused():
    mesh = types.SimpleNamespace(shape={"data": 2, "fsdp": 2, "tensor": 1})
    check_rows(mesh, 8, 2)
    with pytest.raises(
        ValueError, match=r"batch_size is 12, expected a multiple of 8 \(data=2, fsdp=2"
    ):
        check_rows(mesh, 12, 2)


def test_padding_repeats_the_last_row():
    padded = pad_rows((np.arange(5), np.ones((5, 2))), 4)
    np.testing.assert_array_equal(padded[0], [0, 1, 2, 3, 4, 4, 4, 4])
    assert padded[1].shape == (8, 2)
    assert pad_rows(np.arange(8), 4).shape == (8,)
