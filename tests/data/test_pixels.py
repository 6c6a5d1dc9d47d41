"""Kinds of files that people have: what each becomes, and what is said about it."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from memjax.data.images import CorruptImageError, image_reading, load_image, read_image

NOISE = np.random.default_rng(0).integers(40, 256, (12, 16), dtype=np.uint8)
COLORS = np.random.default_rng(1).integers(40, 256, (12, 12, 3), dtype=np.uint8)


def notes_of(path):
    return list(image_reading(path).notes)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_what_is_transparent_lies_on_white(tmp_path, suffix):
    pixels = np.dstack([np.zeros((12, 12, 3), np.uint8), np.full((12, 12), 255, np.uint8)])
    pixels[:6, :, 3], pixels[6:9, :, 3] = 0, 51  # hidden black; a fifth of black
    path = tmp_path / f"logo.{suffix}"
    Image.fromarray(pixels).save(path, lossless=True, exact=True)
    for channels in (1, 3):
        found = load_image(path, 12, channels)
        assert found[:6].min() == 255
        assert np.abs(found[6:9].astype(int) - 204).max() <= 1
        assert found[9:].max() == 0
    assert notes_of(path) == ["laid on white (transparent)"]


def test_an_opaque_alpha_channel_changes_nothing(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([COLORS, np.full((12, 12), 255, np.uint8)])).save(tmp_path / "b.png")
    np.testing.assert_array_equal(
        load_image(tmp_path / "b.png", 12, 3), load_image(tmp_path / "a.png", 12, 3)
    )
    assert notes_of(tmp_path / "b.png") == []


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB"])
def test_transparency_of_every_mode(tmp_path, mode):
    path = tmp_path / "a.png"
    gray = np.full((4, 4), 90, np.uint8)
    gray[0] = 200
    if mode == "LA":
        Image.fromarray(np.dstack([gray, np.where(gray == 200, 0, 255).astype(np.uint8)])).save(
            path
        )
    elif mode == "P":
        image = Image.fromarray((gray == 200).astype(np.uint8)).convert("P")
        image.putpalette([90, 90, 90, 200, 200, 200])
        image.save(path, transparency=1)
    elif mode == "L":
        Image.fromarray(gray).save(path, transparency=200)
    else:
        Image.fromarray(np.dstack([gray] * 3)).save(path, transparency=(200, 200, 200))
    assert load_image(path, 4)[..., 0].tolist() == [[255] * 4, *[[90] * 4] * 3]
    assert notes_of(path) == ["laid on white (transparent)"]


def test_what_is_wholly_transparent_is_left_out(tmp_path):
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(CorruptImageError, match="wholly transparent: save it without its alpha"):
        load_image(tmp_path / "a.png", 4)


def test_floats_are_read_from_zero_to_one(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.tif")
    found, reading = read_image(tmp_path / "a.tif", 8)
    np.testing.assert_array_equal(found[..., 0], (values * 255).round())
    assert reading.bits == "float"
    assert reading.notes == ("read from floats, 0 black and 1 white",)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            np.linspace(-1000, 3000, 16, dtype=np.float32),
            "floats from -1000 to 3000, expected 0 to",
        ),
        (np.array([0, np.nan] * 8, np.float32), "floats from nan to nan, expected 0 to 1"),
        (np.array([0, 70_000] * 8, np.int32), "values from 0 to 70000, expected 0 to 65535"),
        (np.array([-5, 9] * 8, np.int32), "values from -5 to 9, expected 0 to 65535"),
    ],
)
def test_values_without_a_black_and_a_white_are_left_out(tmp_path, values, said):
    Image.fromarray(values.reshape(4, 4)).save(tmp_path / "scan.tif")
    with pytest.raises(CorruptImageError, match=said):
        load_image(tmp_path / "scan.tif", 4)


def white_is_zero(path, pixels, bits):
    """A TIFF with photometric interpretation 0, which Pillow does not write for 16 bits."""
    height, width = pixels.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 0), (273, 8 + 2 + 9 * 12 + 4),
            (277, 1), (278, height), (279, pixels.nbytes)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    path.write_bytes(head + pixels.tobytes())
    return path


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_tiff_whose_white_is_zero_is_no_negative(tmp_path, bits):
    shown = np.linspace(0, (1 << bits) - 1, 64).round().astype("<u2" if bits > 8 else "u1")
    stored = (shown.max() - shown).reshape(8, 8)
    found = load_image(white_is_zero(tmp_path / "a.tif", stored, 16 if bits > 8 else 8), 8)
    assert np.abs(found.ravel() - shown * (255 / shown.max())).max() <= 1
    if bits > 8:
        assert notes_of(tmp_path / "a.tif")[1:] == ["inverted (TIFF, white is zero)"]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, suffix):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (60, 120, 240)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert load_image(path, 8).max() == 60
    assert notes_of(path) == ["read from the first frame of an animation"]


def test_a_stack_of_pages_is_left_out_and_a_preview_is_not(tmp_path):
    page, small = Image.fromarray(NOISE), Image.fromarray(NOISE[::2, ::2])
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    page.save(tmp_path / "preview.tif", save_all=True, append_images=[small])
    with pytest.raises(CorruptImageError, match="3 pages of one size in one file: save each"):
        load_image(tmp_path / "stack.tif", 8)
    np.testing.assert_array_equal(load_image(tmp_path / "preview.tif", 12)[..., 0], NOISE[:, 2:14])


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(NOISE > 128).save(tmp_path / "a.png")
    found, reading = read_image(tmp_path / "a.png", 12)
    np.testing.assert_array_equal(found[..., 0], np.where(NOISE > 128, 255, 0)[:, 2:14])
    assert (reading.bits, reading.mode, reading.size) == ("1", "1", (16, 12))


def test_a_palette_is_looked_up(tmp_path):
    image = Image.fromarray(COLORS).quantize(200)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        load_image(tmp_path / "a.png", 12, 3), np.asarray(image.convert("RGB"))
    )


def test_cmyk_and_profiles_are_said(tmp_path):
    Image.fromarray(COLORS).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    assert notes_of(tmp_path / "print.jpg") == ["turned from CMYK into RGB without a color profile"]
    difference = load_image(tmp_path / "print.jpg", 12, 3).astype(int) - COLORS
    assert np.abs(difference).mean() < 8  # JPEG; inverted it is above 80
    for name, profile in (("sRGB", ImageCms.createProfile("sRGB")), ("LAB", None)):
        made = ImageCms.ImageCmsProfile(profile or ImageCms.createProfile("LAB"))
        Image.fromarray(COLORS).save(tmp_path / f"{name}.png", icc_profile=made.tobytes())
    assert notes_of(tmp_path / "sRGB.png") == []
    assert notes_of(tmp_path / "LAB.png") == ["read without its color profile, which is not sRGB"]


def test_texts_in_a_png_change_nothing(tmp_path):
    texts = PngImagePlugin.PngInfo()
    for name in ("dicom", "icc_profile", "exif", "parameters"):
        texts.add_text(name, "xy")
    Image.fromarray(NOISE).save(tmp_path / "a.png", pnginfo=texts)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 12)[..., 0], NOISE[:, 2:14])


def test_a_map_of_labels_is_nearly_black(tmp_path):
    Image.fromarray((NOISE // 32).astype(np.uint8)).save(tmp_path / "mask.png")
    assert notes_of(tmp_path / "mask.png") == ["nearly black (no value above 15 of 255)"]


def test_a_file_that_pillow_would_start_a_program_for_is_no_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(CorruptImageError, match="not an image"):
        load_image(tmp_path / "a.png", 8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
         "a Git LFS pointer, not the image: run git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page, not an image: download it anew"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which is not read: save it as JPEG or PNG"),
        (b"\xff\x0a\x7f\0", "JPEG XL, which is not read"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "not an image"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else_is_named_for_it(tmp_path, content, said):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(CorruptImageError, match=said):
        load_image(tmp_path / "a.jpg", 8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp", "jp2"])
def test_damage_anywhere_is_one_sentence_that_names_the_file(tmp_path, suffix):
    path, rng = tmp_path / f"a.{suffix}", np.random.default_rng(7)
    Image.fromarray(COLORS).save(path)
    good = path.read_bytes()
    for _ in range(60):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 4):
            bad[at] = int(rng.integers(256))
        path.write_bytes(bad[: int(rng.integers(1, len(bad) + 1))])
        said = ""
        try:
            load_image(path, 8)
        except CorruptImageError as error:
            said = f"{error} {error.reason}"
        assert not said or (str(path) in said and "\n" not in said)
