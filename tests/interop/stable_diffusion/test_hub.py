"""Models of the hub, with the network taken away: what is asked for, and what is said."""

import fnmatch
import json
import shutil

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import save_file

from memjax.interop import load
from tests.interop.stable_diffusion.pipelines import (
    WEIGHTS,
    assert_same,
    assert_sentence,
    folder,
    tensors,
    tiny,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for the hub: a repository on disk, copied by the patterns that are asked for."""

    def __init__(self, repository, cache):
        self.repository, self.cache, self.asked = repository, cache, []

    def __call__(self, repo_id, *, revision=None, allow_patterns=None):
        self.asked.append((repo_id, revision))
        target = self.cache / "models--o--m" / "snapshots" / COMMIT
        for path in sorted(self.repository.rglob("*.*")):
            name = path.relative_to(self.repository).as_posix()
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                blob = target.parent.parent / "blobs" / name.replace("/", "_")
                blob.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, blob)
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).unlink(missing_ok=True)
                (target / name).symlink_to(blob)  # as the hub's cache does
        return str(target)

    def fetched(self):
        root = self.cache / "models--o--m" / "snapshots" / COMMIT
        return {path.relative_to(root).as_posix() for path in root.rglob("*.*")}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    repository = folder(tmp_path / "repository")
    for part in WEIGHTS:
        halves = {k: a.astype(np.float16) for k, a in tensors(repository, part).items()}
        stem = (repository / WEIGHTS[part]).with_suffix("")
        if part != "text_encoder":
            save_file(halves, f"{stem}.fp16.safetensors")
            save_file(halves, f"{stem}.non_ema.safetensors")
        (repository / part / "pytorch_model.bin").write_bytes(b"pickled")
    shard = "diffusion_pytorch_model-00001-of-00002.fp16.safetensors"
    (repository / "vae" / shard).write_bytes(b"a variant in shards")
    (repository / "v1-5-pruned.safetensors").write_bytes(b"seven gigabytes")
    (repository / "safety_checker").mkdir()
    (repository / "safety_checker/model.safetensors").write_bytes(b"one gigabyte")
    (repository / "safety_checker/config.json").write_text("{}")
    fake = Hub(repository, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def test_only_what_is_needed_is_fetched(hub):
    found = load("owner/model", revision="fp16-branch")
    assert_same(found.params, tiny().params)
    assert hub.asked == [("owner/model", "fp16-branch")]
    tokenizer = {p.name for p in (hub.repository / "tokenizer").iterdir()}
    assert hub.fetched() == {
        *WEIGHTS.values(),
        *("model_index.json", "scheduler/scheduler_config.json"),
        *(f"{part}/config.json" for part in WEIGHTS),
        *(f"tokenizer/{name}" for name in tokenizer),
    }


def test_the_commit_is_in_the_provenance(hub):
    info = load("owner/model").info
    assert (info["kind"], info["model"], info["revision"]) == ("hub", "owner/model", COMMIT)


def test_a_variant_and_what_lacks_it(hub):
    found = load("owner/model", variant="fp16")
    assert_same(found.text_params, tiny().text_params)
    kernel = np.asarray(tiny().unet_params["conv_in"]["kernel"])
    np.testing.assert_array_equal(
        found.unet_params["conv_in"]["kernel"], kernel.astype(np.float16).astype(np.float32)
    )
    assert hub.asked == [("owner/model", None), ("owner/model", COMMIT)]
    weights = {name for name in hub.fetched() if name.endswith(".safetensors")}
    assert weights == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
        "text_encoder/model.safetensors",
    }


def test_no_pipeline_and_no_safetensors(hub):
    (hub.repository / WEIGHTS["vae"]).unlink()
    with pytest.raises(ValueError, match="has no safetensors of vae under their") as caught:
        load("owner/model")
    assert "--variant=fp16" in assert_sentence(caught.value)
    (hub.repository / "model_index.json").rename(hub.repository / "other.json")
    shutil.rmtree(hub.cache)
    with pytest.raises(ValueError, match=r"owner/model has no model_index\.json, so") as caught:
        load("owner/model")
    assert_sentence(caught.value)


def test_sharded_weights_are_fetched(hub):
    unet = tensors(hub.repository, "unet")
    home = hub.repository / "unet"
    (home / "diffusion_pytorch_model.safetensors").unlink()
    names = [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    keys = sorted(unet)
    listed = {}
    for k, name in enumerate(names):
        save_file({key: unet[key] for key in keys[k::2]}, home / name)
        listed |= dict.fromkeys(keys[k::2], name)
    index = home / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    assert_same(load("owner/model").unet_params, tiny().unet_params)


FAILURES = {
    "gated": (errors.GatedRepoError, r"is gated; accept its terms on huggingface\.co/owner/model"),
    "missing": (errors.RepositoryNotFoundError, "neither a folder owner/model here nor a model"),
    "revision": (errors.RevisionNotFoundError, "has no revision 'old'; give a branch"),
    "offline": (errors.LocalEntryNotFoundError, "not in the cache of the hub, which cannot be"),
    "offline mode": (errors.OfflineModeIsEnabled, "unset HF_HUB_OFFLINE if it is set"),
    "server": (errors.HfHubHTTPError, r"could not be fetched from the hub \(it hurts\)"),
    "disk": (OSError, r"could not be fetched from the hub \(it hurts\)"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_one_sentence(monkeypatch, tmp_path, name):
    kind, message = FAILURES[name]

    def fail(*_, **__):
        error = kind.__new__(kind)  # its own __init__ asks for a response of the server
        error.args = ("it\n\nhurts",)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        load("owner/model", revision="old")
    assert_sentence(caught.value)


def test_offline_with_the_real_client(monkeypatch, tmp_path):
    """HF_HUB_OFFLINE is read once, on import; its constant is what the client looks at."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not in the cache of the hub") as caught:
        load("owner/model")
    assert_sentence(caught.value)
