"""CLIP's towers against transformers', float32, random weights, in every layout of the files."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from memjax.interop.clip.layouts import IGNORED, fill_towers, transformers_layout
from memjax.interop.clip.load import load_clip
from memjax.interop.weight_files import WeightFiles
from memjax.models.clip.text import CLIPText
from memjax.models.clip.vision import CLIPVision
from tests.interop.clip.clip_folders import CAPTIONS, TEXT, VISION, write_tokenizer
from tests.models.clip.clip_cases import TEXTS, VISIONS, ids, pictures

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
# torch and transformers warn about their own deprecations.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
TOLERANCE = 2e-5  # float32 rounding through a few layers; measured below 2e-6


def relative(actual, expected) -> float:
    expected = np.asarray(expected.detach())
    assert expected.std(axis=0).max() > 1e-3  # the examples are told apart
    return float(np.abs(np.asarray(actual) - expected).max() / np.sqrt(np.mean(expected**2)))


def filled(net, tower: str, module, folder):
    """Returns the network's weights as a Flax tree, through a file."""
    start = "" if any(k.startswith(f"{tower}_model.") for k in net.state_dict()) else "_model."
    state = {
        f"{tower}{start}{key}" if start else key: np.ascontiguousarray(value.numpy())
        for key, value in net.state_dict().items()
    }
    save_file(state, folder / "model.safetensors")
    files = WeightFiles([folder / "model.safetensors"])
    return fill_towers(folder, {tower: module}, files, transformers_layout, IGNORED)[tower]


@pytest.mark.parametrize("name", TEXTS)
def test_text_tower_equals_transformers(name, tmp_path):
    from tests.parity.torch_clip import text_tower

    net, module = text_tower(TEXTS[name]), CLIPText(TEXTS[name])
    params = filled(net, "text", module, tmp_path)
    actual = jax.jit(module.apply)({"params": params}, ids())
    with torch.no_grad():
        bare = getattr(net, "text_model", net)
        expected = bare(torch.from_numpy(ids()).long())
        assert relative(actual.hidden, expected.last_hidden_state) < TOLERANCE
        assert relative(actual.pooled, expected.pooler_output) < TOLERANCE
        if TEXTS[name].projection_dim is None:
            assert actual.projected is None
        else:
            expected = net(torch.from_numpy(ids()).long()).text_embeds
            assert relative(actual.projected, expected) < TOLERANCE


@pytest.mark.parametrize("name", VISIONS)
def test_vision_tower_equals_transformers(name, tmp_path):
    from tests.parity.torch_clip import vision_tower

    net, module = vision_tower(VISIONS[name]), CLIPVision(VISIONS[name])
    params, x = filled(net, "vision", module, tmp_path), pictures(VISIONS[name])
    actual = jax.jit(module.apply)({"params": params}, x)
    with torch.no_grad():
        expected = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).image_embeds
    assert relative(actual, expected) < TOLERANCE


@pytest.fixture(scope="module")
def whole():
    from tests.parity.torch_clip import whole

    return whole(TEXT, VISION)


def assert_equals(model, net):
    tokens = model.tokenizer.encode(CAPTIONS).ids
    text = jax.jit(model.text.apply)({"params": model.text_params}, tokens).projected
    x = pictures(VISION)
    image = jax.jit(model.vision.apply)({"params": model.vision_params}, x)
    with torch.no_grad():
        out = net(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
        )
    assert relative(text / np.linalg.norm(text, axis=1, keepdims=True), out.text_embeds) < TOLERANCE
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    assert relative(image, out.image_embeds) < TOLERANCE


def test_whole_folder_of_transformers(whole, tmp_path):
    whole.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    ).save_pretrained(tmp_path)
    model = load_clip(tmp_path)
    assert_equals(model, whole)
    assert model.name == tmp_path.name
    assert model.preprocessing.size == 24
    assert model.preprocessing.resample == "bicubic"


def test_older_files_with_position_ids_and_nested_towers(whole, tmp_path):
    whole.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state = {key.replace("text_model.", "text_model.text_model."): v for key, v in state.items()}
    state["text_model.embeddings.position_ids"] = np.arange(16)[None]
    state["vision_model.embeddings.position_ids"] = np.arange(10)[None]
    save_file(state, tmp_path / "model.safetensors")
    assert_equals(load_clip(tmp_path), whole)


@pytest.mark.parametrize("prefix", ["", "text."])
def test_folder_of_open_clip(whole, tmp_path, prefix):
    from tests.interop.clip.clip_folders import OPEN_CLIP_SETTINGS
    from tests.parity.torch_clip import open_clip_state

    state = open_clip_state({key: v.numpy() for key, v in whole.state_dict().items()})
    apart = ("visual.", "logit_scale")
    state = {key if key.startswith(apart) else prefix + key: v for key, v in state.items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_SETTINGS))
    write_tokenizer(tmp_path)
    model = load_clip(tmp_path)
    assert model.preprocessing.mean == (0.5, 0.25, 0.125)
    assert_equals(model, whole)


def test_towers_saved_apart(whole, tmp_path):
    from tests.parity.torch_clip import text_settings, vision_settings

    text = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(**text_settings(TEXT))
    )
    text.load_state_dict(whole.state_dict(), strict=False)
    image = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**vision_settings(VISION))
    )
    image.load_state_dict(whole.state_dict(), strict=False)
    text.save_pretrained(tmp_path / "text_encoder")
    image.save_pretrained(tmp_path / "image_encoder")
    (tmp_path / "tokenizer").mkdir()
    write_tokenizer(tmp_path / "tokenizer")
    assert_equals(load_clip(tmp_path), whole)


def test_shards_with_an_index(whole, tmp_path):
    whole.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    write_tokenizer(tmp_path)
    assert_equals(load_clip(tmp_path), whole)
