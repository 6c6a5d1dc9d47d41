"""What of a configuration decides the weights, and runs of versions that knew fewer fields."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.data.labels.space import chexpert_label_space
from memjax.runs.config import plain
from memjax.runs.defaults import default_config
from memjax.runs.model import with_defaults
from memjax.runs.train import check_sections, sealed
from memjax.training.run import network_of
from memjax.training.seal import as_of_now, config_changes

LATER = {
    ("train", "filter_detector"): "update_norm",
    ("model", "refine_channels"): 8,
    ("data", "augment"): {"rotate": 5.0, "shift": 0.0, "zoom": 0.0, "flip": False},
    ("data", "labels"): "cheXbert",
}
SECTIONS = ("seed", "data", "model", "diffusion", "train")


def first_version(config):
    """Returns a configuration as the first version wrote it."""
    old = copy.deepcopy(config)
    for section, field in LATER:
        del old[section][field]
    return old


def test_a_run_without_later_fields_goes_on_at_their_defaults():
    config = plain(default_config())
    kept = {name: first_version(config)[name] for name in SECTIONS}
    now = sealed(config, chexpert_label_space())
    assert config_changes(as_of_now(kept, now), as_of_now(now, now)) == []
    assert config == plain(default_config())  # what was given stays as it was


@pytest.mark.parametrize(("section", "field"), LATER)
def test_a_later_field_with_another_value_is_a_change(section, field):
    config = plain(default_config())
    before = sealed(copy.deepcopy(config), chexpert_label_space())
    del before[section][field]
    config[section][field] = LATER[section, field]
    now = sealed(config, chexpert_label_space())
    changes = config_changes(as_of_now(before, now), as_of_now(now, now))
    assert changes
    assert all(change.startswith(f"{section}.{field}") for change in changes)


def test_an_old_run_has_the_network_it_had():
    old = first_version(plain(default_config()))
    filled = with_defaults(old)
    assert filled == plain(default_config())

    def params(config):
        module = network_of(config, chexpert_label_space()).module
        return module.init_params(jax.random.key(0))

    before = params(old)
    jax.tree.map(np.testing.assert_array_equal, before, params(filled))
    filled["model"]["refine_channels"] = 4
    refined = params(filled)
    assert not np.any(refined["net"].pop("refine")["conv_residual"]["kernel"])
    assert jax.tree.map(jnp.shape, refined) == jax.tree.map(jnp.shape, before)


def test_impossible_augmentation_is_refused_before_anything_is_read():
    config = plain(default_config())
    config["data"]["augment"]["shift"] = 2.0
    with pytest.raises(ValueError, match=r"augment.shift is 2.0"):
        check_sections(config)
