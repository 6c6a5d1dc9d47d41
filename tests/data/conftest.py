"""Phantoms written once for the whole room."""

import pytest

from memjax.data.phantoms.folder import write_phantoms

SETTINGS = {
    "seed": 5,
    "size": 64,
    "num_images": 24,
    "num_held_out": 12,
    "num_duplicated": 2,
    "copies": 4,
    "lateral_fraction": 0.3,
}


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    """A small phantom data set; tests must not write into it."""
    root = tmp_path_factory.mktemp("phantoms")
    write_phantoms(root, **SETTINGS)
    return root


@pytest.fixture(scope="session")
def phantom_settings():
    return dict(SETTINGS)
