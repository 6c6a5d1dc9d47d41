"""DICOM as hospitals hold it; every file is written by pydicom."""

import sys

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from memjax.data.images import CorruptImageError, load_image, read_image
from memjax.data.readers.folder import read_folder

RAMP = np.linspace(100, 3100, 64).round().astype(np.uint16).reshape(8, 8)


def write(path, pixels=RAMP, kind="MONOCHROME2", bits=12, syntax=None, **fields):
    """A small true file of 16 bits a pixel; ``fields`` are DICOM's own keywords."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    data.PatientName = "Doe^Jane"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, kind
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    if syntax == RLELossless:
        data.compress(syntax)
    elif syntax is not None:
        data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, enforce_file_format=True)
    return path


def share(values, least, most):
    return (np.clip((values - least) / (most - least), 0, 1) * 255).round()


@pytest.mark.parametrize("syntax", [None, RLELossless, DeflatedExplicitVRLittleEndian])
def test_without_a_window_the_values_span_black_to_white(tmp_path, syntax):
    path = write(tmp_path / "film.dcm", syntax=syntax)
    if syntax == DeflatedExplicitVRLittleEndian:  # unpacked by pydicom without a bound
        with pytest.raises(CorruptImageError, match=r"deflated DICOM is not read: unpack it"):
            load_image(path, 8)
        return
    found, reading = read_image(path, 8)
    np.testing.assert_array_equal(found[..., 0], share(RAMP.astype(float), 100, 3100))
    assert reading.bits == "12"
    assert reading.notes == ("read from DICOM, least value to largest",)


def test_rescale_and_the_first_window(tmp_path):
    fields = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": [500.5, 9],
              "WindowWidth": [1001, 9]}  # fmt: skip
    found, reading = read_image(write(tmp_path / "film.dcm", **fields), 8)
    np.testing.assert_array_equal(found[..., 0], share(RAMP * 2.0 - 1024, 0, 1000))
    assert reading.notes == ("read from DICOM, windowed",)


def test_the_exact_and_the_sigmoid_window(tmp_path):
    fields = {"WindowCenter": 1000, "WindowWidth": 800}
    exact = write(tmp_path / "a.dcm", VOILUTFunction="LINEAR_EXACT", **fields)
    np.testing.assert_array_equal(
        load_image(exact, 8)[..., 0], share(RAMP.astype(float), 600, 1400)
    )
    sigmoid = write(tmp_path / "b.dcm", VOILUTFunction="SIGMOID", **fields)
    expected = 255 / (1 + np.exp(-4 * (RAMP.astype(float) - 1000) / 800))
    assert np.abs(load_image(sigmoid, 8)[..., 0] - expected).max() <= 0.5


@pytest.mark.parametrize("center", [-50, 9000])
def test_a_window_that_shows_nothing_is_passed_over(tmp_path, center):
    path = write(tmp_path / "a.dcm", WindowCenter=center, WindowWidth=100)
    found, reading = read_image(path, 8)
    np.testing.assert_array_equal(found[..., 0], share(RAMP.astype(float), 100, 3100))
    assert reading.notes == ("read from DICOM, whose window shows nothing, least value to largest",)


def test_a_table_instead_of_a_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = (np.arange(4096)[::-1] * 16).astype("<u2").tobytes()
    found = load_image(write(tmp_path / "a.dcm", VOILUTSequence=[table]), 8)[..., 0]
    assert np.abs(found - (4095 - RAMP.astype(float)) * 16 / 65535 * 255).max() <= 0.5


def test_monochrome1_is_inverted_and_counted_and_padding_is_black(tmp_path):
    film = RAMP.copy()
    film[0] = 4000
    path = write(tmp_path / "film.dcm", film, "MONOCHROME1", PixelPaddingValue=4000)
    found, reading = read_image(path, 8)
    assert not found[0].any()
    expected = 255 - share(film[1:].astype(float), film[1:].min(), film[1:].max())
    assert np.abs(found[1:, :, 0] - expected).max() <= 1  # halves round to even
    assert reading.notes[1:] == ("inverted (DICOM, MONOCHROME1)",)


def test_signed_pixels(tmp_path):
    values = (RAMP.astype(np.int16) - 1000) // 2
    found = load_image(write(tmp_path / "ct.dcm", values), 8)[..., 0]
    np.testing.assert_array_equal(found, share(values.astype(float), values.min(), values.max()))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"NumberOfFrames": 30}, r"30 frames in one DICOM file: save each as an image"),
        ({"syntax": JPEGLSLossless}, r"JPEG-LS Lossless.*pip install pylibjpeg pylibjpeg-libjpeg"),
        ({"kind": "YBR_WHATEVER"}, r"film\.dcm cannot be decoded \("),
        ({"Rows": 60_000, "Columns": 60_000}, r"60000×60000 pixels, more than 40,000,000"),
        ({"PixelData": b"\0\0"}, r"film\.dcm cannot be decoded \(.*less than expected"),
    ],
)
def test_what_is_no_single_image_is_left_out_with_the_way_out(tmp_path, fields, said):
    if "syntax" in fields:
        from pydicom.encaps import encapsulate

        fields = {**fields, "PixelData": encapsulate([b"\xff\xd8\xff\xf7\0\0"])}
    with pytest.raises(CorruptImageError, match=said) as caught:
        load_image(write(tmp_path / "film.dcm", **fields), 8)
    assert "\n" not in str(caught.value)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "film.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(CorruptImageError, match=r"DICOM needs pydicom: pip install 'memjax\[dicom"):
        load_image(path, 8)


def test_a_folder_as_an_archive_writes_it(tmp_path):
    """Files without a suffix or named by their UID are found by their mark; reports are named."""
    (tmp_path / "CT").mkdir()
    write(tmp_path / "CT" / "IM0001")
    write(tmp_path / "CT" / "1.2.840.113619.2.55")
    write(tmp_path / "CT" / "film.DCM")
    write(tmp_path / "DICOMDIR")
    (tmp_path / "CT" / "README").write_text("exported")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "CT" / "1.png")
    train, _, problems = read_folder(tmp_path)
    assert [r.patient for r in train] == [
        f"CT/{name}" for name in ("1.2.840.113619.2.55", "1.png", "IM0001", "film.DCM")
    ]
    assert not problems
    assert problems.unread_examples == {"without a suffix": ["CT/README", "DICOMDIR"]}
    assert not any("Doe" in str(record) for record in train)
