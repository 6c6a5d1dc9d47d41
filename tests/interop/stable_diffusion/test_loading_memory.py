"""What loading takes beside the weights, measured by the operating system in a fresh process."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from memjax.interop import save
from memjax.interop.stable_diffusion.pipeline import Networks
from memjax.models.unet.network import UNet
from tests.commands import PATIENCE
from tests.interop.stable_diffusion.pipelines import folder, tiny

# Warm first: the runtime and the tokenizer's library take their memory once.
MEASURE = """
import json, pathlib, re, sys
import jax
from memjax.interop import load

def field(name):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(name + r":\\s+(\\d+) kB", status)[1])

load(sys.argv[1], dtype=sys.argv[3])
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = field("VmRSS")
pipeline = load(sys.argv[2], dtype=sys.argv[3])
peak = 1024 * (field("VmHWM") - before)
print(json.dumps([peak, sum(leaf.nbytes for leaf in jax.tree.leaves(pipeline.params))]))
"""


@pytest.fixture
def large(tmp_path):
    """A folder of about 360 MB, none of whose tensors is more than a twentieth of it."""
    base = tiny()
    config = dataclasses.replace(
        base.unet.config, block_out_channels=(384, 512), layers_per_block=2, norm_num_groups=32
    )
    networks = Networks(UNet(config), base.vae, base.text)
    params = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32), networks.templates()["unet"]
    )
    settings = dict(base.settings)
    settings["unet"] = settings["unet"] | {
        "block_out_channels": [384, 512],
        "layers_per_block": 2,
        "norm_num_groups": 32,
    }
    pipeline = base._replace(unet=networks.unet, unet_params=params, settings=settings)
    return save(pipeline, tmp_path / "large")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_beside_the_weights(tmp_path, large):
    """In bfloat16, where the float32 tensors that pass through weigh most.

    Some 40 MB of what is measured are traces and the allocator's own, whatever the size.
    """
    small = folder(tmp_path / "small", fingerprints=True)
    command = [sys.executable, "-c", MEASURE, str(small), str(large), "bfloat16"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    peak, size = json.loads(run.stdout.splitlines()[-1])
    assert size > 170e6
    assert peak < 1.3 * size
