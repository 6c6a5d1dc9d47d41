"""Diffusers folders of every age and layout give the same pipeline; what does not fit is named."""

import itertools
import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from memjax.interop import load
from memjax.interop import weight_files as weight_files_module
from memjax.interop.clip.tiny_tokenizer import tiny_tokenizer
from tests.interop.stable_diffusion.pipelines import (
    WEIGHTS,
    assert_same,
    assert_sentence,
    change,
    folder,
    put,
    tensors,
    tiny,
)


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_pad_token_that_is_not_the_text_encoders_is_told(tmp_path, kind, converted):
    model = folder(tmp_path / "m", kind, fingerprints=converted)
    assert load(model).info["notes"] == []
    tiny_tokenizer(pad_token="<|endoftext|>").save(model / "tokenizer")
    notes = load(model).info["notes"]
    assert len(notes) == (kind == "sd2")
    way = "convert the original model again." if converted else "give the tokenizer of a Stable Di"
    assert all("expected 0 for the text encoder" in note and way in note for note in notes)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_plain_folder(tmp_path, kind):
    expected, model = tiny(kind), folder(tmp_path / "m", kind)
    found = load(model)
    assert_same(found.params, expected.params)
    assert (found.unet, found.vae, found.text) == (expected.unet, expected.vae, expected.text)
    assert (found.spec, found.prediction) == (expected.spec, {"sd1": "eps", "sd2": "v"}[kind])
    assert (found.sample_shape, found.sampling) == ((16, 16, 4), expected.sampling)
    assert found.info["kind"] == "diffusers folder"
    assert found.info["weights"].keys() == set(WEIGHTS.values())
    assert found.dtype == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_are_rounded_once(tmp_path, dtype):
    found = load(folder(tmp_path / "m"), dtype=dtype)
    rounded = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[dtype]
    assert_same(
        found.params, jax.tree.map(lambda leaf: np.asarray(leaf).astype(rounded), tiny().params)
    )
    assert found.unet.config.dtype == ("bfloat16" if dtype == "bfloat16" else "float32")
    assert found.dtype == dtype


def renamed(model: pathlib.Path, rename) -> None:
    for part in WEIGHTS:
        put(model, part, {rename(name): array for name, array in tensors(model, part).items()})


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_vae(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    for ours, theirs in OLD.items():
        if ".attentions.0." in name and f".{ours}." in name:
            array = array[:, :, None, None] if array.ndim == 2 else array
            return name.replace(f".{ours}.", f".{theirs}."), array
    return name, array


def test_older_names(tmp_path):
    """No ``text_model.``, stored positions, the autoencoder's attention as old convolutions."""
    model = folder(tmp_path / "m")
    text = tensors(model, "text_encoder")
    assert all(name.startswith("text_model.") for name in text)
    text = {name.removeprefix("text_model."): array for name, array in text.items()}
    put(model, "text_encoder", text | {"embeddings.position_ids": np.arange(77)[None]})
    vae = dict(old_vae(name, array) for name, array in tensors(model, "vae").items())
    assert sum(".query." in name for name in vae) == 4
    put(model, "vae", vae)
    assert_same(load(model).params, tiny().params)


def test_prefixed_positions_are_dropped(tmp_path):
    model = folder(tmp_path / "m")
    positions = {"text_model.embeddings.position_ids": np.arange(77)[None]}
    put(model, "text_encoder", tensors(model, "text_encoder") | positions)
    assert_same(load(model).text_params, tiny().text_params)


@pytest.mark.parametrize("linear", [False, True])
def test_projections_are_matrices_or_convolutions(tmp_path, linear):
    """Whatever the settings say: in NHWC the two are the same product."""
    model = folder(tmp_path / "m", "sd2" if linear else "sd1")
    unet = tensors(model, "unet")
    axes = unet["mid_block.attentions.0.proj_in.weight"].ndim
    assert axes == (2 if linear else 4)
    change(model / "unet/config.json", use_linear_projection=not linear)
    assert_same(load(model).unet_params, tiny("sd2" if linear else "sd1").unet_params)


def test_without_the_optional_convolutions(tmp_path):
    model = folder(tmp_path / "m")
    vae = {name: a for name, a in tensors(model, "vae").items() if "quant_conv" not in name}
    put(model, "vae", vae)
    with pytest.raises(ValueError, match=r"lacks post_quant_conv\.bias, .*quant_conv\.weight"):
        load(model)
    change(model / "vae/config.json", use_quant_conv=False, use_post_quant_conv=False)
    assert "quant_conv" not in load(model).vae_params


def shard(model: pathlib.Path, part: str, count: int = 3, mark: str = "") -> pathlib.Path:
    """Cuts a part's weights into shards with an index, and removes the single file."""
    weights = tensors(model, part)
    home, stem = (model / WEIGHTS[part]).parent, pathlib.Path(WEIGHTS[part]).stem
    listed = {}
    for k in range(count):
        name = f"{stem}{mark}-{k + 1:05d}-of-{count:05d}.safetensors"
        chosen = {key: weights[key] for key in sorted(weights)[k::count]}
        save_file(chosen, home / name)
        listed |= dict.fromkeys(chosen, name)
    (model / WEIGHTS[part]).unlink()
    index = home / f"{stem}.safetensors.index{mark}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": listed}))
    return index


