"""One short demo run for the whole room, and how a command is called."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from memjax.cli.main import main

QUICK = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.2,
    "jax_disable_most_optimizations": True,
}


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def quick_programs():
    """Compiles less thoroughly and each program once, although commands are imported afresh."""
    before = {name: jax.config.values[name] for name in QUICK}
    for name, value in QUICK.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def memjax(*arguments: object) -> Done:
    """Runs a command in this process, as the console script does."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), quick_programs():
        code = main([str(a) for a in arguments])
    return Done(code, out.getvalue(), err.getvalue())


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_prompts(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def with_dropout(run: Path, folder: Path, cond_dropout: float) -> Path:
    """Copies a run as if it had been trained with another condition dropout."""
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    shutil.copy(run / "training.json", folder)
    record = json.loads((run / "run.json").read_text())
    record["config"]["train"]["cond_dropout"] = cond_dropout
    (folder / "run.json").write_text(json.dumps(record))
    return folder


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
