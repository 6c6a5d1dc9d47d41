"""The package stays light, and no torch is imported: neither where there is one nor without."""

import subprocess
import sys

import pytest

from tests.commands import PATIENCE
from tests.interop.stable_diffusion.pipelines import folder

LIGHT = """
import sys
import memjax.interop
from memjax import interop
heavy = {"jax", "flax", "transformers", "huggingface_hub", "torch", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
assert "load" in dir(interop)
"""
LOADS = """
import importlib.abc, sys

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

if sys.argv[1] == "absent":
    import importlib.metadata
    import importlib.util
    sys.meta_path.insert(0, NoTorch())
    real = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *a: None if name == "torch" else real(name, *a)

from memjax import interop

pipeline = interop.load(sys.argv[2])
assert pipeline.tokenizer.words("a cat")[:3] == ["BOS", "a", "cat"]
interop.save(pipeline, sys.argv[3])
assert "torch" not in sys.modules
"""


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_package_is_light():
    run(LIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("torch", ["installed", "absent"])
def test_a_pipeline_needs_no_torch(tmp_path, torch):
    said = run(LOADS, torch, str(folder(tmp_path / "m")), str(tmp_path / "copy"))
    assert "PyTorch" not in said
