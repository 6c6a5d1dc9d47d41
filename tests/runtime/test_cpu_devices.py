"""Which commands share a CPU's cores, and how many of its devices prompts take."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from memjax.runtime import devices as cpu_devices
from memjax.runtime.cores import usable_cores
from memjax.runtime.devices import CPU_DEVICES, mesh_of_prompts, share_cores
from tests.commands import PATIENCE


@pytest.fixture
def asked(monkeypatch):
    """What JAX is told."""
    found = []
    monkeypatch.setattr(jax.config, "update", lambda *told: found.append(told))
    return found


@pytest.mark.parametrize("command", ["sample", "detect"])
def test_a_device_for_each_core(asked, command):
    assert share_cores(command, {}) == usable_cores()
    assert asked == [("jax_num_cpu_devices", usable_cores())]


@pytest.mark.parametrize(
    ("command", "environ"),
    [
        ("train", {}),
        ("sample", {"JAX_NUM_CPU_DEVICES": "4"}),
        ("sample", {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}),
    ],
)
def test_training_and_what_the_user_said_stay(asked, command, environ):
    assert share_cores(command, environ) == 0
    assert asked == []


def test_the_number_may_be_said(asked):
    assert share_cores("detect", {CPU_DEVICES: "3"}) == 3
    for wrong in ("0", "two", "-1"):
        with pytest.raises(ValueError, match=f"{CPU_DEVICES}={wrong} is no number of devices"):
            share_cores("detect", {CPU_DEVICES: wrong})


@pytest.mark.parametrize(
    ("rows", "free", "devices"), [(8, 1 << 40, 8), (3, 1 << 40, 3), (8, 8 * 4 * 400, 4), (8, 1, 1)]
)
def test_no_more_devices_than_rows_and_memory_allow(monkeypatch, rows, free, devices):
    monkeypatch.setattr(cpu_devices, "free_bytes", lambda: free)
    monkeypatch.setattr(cpu_devices, "prompts_mesh", lambda most_of_cpu: most_of_cpu)
    assert mesh_of_prompts({"kernel": np.zeros(100, np.float32)}, rows) == devices


def test_rows_are_spread_in_a_process_of_its_own():
    """The first devices of a CPU make the mesh."""
    program = """
import jax, numpy as np
from memjax.runtime.devices import mesh_of_prompts, share_cores
share_cores("sample", {"MEMJAX_CPU_DEVICES": "4"})
assert jax.device_count() == 4
params = {"kernel": np.ones((3, 3), np.float32)}
assert mesh_of_prompts(params, 1) is None
assert mesh_of_prompts(params, 3).size == 3
assert mesh_of_prompts(params, 9).size == 4
"""
    environ = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
