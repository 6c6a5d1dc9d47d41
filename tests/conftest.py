"""Strict defaults for every test, and one short demo run for all of them."""

import gc
import importlib.metadata
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

from tests.commands import memjax, read_rows, write_prompts

# Nearly all of the tests' time is XLA's compiling of programs that then run for milliseconds. These
# flags make that four times as fast, and XLA reads them when it first compiles. It ends a process
# that names a flag it does not know, hence the version they were taken from.
_QUICKLY = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _QUICKLY += [
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_experimental_ynn_fusion_type=",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
# What is compiled is kept until the run ends, for all its processes; those that are started by it,
# by pytest or by a test, inherit these variables.
_KEPT = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
if "PYTEST_XDIST_WORKER" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="memjax-programs-", ignore_cleanup_errors=True)
    os.environ["XLA_FLAGS"] = " ".join((*_QUICKLY, os.environ.get("XLA_FLAGS", "")))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
    os.environ.update({name.upper(): str(value) for name, value in _KEPT.items()})

jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
for _name, _value in _KEPT.items():
    jax.config.update(_name, _value)
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
