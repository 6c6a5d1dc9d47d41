"""Files that stand where weights or settings should be are named for what they are."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from memjax.interop import load
from memjax.interop.clip.tiny_tokenizer import tiny_tokenizer
from memjax.interop.clip.tokenizer import load_tokenizer
from memjax.interop.torch.archive import read_torch
from memjax.interop.weight_files import WeightFiles
from tests.interop.stable_diffusion.pipelines import assert_sentence, folder

POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:145a07e0f05ec5bbe6e2e9faf608bdb311caf708895cac8c8ed713c59864e1e8
size 3438167534
"""
PAGE = b"<!DOCTYPE html><html><head><title>Login</title></head><body>" + b"x" * 2000
WHOLE = save({"a": np.zeros(1000, np.float32)})
KINDS = {
    "pointer": (POINTER, "is a pointer of Git LFS, not the file .* `git lfs pull`"),
    "page": (PAGE, "is a web page: the address asked for a login .* `hf download"),
    "page after spaces": (b"\xef\xbb\xbf\n\n <html lang=en>" + b" " * 2000, "is a web page"),
    "message": (b'{"error":"Unauthorized"}', 'is the text \'{"error":"Unauthorized"}\', perhaps'),
    "nothing": (b"", "is damaged: it is empty; fetch it again"),
    "zeros": (b"\0" * 4000, "is damaged: it begins with zeros, its download did not end"),
    "cut off": (
        WHOLE[:-100],
        r"is damaged: it is cut off, with 3,9\d\d bytes of 4,0\d\d; fetch it again",
    ),
    "cut off in its header": (WHOLE[:12], "it is cut off, with 12 bytes of"),
    "pickle": (b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl" + b"\0" * 99, "is a pickled PyT"),
    "older pickle": (b"\x80\x02}q\x00" + b"\0" * 99, "is a pickled PyTorch file"),
    "zip": (b"PK\x03\x04" + b"\0" * 26 + b"model.safetensors", "is a zip archive; unpack it"),
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 99, "is a GGUF file of quantized weights"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x05" + b"\1" * 99, "is an ONNX graph"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 99, "is an archive"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_weights_is_named(tmp_path, kind):
    data, said = KINDS[kind]
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=said) as caught:
        WeightFiles([file])
    assert "damaged (" not in assert_sentence(caught.value)


def test_other_damage_is_still_damage(tmp_path):
    file = tmp_path / "model.safetensors"
    for data in (struct.pack("<Q", 10) + b"{" + b"\xff" * 2000, WHOLE + b"\0", b"\xff" * 2000):
        file.write_bytes(data)
        with pytest.raises(ValueError, match="is damaged"):
            WeightFiles([file])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.onnx", "is an ONNX graph"),
        ("model.gguf", "is a GGUF file"),
        ("model.msgpack", "Flax's weights"),
        ("model.safetensors.crdownload", "is a download that has not ended"),
        ("model.safetensors.part", "is a download that has not ended"),
        ("model.txt", "is not a .safetensors file"),
    ],
)
def test_other_endings_of_names(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"\1" * 2000)
    with pytest.raises(ValueError, match=said) as caught:
        load(tmp_path / name)
    assert_sentence(caught.value)


@pytest.mark.parametrize("data", [POINTER, PAGE], ids=["pointer", "page"])
def test_settings_and_older_weights_too(tmp_path, data):
    model = folder(tmp_path / "model")
    for name in ("unet/config.json", "tokenizer/merges.txt", "tokenizer/vocab.json"):
        kept = (model / name).read_bytes()
        (model / name).write_bytes(data)
        with pytest.raises(
            ValueError, match=f"{name} is a (pointer of Git LFS|web page)"
        ) as caught:
            load(model)
        assert_sentence(caught.value)
        (model / name).write_bytes(kept)
    (tmp_path / "sscd.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"sscd\.pt is a (pointer of Git LFS|web page)"):
        read_torch(tmp_path / "sscd.pt")


def test_settings_with_an_error_are_no_message(tmp_path):
    tiny_tokenizer().save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_tokenizer(tmp_path)
