"""Models made to harm or to confuse are refused in one sentence; nothing runs or is written."""

import json
import os
import pathlib
import struct

import jax
import numpy as np
import pytest

from memjax.interop import load
from memjax.interop.json_files import read_json
from tests.interop.stable_diffusion.pipelines import (
    WEIGHTS,
    assert_sentence,
    change,
    folder,
    put,
    tensors,
)

UNET, VAE, TEXT = (WEIGHTS[part] for part in ("unet", "vae", "text_encoder"))
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def set_json(name: str, **settings):
    return lambda model: change(model / name, **settings)


def write(name: str, data: bytes):
    return lambda model: (model / name).write_bytes(data)


def header(model: pathlib.Path, change_header) -> None:
    """Rewrites the header of the U-Net's file; ``change_header`` gets and gives a dict."""
    data = (model / UNET).read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = json.dumps(change_header(json.loads(data[8 : 8 + size]))).encode()
    (model / UNET).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def tensor(name: str, **fields):
    return lambda model: header(model, lambda head: head | {name: head[name] | fields})


def cut(size: int):
    return lambda model: (model / UNET).write_bytes((model / UNET).read_bytes()[:size])


def declares(size: int):
    data = struct.pack("<Q", size)
    return lambda model: (model / UNET).write_bytes(data + (model / UNET).read_bytes()[8:])


def overlaps(model: pathlib.Path) -> None:
    def change_header(head):
        names = [name for name in head if name != "__metadata__"]
        small = {name: head[name] for name in names if len(head[name]["shape"]) == 1}
        (_, a), (second, b) = list(small.items())[:2]
        return head | {second: b | {"data_offsets": a["data_offsets"]}}

    header(model, change_header)


def shards(*names: object, keep: bool = False):
    def damage(model: pathlib.Path) -> None:
        if not keep:
            (model / UNET).unlink()
        listed = {f"tensor{k}": name for k, name in enumerate(names)}
        (model / INDEX).write_text(json.dumps({"weight_map": listed}))

    return damage


def outside(model: pathlib.Path, name: str) -> pathlib.Path:
    """Moves a file out of the model and leaves a link to it."""
    target = model.parent / "elsewhere" / pathlib.Path(name).name
    target.parent.mkdir(exist_ok=True)
    os.replace(model / name, target)
    (model / name).symlink_to(target)
    return target


def link(name: str):
    return lambda model: outside(model, name)


def link_to_etc(name: str):
    def damage(model: pathlib.Path) -> None:
        (model / name).unlink()
        (model / name).symlink_to("/etc/passwd")

    return damage


def becomes_folder(model: pathlib.Path) -> None:
    (model / UNET).unlink()
    (model / UNET).mkdir()


def becomes_pipe(model: pathlib.Path) -> None:
    (model / UNET).unlink()
    os.mkfifo(model / UNET)


def parts(**changes):
    def damage(model: pathlib.Path) -> None:
        change(model / "model_index.json", **changes)

    return damage


def narrow_text(model: pathlib.Path) -> None:
    change(model / "text_encoder/config.json", hidden_size=16)


def vocabulary(change_vocabulary):
    def damage(model: pathlib.Path) -> None:
        path = model / "tokenizer/vocab.json"
        path.write_text(json.dumps(change_vocabulary(json.loads(path.read_text()))))

    return damage


def one_file(change_file):
    """A tokenizer of the newer layout alone, changed."""

    def damage(model: pathlib.Path) -> None:
        (model / "tokenizer/vocab.json").unlink()
        path = model / "tokenizer/tokenizer.json"
        path.write_text(json.dumps(change_file(json.loads(path.read_text()))))

    return damage


