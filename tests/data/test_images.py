import io

import numpy as np
import pytest
from PIL import Image

from memjax.data.images import CorruptImageError, load_image, to_uint8, to_unit


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def test_unit_round_trip_is_exact_and_spans_minus_one_to_one():
    bytes_ = np.arange(256, dtype=np.uint8)
    unit = to_unit(bytes_)
    assert unit.dtype == np.float32
    assert unit[0] == -1.0
    assert unit[255] == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(unit, np.arange(256) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(to_uint8(unit), bytes_)
    np.testing.assert_array_equal(to_uint8(np.array([-9.0, 9.0])), [0, 255])


def test_crop_pad_and_stretch(tmp_path):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 200  # the middle square
    path = save(tmp_path / "wide.png", pixels)
    np.testing.assert_array_equal(load_image(path, 4)[..., 0], np.full((4, 4), 200))
    padded = load_image(path, 8, square="pad")[..., 0]
    np.testing.assert_array_equal(padded[2:6], pixels)
    assert not padded[:2].any()
    assert not padded[6:].any()
    assert load_image(path, 4, square="stretch")[0, :, 0].tolist() == [0, 200, 200, 0]
    with pytest.raises(ValueError, match="square is 'zoom'"):
        load_image(path, 4, square="zoom")


def test_shrinking_averages_areas(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    expected = pixels.reshape(4, 3, 4, 3).astype(np.float64).mean((1, 3))
    small = load_image(save(tmp_path / "a.png", pixels), 4)[..., 0]
    assert np.abs(small - expected).max() <= 1  # two rounding passes of one half each


def test_colour_and_sixteen_bits(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    path = save(tmp_path / "c.png", colour)
    np.testing.assert_array_equal(load_image(path, 5, 3), colour)
    assert load_image(path, 5).shape == (5, 5, 1)
    deep = save(tmp_path / "d.png", np.full((5, 5), 65535, np.uint16))
    assert load_image(deep, 5).min() == 255
    with pytest.raises(ValueError, match="channels is 2"):
        load_image(path, 5, 2)


def truncated() -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()[:900]


@pytest.mark.parametrize("content", [b"", b"not a picture", truncated(), None])
def test_what_cannot_be_decoded_is_named(tmp_path, content):
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorruptImageError, match=r"bad\.jpg cannot be decoded"):
        load_image(path, 8)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "big.png", np.zeros((50, 50), np.uint8))
    monkeypatch.setattr("memjax.data.images.MAX_PIXELS", 2499)
    with pytest.raises(CorruptImageError, match="50×50 pixels"):
        load_image(path, 8)
