import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from memjax.data.images import CorruptImageError, image_reading, load_image, to_uint8, to_unit
from memjax.data.readers.chexpert import check_images
from memjax.data.records import image_record


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
    color = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    path = save(tmp_path / "c.png", color)
    np.testing.assert_array_equal(load_image(path, 5, 3), color)
    assert load_image(path, 5).shape == (5, 5, 1)
    deep = save(tmp_path / "d.png", np.full((5, 5), 65535, np.uint16))
    assert load_image(deep, 5).min() == 255
    with pytest.raises(ValueError, match="channels is 2"):
        load_image(path, 5, 2)


def oriented(path, orientation):
    """A wide image with an EXIF orientation: a bright corner and a bright edge in the file."""
    pixels = np.zeros((8, 12), np.uint8)
    pixels[:3, :3], pixels[-2:] = 255, 120
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif, lossless=True)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_read_upright(tmp_path, orientation, suffix):
    path = oriented(tmp_path / f"phone.{suffix}", orientation)
    with Image.open(oriented(tmp_path / "twin.png", orientation)) as image:
        upright = ImageOps.exif_transpose(image)
    turned = ["turned upright (EXIF orientation)"] if orientation > 1 else []
    if suffix != "tif":  # Pillow turns those by itself
        assert list(image_reading(path).notes) == turned
    assert upright.size == ((12, 8) if orientation < 5 else (8, 12))
    edge = max(upright.size)
    padded = load_image(path, edge, square="pad")[..., 0]
    left, top = (edge - upright.width) // 2, (edge - upright.height) // 2
    found = padded[top : top + upright.height, left : left + upright.width]
    np.testing.assert_array_equal(found, np.asarray(upright))


def test_a_phone_image_has_its_dark_half_on_the_left(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255  # 6: the file's first row is the right-hand side
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=exif)
    for channels in (1, 3):
        found = load_image(tmp_path / "phone.jpg", 32, channels)
        assert found[:, :16].max() < 10
        assert found[:, 16:].min() > 245


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\0\0\0\x08\0\x7f", b"Exif\0\0nonsense", b"\xff" * 40]
)
def test_damaged_exif_leaves_the_pixels_as_they_are(tmp_path, exif):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    for name, kept in (("with.png", {"exif": exif}), ("without.png", {})):
        Image.fromarray(noise).save(tmp_path / name, **kept)
    assert list(image_reading(tmp_path / "with.png").notes) == []
    np.testing.assert_array_equal(
        load_image(tmp_path / "with.png", 8), load_image(tmp_path / "without.png", 8)
    )


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_a_sixteen_bit_file_span_black_to_white(tmp_path, bits):
    values = np.linspace(0, (1 << bits) - 1, 1024).round().astype(np.uint16).reshape(32, 32)
    path = save(tmp_path / "film.png", values)
    expected = np.rint(values * (255 / ((1 << bits) - 1)))
    assert np.abs(load_image(path, 32)[..., 0] - expected).max() <= 1  # ties in float32
    assert (load_image(path, 32).min(), load_image(path, 32).max()) == (0, 255)
    assert list(image_reading(path).notes) == [f"stretched ({bits} bits in a 16-bit file)"]


@pytest.mark.parametrize("largest", [1 << 14, 1 << 15, 65535])
def test_sixteen_bits_are_divided_by_257_as_ever(tmp_path, largest):
    values = np.linspace(0, largest, 1024).round().astype(np.uint16).reshape(32, 32)
    path = save(tmp_path / "film.png", values)
    expected = (values.astype(np.float32) / 257.0).round().astype(np.uint8)
    np.testing.assert_array_equal(load_image(path, 32)[..., 0], expected)
    assert list(image_reading(path).notes) == ["read from 16 bits"]


def deep_color(path, pixels):
    """A PNG with 16 bits a channel, which Pillow cannot write."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def test_twelve_bits_in_sixteen_bit_color_are_refused_and_not_black(tmp_path):
    pixels = np.full((4, 4, 3), 4095, np.uint16)
    path = deep_color(tmp_path / "film.png", pixels)
    with pytest.raises(CorruptImageError, match="16-bit color or alpha with no value above 4095"):
        load_image(path, 4, 3)
    np.testing.assert_array_equal(load_image(deep_color(path, pixels * 16), 4, 3), 255)


def test_what_reading_changed_is_counted_and_is_no_problem(tmp_path):
    paths = [
        oriented(tmp_path / "1.png", 3),
        save(tmp_path / "2.png", np.full((4, 4), 4000, np.uint16)),
        save(tmp_path / "3.png", np.full((4, 4), 3000, np.uint16)),
        save(tmp_path / "4.png", np.zeros((4, 4), np.uint8)),
    ]
    records = [image_record(str(path), path.name) for path in paths]
    kept, problems = check_images(records, strict=True)
    assert kept == records
    assert not problems
    assert problems.noted() == (
        "2 stretched (12 bits in a 16-bit file), 1 turned upright (EXIF orientation)"
    )
    problems.merge(problems)
    assert problems.notes["turned upright (EXIF orientation)"] == 2


def truncated() -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()[:900]


@pytest.mark.parametrize("content", [b"", b"not an image", truncated(), None])
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
