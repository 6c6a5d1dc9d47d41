"""From a name and a path to a feature function, and what is said where that fails."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from memjax.studies.published import SOURCES, feature_fn
from tests.models.published.published_cases import state


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_file_says_what_to_get_and_where(tmp_path, name):
    with pytest.raises(ValueError, match="nothing is downloaded") as caught:
        feature_fn(name, tmp_path / "none.pt")
    message = str(caught.value)
    assert SOURCES[name].file in message
    assert SOURCES[name].publisher in message
    assert message.startswith(f"The weights of {name} are not at {tmp_path / 'none.pt'}")
    assert message.endswith("give its path.")


def test_unknown_names():
    with pytest.raises(ValueError, match=r"no published network 'clip', expected one of sscd, "):
        feature_fn("clip", "x.pt")
    with pytest.raises(ValueError, match="'xrv' does not belong to sscd, expected one of sscd,"):
        feature_fn("sscd", "x.pt", preprocessing="xrv")


def test_the_wrong_trunk_is_named(tmp_path):
    path = tmp_path / "sscd_disc_large.safetensors"
    save_file(state("sscd_large"), path)
    with pytest.raises(ValueError, match="holds the network called sscd_large, not sscd"):
        feature_fn("sscd", path)
    assert feature_fn("sscd_large", path, preprocessing="sscd_square").name == (
        "sscd_disc_large (square 320, ImageNet mean/std)"
    )


def test_x_ray_features_end_to_end(tmp_path):
    path = tmp_path / "nih-densenet121.safetensors"
    save_file(state("xrv"), path)
    features = feature_fn("xrv", path, batch_size=2)
    assert features.name == "xrv nih-densenet121 (central square, 224 bilinear, [-1024, 1024])"
    images = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 1)).astype(np.float32)
    found = features(images)
    assert found.shape == (3, 34)  # (((16 + 2·8) / 2 + 3·8) / 2 + 2·8) / 2 + 2·8
    assert np.ptp(found, axis=0).max() > 1e-3
    np.testing.assert_allclose(features(images[::-1])[::-1], found, rtol=1e-4, atol=1e-5)


def test_the_folder_s_own_preprocessing_decides(tmp_path):
    folder = tmp_path / "rad-dino"
    folder.mkdir()
    save_file(state("dinov2"), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    assert feature_fn("rad_dino", folder).name == (
        "rad-dino (short side 518 bicubic, center crop 518, RAD-DINO mean/std)"
    )
    own = {"size": {"shortest_edge": 90}, "crop_size": {"height": 70, "width": 70}}
    own |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 1.0, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    features = feature_fn("rad_dino", folder)
    assert features.preprocessing.mean == (0.1, 0.2, 0.3)
    assert "short side 90 bicubic, center crop 70, mean 0.1, 0.2, 0.3, std" in features.name
    images = np.random.default_rng(0).uniform(-1, 1, (2, 40, 50, 1)).astype(np.float32)
    assert features(images).shape == (2, 64)
    del own["image_std"]
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match="lacks size"):
        feature_fn("rad_dino", folder)