def test_shards(tmp_path):
    model = folder(tmp_path / "m")
    for part in WEIGHTS:
        shard(model, part)
    found = load(model)
    assert_same(found.params, tiny().params)
    assert len(found.info["weights"]) == 9


def test_a_file_is_closed_and_opened_again(tmp_path, monkeypatch):
    opened = []
    real = weight_files_module.safe_open
    monkeypatch.setattr(weight_files_module, "REOPEN_BYTES", 100_000)
    monkeypatch.setattr(
        weight_files_module, "safe_open", lambda f, **k: opened.append(f) or real(f, **k)
    )
    assert_same(load(folder(tmp_path / "m")).params, tiny().params)
    assert len(opened) > 20  # 5 MB in pieces of about 100 kB


def variant_of(model: pathlib.Path, parts=tuple(WEIGHTS), keep: bool = False) -> None:
    """Writes float16 variants of some parts."""
    for part in parts:
        halves = {k: a.astype(np.float16) for k, a in tensors(model, part).items()}
        path = model / WEIGHTS[part]
        save_file(halves, path.with_suffix(".fp16.safetensors"))
        if not keep:
            path.unlink()


def test_a_variant(tmp_path):
    model = folder(tmp_path / "m")
    variant_of(model, keep=True)
    halves = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), tiny().params)
    found = load(model, variant="fp16")
    assert_same(found.params, jax.tree.map(lambda leaf: leaf.astype(np.float32), halves))
    assert found.info["variant"] == "fp16"
    assert found.info["notes"] == []
    assert_same(load(model, variant="fp16", dtype="float16").params, halves)
    assert_same(load(model).params, tiny().params)


def test_a_sharded_variant(tmp_path):
    model = folder(tmp_path / "m")
    shard(model, "unet", mark=".fp16")
    assert_same(load(model, variant="fp16").params, tiny().params)
    with pytest.raises(ValueError, match=r"only the variants fp16; choose one with variant='fp16'"):
        load(model)


def test_only_a_variant_says_the_way_out(tmp_path):
    model = folder(tmp_path / "m")
    variant_of(model)
    with pytest.raises(ValueError, match=r"only the variants fp16; .*--variant=fp16") as caught:
        load(model)
    assert_sentence(caught.value)


def test_a_part_without_the_variant_gives_its_plain_files(tmp_path):
    model = folder(tmp_path / "m")
    variant_of(model, ("unet", "vae"))
    found = load(model, variant="fp16")
    assert_same(found.text_params, tiny().text_params)
    assert found.info["notes"] == ["No fp16 files for text_encoder: plain ones were read."]