NESTED = b'{"a":' * 200_000 + b"1" + b"}" * 200_000
HOSTILE = {
    # The weights' file itself.
    "empty": (cut(0), "is damaged"),
    "cut in the header": (cut(100), "is damaged"),
    "cut in the data": (cut(-4000), "is damaged"),
    "a header of 2^63 bytes": (declares(2**63), "is damaged"),
    "a header of all the file": (declares(2**24), "is damaged"),
    "a header that is no JSON": (write(UNET, struct.pack("<Q", 8) + b"{{{{{{{{"), "is damaged"),
    "a page of the web": (write(UNET, b"<html>404</html>"), "is a web page"),
    "a pickle": (
        write(UNET, b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touchR."),
        "is a pickled PyTorch file",
    ),
    "overlapping tensors": (overlaps, "is damaged"),
    "offsets beyond the end": (tensor("conv_in.bias", data_offsets=[0, 2**40]), "is damaged"),
    "offsets backwards": (tensor("conv_in.bias", data_offsets=[128, 0]), "is damaged"),
    "negative offsets": (tensor("conv_in.bias", data_offsets=[-128, 0]), "is damaged"),
    "an astronomic shape": (tensor("conv_in.bias", shape=[2**62, 2**62]), "is damaged"),
    "a shape of other size": (tensor("conv_in.bias", shape=[7]), "is damaged"),
    "an unknown dtype": (tensor("conv_in.bias", dtype="OBJECT"), "is damaged"),
    "a folder": (becomes_folder, "is not a file"),
    "a pipe": (becomes_pipe, "is not a file"),
    "missing": (lambda model: (model / UNET).unlink(), "has no diffusion_pytorch_model"),
    # Links out of the folder.
    "weights are a link": (link(VAE), "vae.*leads out of the model's folder"),
    "settings are a link": (link("unet/config.json"), "unet/config.json leads out"),
    "words are a link": (link_to_etc("tokenizer/merges.txt"), "merges.txt leads out"),
    "the index is a link": (link("model_index.json"), "model_index.json leads out"),
    # Shards.
    "a shard above": (shards("../vae/diffusion_pytorch_model.safetensors"), "as a shard"),
    "a shard below": (shards("x/y.safetensors"), "as a shard"),
    "an absolute shard": (shards("/etc/passwd"), "as a shard"),
    "a shard of Windows": (shards("..\\x.safetensors"), "as a shard"),
    "a shard with a NUL": (shards("a\0.safetensors"), "as a shard"),
    "a shard named ...": (shards("...safetensors"), "as a shard"),
    "a pickled shard": (shards("diffusion_pytorch_model-00001.bin"), "as a shard"),
    "a number as a shard": (shards(7), "lists 7 as a shard"),
    "a shard that is not there": (shards("x.safetensors"), "does not exist"),
    "no shards": (shards(), "lists no shards"),
    "too many shards": (shards(*[f"{k}.safetensors" for k in range(2000)]), "lists 2000 shards"),
    # JSON.
    "no JSON": (write("unet/config.json", b"{"), "is not valid JSON"),
    "no object": (write("unet/config.json", b"[1]"), "holds a JSON list"),
    "not text": (write("unet/config.json", b"\xff\xfe\x00{"), "is not valid JSON"),
    "NaN": (write("vae/config.json", b'{"scaling_factor": NaN}'), "NaN is not a number"),
    "infinite": (write("vae/config.json", b'{"scaling_factor": 1e999}'), "1e999 is too large"),
    "an endless number": (write("vae/config.json", b'{"a": ' + b"9" * 9999 + b"}"), "valid JSON"),
    "endless nesting": (write("scheduler/scheduler_config.json", NESTED), "is not valid JSON"),
    "a huge number": (set_json("unet/config.json", in_channels=10**30), "in_channels=1000"),
    "endless layers": (set_json("unet/config.json", layers_per_block=10**9), "layers_per_block="),
    "a control sequence": (set_json("unet/config.json", act_fn="\x1b[2J\n"), "act_fn="),
    # Parts that do not belong together.
    "SDXL": (parts(_class_name="StableDiffusionXLPipeline"), "XLPipeline', which is not supported"),
    "Flux": (parts(_class_name="FluxPipeline"), "'FluxPipeline', which is not supported"),
    "no class": (parts(_class_name=["x"]), "which is not supported"),
    "a class of one's own": (parts(unet=["../../evil", "Evil"]), "unet="),
    "another text encoder": (parts(text_encoder=["transformers", "T5EncoderModel"]), "text_enc"),
    "another tokenizer": (parts(tokenizer=["evil", "AutoTokenizer"]), "tokenizer="),
    "a part that is null": (parts(vae=[None, None]), "vae="),
    "a wider U-Net": (set_json("unet/config.json", block_out_channels=[64, 64]), "misshapen"),
    "a deeper U-Net": (set_json("unet/config.json", layers_per_block=2), "it lacks"),
    "a wider autoencoder": (set_json("vae/config.json", block_out_channels=[32, 32]), "misshapen"),
    "latents that do not fit": (set_json("vae/config.json", latent_channels=8), "are 4 and 8"),
    "text that does not fit": (narrow_text, "hidden_size are 32 and 16"),
    "a longer prompt": (set_json("tokenizer/tokenizer_config.json", model_max_length=99), "99 to"),
    "a latent that does not halve": (set_json("unet/config.json", sample_size=7), "divisible by 2"),
    "a latent of text": (set_json("unet/config.json", sample_size="64"), "sample_size='64'"),
    # Tokenizers.
    "a number that is no id": (vocabulary(lambda v: v | {"a": 1.5}), "does not number its"),
    "an id left out": (vocabulary(lambda v: v | {"a": 10**9}), "does not number its pieces"),
    "more words than rows": (
        vocabulary(lambda v: v | {f"word{k}": len(v) + k for k in range(9)}),
        "ids and the text encoder",
    ),
    "a vocabulary without letters": (vocabulary(lambda v: {"a": 0}), "is damaged|adds tokens"),
    "merges of nothing": (write("tokenizer/merges.txt", b"#version\nab\n"), "no pair of pieces"),
    "merges of strangers": (write("tokenizer/merges.txt", b"#version\nqqq zzz\n"), "is damaged"),
    "merges that are no text": (write("tokenizer/merges.txt", b"\xff\xfe"), "not text in UTF-8"),
    "a tokenizer of another kind": (
        one_file(lambda f: f | {"model": {"type": "WordPiece"}}),
        "describes no byte-pair tokenizer",
    ),
    "words that end otherwise": (
        one_file(lambda f: f | {"model": f["model"] | {"end_of_word_suffix": None}}),
        "ends words with",
    ),
    "no length": (
        set_json("tokenizer/tokenizer_config.json", model_max_length="77"),
        "model_max_length",
    ),
    "no tokenizer": (
        lambda model: os.rename(model / "tokenizer", model / "words"),
        "There is no file .*tokenizer|no tokenizer folder",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_models_are_refused(tmp_path, monkeypatch, case):
    model = folder(tmp_path / "m")
    damage, message = HOSTILE[case]
    damage(model)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        load(model)
    assert_sentence(caught.value)
    assert sorted(tmp_path.rglob("*")) == before  # nothing ran, nothing was unpacked or fetched


def test_every_cut_and_many_flips_are_refused_or_harmless(tmp_path):
    """A flipped bit in the data is told by the sha256; in the header by what no longer fits."""
    model = folder(tmp_path / "m", fingerprints=True)
    path = model / TEXT
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(30):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        with pytest.raises(ValueError, match=r"text_encoder/model\.safetensors is not the one"):
            load(model)
    (model / "memjax.json").unlink()
    size = int.from_bytes(whole[:8], "little")
    for _ in range(30):
        data = bytearray(whole)
        data[rng.integers(8 + size)] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        try:
            load(model)
        except ValueError as error:
            assert_sentence(error)
    for cut_size in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:cut_size])
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            load(model)


def test_names_that_a_configuration_gives_are_not_opened(tmp_path, monkeypatch):
    """Paths, code and templates in a tokenizer's settings are data that nobody follows."""
    model = folder(tmp_path / "m")
    opened = []
    monkeypatch.setattr("builtins.open", _watched(opened))
    change(
        model / "tokenizer/tokenizer_config.json",
        vocab_file="/etc/passwd",
        merges_file="../../../etc/passwd",
        tokenizer_file="/etc/passwd",
        name_or_path="evil/model",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]},
    )
    (model / "tokenizer/evil.py").write_text("raise SystemExit('executed')")
    change(model / "model_index.json", scheduler=["evil", "Evil"])
    load(model)
    assert not [name for name in opened if "passwd" in str(name) or "evil" in str(name)]


