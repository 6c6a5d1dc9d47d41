"""Strict defaults for every test, and one short demo run for all of them."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

from tests.commands import QUICK, memjax, read_rows, write_prompts

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def key():
    """A fresh typed key."""
    return jax.random.key(0)


_ENOUGH = 3 << 30  # bytes a test process may hold before it forgets its compiled programs


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    """Forgets compiled programs after a file, once they have grown large."""
    yield
    if _resident_bytes() > _ENOUGH:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def kept_programs(tmp_path_factory):
    """Where compiled programs are kept; the notebook's kernel looks there too."""
    QUICK["jax_compilation_cache_dir"] = str(tmp_path_factory.getbasetemp() / "programs")


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """``memjax demo --config=phantoms_demo:short``: the run's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMJAX_KEEP_MEMORY", "0")
        done = memjax("demo", "--config=phantoms_demo:short", f"--workdir={folder}")
    assert done.code == 0, done.err
    return folder, done


@pytest.fixture(scope="session")
def run(demo):
    """The folder of the short run; tests must not write into it."""
    return demo[0]


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    """A tiny random model in Stable Diffusion's layout, as a folder; only to be read."""
    from memjax.interop import save, tiny_pipeline

    small = {"block_out_channels": (16, 32), "cross_attention_dim": 16, "norm_num_groups": 8}
    pipeline = tiny_pipeline("sd1", latent_size=8, unet=small)
    return save(pipeline, tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(autouse=True)
def _leave_the_allocator_alone(monkeypatch):
    monkeypatch.setenv("MEMJAX_KEEP_MEMORY", "0")


@pytest.fixture(scope="session")
def prompts(run):
    """Two of the run's own prompts."""
    return write_prompts(run.parent / "two.jsonl", *read_rows(run / "prompts/memorized.jsonl")[:2])


@pytest.fixture(scope="session")
def negatives(run):
    """Prompts that were trained once, with ids of their own."""
    return run / "prompts" / "once.jsonl"