@pytest.mark.parametrize("part", WEIGHTS)
def test_every_key_that_does_not_fit_is_listed(tmp_path, part):
    model = folder(tmp_path / "m")
    weights = tensors(model, part)
    names = sorted(weights)
    lost, bent, odd = names[2:5], names[0], names[1]
    for name in lost:
        del weights[name]
    weights[bent] = weights[bent][..., :-1]
    weights[odd] = weights[odd].astype(np.int32)
    weights["visitor.weight"] = weights["visitor.bias"] = np.zeros(3, np.float32)
    put(model, part, weights)
    with pytest.raises(ValueError, match="are not those of the") as caught:
        load(model)
    message = assert_sentence(caught.value)
    short = [name.removeprefix("text_model.") for name in (*lost, bent, odd)]
    lacks, besides, misshapen, dtypes, _ = message.split("; ")
    assert sorted(lacks.split("it lacks ")[1].split(", ")) == sorted(short[:3])
    assert besides == "it has besides visitor.bias, visitor.weight"
    assert misshapen.startswith(f"it has misshapen {short[3]} ")
    assert dtypes == f"it has in a dtype that weights do not have {short[4]} I32"


def test_a_key_under_two_names(tmp_path):
    model = folder(tmp_path / "m")
    text = tensors(model, "text_encoder")
    name = "text_model.final_layer_norm.bias"
    put(model, "text_encoder", text | {name.removeprefix("text_model."): text[name]})
    with pytest.raises(ValueError, match=r"it has besides (text_model\.)?final_layer_norm\.bias;"):
        load(model)


def test_long_lists_are_counted(tmp_path):
    model = folder(tmp_path / "m")
    weights = tensors(model, "unet")
    put(model, "unet", {"conv_in.weight": weights["conv_in.weight"]})
    with pytest.raises(ValueError, match=f"and {len(weights) - 1 - 12} more;") as caught:
        load(model)
    assert_sentence(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path, value):
    model = folder(tmp_path / "m")
    weights = tensors(model, "vae")
    weights["encoder.conv_in.weight"][0, 0, 1, 1] = value
    put(model, "vae", weights)
    with pytest.raises(ValueError, match=r"infinite, .*: encoder\.conv_in\.weight; fetch"):
        load(model)


def test_values_too_large_for_the_dtype(tmp_path):
    model = folder(tmp_path / "m")
    weights = tensors(model, "unet")
    weights["conv_out.bias"][1] = 1e5
    put(model, "unet", weights)
    assert float(load(model, dtype="bfloat16").unet_params["conv_out"]["bias"][1]) > 9e4
    with pytest.raises(ValueError, match=r"too large for float16: conv_out\.bias;"):
        load(model, dtype="float16")


def test_progress_counts_all_bytes(tmp_path):
    told = []
    load(folder(tmp_path / "m"), progress=lambda done, total: told.append((done, total)))
    sizes = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny().params))
    assert told[-1] == (sizes, sizes)
    assert all(a[0] < b[0] for a, b in itertools.pairwise(told))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "dtype is 'float64', expected one of float32, bfloat16, float16"),
        ({"variant": "../x"}, "variant is '../x', expected a part of a file name"),
        ({"variant": "fp16\n"}, "expected a part of a file name"),
        ({"revision": "main"}, "revision was given for .*, which is a folder: leave it out"),
        ({"tokenizer": "t", "prediction": "v"}, "tokenizer and prediction was given for"),
    ],
)
def test_options_that_do_not_apply(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(folder(tmp_path / "m"), **options)


def test_nothing_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nothing", "a/b/c", "model.safetensors", "a/model.ckpt"):
        with pytest.raises(ValueError, match=f"There is no folder or file {name};"):
            load(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no model_index\.json; expected a Stable Diffusion"):
        load("empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"notes\.txt is not a \.safetensors file"):
        load("notes.txt")


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.pth"])
def test_pickled_files_are_not_opened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(ValueError, match=r"pickled.*not opened; .*from_single_file\('") as caught:
        load(path)
    assert_sentence(caught.value)


def test_a_folder_of_pickled_weights(tmp_path):
    model = folder(tmp_path / "m")
    path = model / WEIGHTS["unet"]
    shutil.move(path, path.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"pickled.*use_safetensors=False") as caught:
        load(model)
    assert_sentence(caught.value)