def _watched(opened):
    real = open

    def watch(file, *args, **kwargs):
        opened.append(file)
        return real(file, *args, **kwargs)

    return watch


def test_links_that_stay_are_followed(tmp_path):
    """Inside the folder, and into the blobs of a hub's cache."""
    model = folder(tmp_path / "m")
    plain = load(model)
    os.replace(model / VAE, model / "vae/weights")
    (model / VAE).symlink_to("weights")
    (tmp_path / "alias").symlink_to(model)
    for ours, theirs in zip(
        jax.tree.leaves(load(tmp_path / "alias").vae_params),
        jax.tree.leaves(plain.vae_params),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_json_file_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(2**40)  # a hole, no bytes on disk
    with pytest.raises(ValueError, match=r"has 1099511627776 bytes, expected at most") as caught:
        read_json(path)
    assert_sentence(caught.value)


def test_a_target_is_not_written_through_a_hostile_model(tmp_path):
    """Names from the model's files are no part of any path that is written."""
    from memjax.interop import save

    model = folder(tmp_path / "m")
    change(model / "model_index.json", evil=["../../x", "Y"], scheduler=["../../x", "../y"])
    change(model / "unet/config.json", _name_or_path="../../../evil")
    unet = tensors(model, "unet")
    put(model, "unet", unet)
    save(load(model), tmp_path / "out" / "copy")
    assert sorted(os.listdir(tmp_path)) == ["m", "out"]
    assert os.listdir(tmp_path / "out") == ["copy"]
    written = json.loads((tmp_path / "out/copy/model_index.json").read_text())
    assert "evil" not in written
    assert written["scheduler"] == ["diffusers", "DDIMScheduler"]
