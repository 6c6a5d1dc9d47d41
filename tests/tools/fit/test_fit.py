"""`memjax fit` without the TPU compiler: reports on programs of eight CPU devices, kept results."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memjax.tools.fit.report import table
from tests.commands import PATIENCE, memjax

WORKER = Path(__file__).parent / "worker.py"
GOLDENS = sorted((Path(__file__).parent / "goldens").glob("*.json"))
PROMISED = {
    "fits",
    "devices",
    "topology",
    "flops",
    "bytes_accessed",
    "memory",
    "collectives",
    "roofline_seconds",
    "largest_batch",
}
NO_COMPILER = importlib.util.find_spec("libtpu") is None


def worker(what):
    done = subprocess.run(
        [sys.executable, str(WORKER), what],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("JSON:")]
    return json.loads(line[5:])


@pytest.fixture(scope="module")
def toys():
    return worker("toy")


@pytest.fixture(scope="module")
def networks():
    return worker("networks")


def assert_complete(report):
    assert set(report) >= PROMISED
    assert {"arguments", "outputs", "temporaries", "limit"} <= set(report["memory"])
    assert {"jax", "jaxlib", "libtpu", "memjax"} <= set(report["versions"])
    assert report["devices"] > 0
    assert "not measurements" in report["note"]


def test_a_report_has_what_is_promised(toys):
    for toy in toys.values():
        assert_complete(toy["report"])
        assert toy["report"]["fits"]
        assert toy["report"]["memory"]["total"] > 0


def test_loops_are_run_out(toys):
    """Four steps of two layers: 2·72·256·512 a layer forwards, thrice that for the gradient...

    ... less the first layer's input, whose gradient nobody asks for.
    """
    report = toys["weights"]["report"]
    layer = 2 * 72 * 256 * 512
    assert report["flops_traced"] == 4 * (3 + 2) * layer / 8
    assert report["loops"] == {"4": 1}
    assert report["flops"] == report["flops_traced"] > 2 * report["flops_compiler"]
    assert report["bytes_accessed"] > 2 * report["bytes_accessed_compiler"]


def test_weights_are_gathered_once_a_step_and_activations_never(toys):
    report = toys["weights"]["report"]
    gathers = report["collectives"]["all-gather"]
    whole = 2 * 256 * 512 * 4
    assert gathers["weights_bytes"] == 4 * whole
    assert gathers["activations_bytes"] == 0
    assert report["activation_gathers"]["count"] == 0
    assert "no activations are gathered" in toys["weights"]["table"]
    sums = sum(
        row["weights_bytes"] for kind, row in report["collectives"].items() if "reduce" in kind
    )
    assert sums == 4 * whole


def test_a_forced_gather_of_activations_is_found(toys):
    report = toys["activations"]["report"]
    found = report["activation_gathers"]
    assert found["count"] >= 1
    assert found["bytes"] >= 72 * 512 * 4
    assert "ACTIVATIONS ARE GATHERED" in toys["activations"]["table"]


def test_every_rule_is_proven_to_be_used(networks):
    train = networks["train"]
    assert train["unused"] == []
    assert any("by size" in rule for rule in train["rules"])
    assert any("by size" in rule and "ff/net_2" in rule for rule in train["rules"])
    assert train["split"] > 50


def test_a_training_is_traced_with_everything_in_its_place(networks):
    train = networks["train"]
    assert train["unplaced"] == 0
    assert train["constraints"] > 50
    assert train["unit"] == 2 * 2 * 2  # data 2, fsdp 2, two parts one after the other
    assert train["batch"] == 32


def test_a_detection_spreads_prompts_over_all_devices(networks):
    detect = networks["detect"]
    assert detect["unplaced"] == 0
    assert detect["unit"] == 8
    assert detect["batch"] == 32 * 8
    assert detect["params"] == networks["train"]["params"]


def test_a_fine_tuning_has_stable_diffusions_size(networks):
    unet, lora = networks["unet"], networks["lora"]
    assert unet["params"] == lora["frozen"] == 859_520_964
    assert unet["frozen"] == 0
    assert lora["params"] < 5_000_000
    assert unet["moments"] == [8, 64, 64, 8]
    assert unet["table"] == [9, 77, 768]
    assert "multiple of 8" in networks["refused"]


def test_the_command_is_known_and_says_what_it_needs():
    done = memjax("fit", "--help")
    assert done.code == 0
    for word in ("--topology", "--job", "--largest_batch", "memjax[tpu]", "estimates"):
        assert word in done.out


@pytest.mark.skipif(not NO_COMPILER, reason="libtpu is installed")
def test_without_the_compiler_nothing_is_compiled(tmp_path):
    out = tmp_path / "fit.json"
    done = memjax("fit", "--config=phantoms_demo", "--topology=v5e:2x4", f"--out={out}")
    assert done.code == 2
    assert "pip install 'memjax[tpu]'" in done.err
    assert not out.exists()


def test_a_split_feed_forward_layer_sums_pixels_and_moves_none(networks):
    found = networks["feed_forward"]
    assert len(found["split"]) == 3, found  # both kernels and the first bias
    assert found["sums"] > 0
    assert found["moves"] == 0


def test_a_guided_prediction_of_spread_rows_exchanges_nothing(networks):
    assert networks["guided_pair"] == []


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_kept_results_are_complete(path):
    assert path.stat().st_size < 20_000
    report = json.loads(path.read_text())
    assert_complete(report)
    assert report["versions"]["libtpu"] != "not installed"
    shown = table(report)
    assert report["topology"] in shown
    assert len(report.get("largest_collectives") or []) <= 10


def test_there_are_kept_results():
    assert GOLDENS
