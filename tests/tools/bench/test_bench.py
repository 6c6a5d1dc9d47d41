"""``memjax bench``: the command without torch, and how it measures and summarizes."""

import json
import os
import subprocess
import sys

import pytest

from memjax.cli.config import load_config
from memjax.cli.config_fields import base_config
from memjax.runs.config import plain
from memjax.tools.bench.compile_time import measure_compile
from memjax.tools.bench.peak import Probe
from memjax.tools.bench.tables import model_table
from memjax.tools.bench.task import COMPILE
from memjax.tools.bench.timing import CASES, Times, alternate, summarize, take_turns
from memjax.tools.bench.worker import KEEP
from memjax.tools.bench.workload import Settings, bench_label_space, check_comparable, make_workload
from tests.commands import PATIENCE

TINY = (
    "--config=phantoms_demo:short",
    "--config.data.size=8",
    "--config.model.block_out_channels=(8,)",
    "--config.model.attention_blocks=(False,)",
    "--config.train.batch_size=2",
    "--repeats=2",
    "--steps=1",
    "--prompts=3",
    "--mitigate_prompts=2",
    "--samples=2",
)
WITHOUT_TORCH = (
    "import sys; sys.modules.update(torch=None, diffusers=None); "
    "from memjax.cli.main import main; sys.exit(main())"
)


def run_bench(*arguments: str, timeout: int = PATIENCE) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def check_alone(run, amounts):
    """A run of memjax alone holds every figure of these cases."""
    assert list(run["cases"]) == sorted(amounts)
    for name, case in run["cases"].items():
        side = case["sides"]["memjax"]
        assert set(case["sides"]) == {"memjax"}
        assert case["ratio"] is None
        assert case["amount_per_repeat"] == amounts[name]
        assert len(side["raw_seconds"]) == 2
        assert side["warmup_seconds"] > max(side["raw_seconds"])  # it holds the compilation
        rate = case["flops"] / side["median_seconds"]
        assert side["tflop_per_second"] == pytest.approx(rate / 1e12)
        assert side["of_peak"] == pytest.approx(rate / run["peak"]["flops_per_second"])
        assert side["peak_bytes"] >= side["ready_bytes"] > 2**26  # an interpreter with JAX


@pytest.mark.slow
def test_bench_measures_memjax_alone_where_torch_is_missing(tmp_path):
    out = tmp_path / "bench.json"
    done = run_bench(*TINY, "--only=sample,mitigate", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "pip install 'memjax[parity]'" in done.stdout
    assert "sampling: 2 in 8 steps" in done.stdout
    report = json.loads(out.read_text())
    (run,) = report["runs"]
    assert "torch" in run["torch_missing"]
    assert run["setting"] == "keep"
    assert run["allocator"]["memjax"] == run["allocator"]["torch"]
    assert report["threads"]["memjax"] == report["machine"]["usable_cores"]
    assert {"jax", "flax", "memjax", "python", "torch", "diffusers"} <= set(report["versions"])
    assert report["kind"] == "model"
    assert report["size"] == "demo"
    assert "--only=sample,mitigate" in report["command"]
    assert str(tmp_path) not in report["command"]
    check_alone(run, {"sample": 2, "mitigate": 2})
    assert run[COMPILE] == {}


@pytest.mark.thorough
def test_all_cases_are_measured_by_default(tmp_path):
    out = tmp_path / "bench.json"
    done = run_bench(*TINY, f"--out={out}", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(out.read_text())["runs"]
    check_alone(run, {"train": 2, "sample": 2, "detect": 3, "mitigate": 2})
    assert set(run[COMPILE]) == {"train", "sample", "detect"}


def tiny_config():
    config = plain(load_config("phantoms_demo:short"))
    config["data"]["size"] = 8
    config["model"].update(block_out_channels=[8], attention_blocks=[False])
    return config


@pytest.mark.slow
def test_a_filled_cache_makes_the_first_call_faster(monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    settings = Settings(prompts=2, mitigate_prompts=1, samples=1)
    found = measure_compile(KEEP, tiny_config(), settings, targets=("sample",))
    cold, cached = found["sample"]["cold"], found["sample"]["cached"]
    assert cold["cpu_seconds"] > 1.2 * cached["cpu_seconds"]  # processor time: others compute too
    assert cached["seconds"] > 2 * cached["second_call_seconds"] > 0


def test_the_probe_measures_a_product_where_the_chip_is_unknown():
    facts = Probe(64).facts()
    assert facts["platform"] == "cpu"
    assert facts["source"] == "measured, a 64 x 64 product in float32"
    assert 1e6 < facts["flops_per_second"] < 1e14


def test_a_wrong_case_gets_a_suggestion():
    done = run_bench("--only=tran")
    assert done.returncode == 2
    assert "Did you mean 'train'?" in done.stderr


def test_sides_run_in_turn_and_the_order_is_reversed():
    seen = []
    warmup, times = alternate(
        {"memjax": lambda: seen.append("m") or 0.0, "torch": lambda: seen.append("t") or 0.0}, 3
    )
    assert "".join(seen) == "mt" + "mt" + "tm" + "mt"
    assert set(warmup) == set(times) == {"memjax", "torch"}
    assert [len(repeats) for repeats in times.values()] == [3, 3]


def test_sides_elsewhere_say_how_long_they_took():
    calls = {"memjax": lambda: (1.0, Times(2.0, 3.0)), "torch": lambda: (0.0, Times(5.0, 7.0))}
    warmup, times = take_turns(calls, 2)
    assert warmup == {"memjax": (2.0, 3.0), "torch": (5.0, 7.0)}
    assert times["torch"] == [(5.0, 7.0)] * 2


def test_a_side_that_diverges_is_refused():
    with pytest.raises(ValueError, match=r"the torch side .* not finite"):
        alternate({"torch": lambda: float("nan")}, 1)


def test_summary_takes_medians_and_the_ratio_says_how_much_faster_memjax_is():
    times = {
        "memjax": [Times(1.0, 2.0), Times(2.0, 2.0), Times(9.0, 4.0)],
        "torch": [Times(3.0, 3.0), Times(8.0, 6.0), Times(9.0, 8.0)],
    }
    warmup = {"memjax": Times(5.0, 6.0), "torch": Times(1.0, 1.0)}
    found = summarize(CASES["train"], 64, warmup, times, flops=10e12, peak=20e12)
    assert found["sides"]["memjax"]["median"] == 32.0  # images a second
    assert found["sides"]["torch"]["median"] == 8.0
    assert found["sides"]["memjax"]["tflop_per_second"] == 5.0
    assert found["sides"]["memjax"]["of_peak"] == 0.25
    assert found["sides"]["torch"]["tflop_per_second"] == 1.25  # the same operations, its own time
    assert found["sides"]["memjax"]["warmup_seconds"] == 5.0
    assert found["ratio"] == 4.0
    assert (found["ratio_low"], found["ratio_high"]) == (1.0, 4.0)
    assert found["cpu_ratio"] == 3.0
    per_prompt = summarize(CASES["mitigate"], 4, warmup, times)
    assert per_prompt["sides"]["memjax"]["median"] == 0.5  # seconds a prompt
    assert per_prompt["ratio"] == 4.0


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "snr_gamma", 5.0),
        ("model", "refine_channels", 8),
        ("train", "filter_threshold", 1.0),
        ("model", "dtype", "bfloat16"),
        ("sampling", "stepper", "ddpm"),
    ],
)
def test_what_torch_has_no_counterpart_of_is_refused(section, name, value):
    config = plain(base_config())
    check_comparable(config)
    config[section][name] = value
    with pytest.raises(ValueError, match=f"{section}.{name}={value}"):
        check_comparable(config)


def test_label_space_is_the_configurations():
    config = plain(base_config())
    space = bench_label_space(config)
    assert space.num_markers == config["data"]["num_markers"]
    config["data"]["use_age"] = False
    assert bench_label_space(config).num_tokens == space.num_tokens - 1


def test_settings_default_to_all_cases():
    assert Settings().only == (*CASES, COMPILE)


def test_the_task_is_plain_arrays_of_the_asked_sizes():
    task = make_workload(tiny_config(), Settings(prompts=3, mitigate_prompts=2, samples=5)).task
    assert task.images.shape == (16, 8, 8, 1)
    assert task.sample_noise.shape == (5, 8, 8, 1)
    assert len(task.prompts) == 5
    assert len(task.grid) == 8
    assert task.first_t == task.grid[0] == max(task.grid)
    assert len(task.label_sizes) == task.labels.shape[1]
    assert task.amounts == {"train": 8 * 16, "sample": 5, "detect": 3, "mitigate": 2}
    assert task.unet.block_out_channels == (8,)
    assert "memjax.models" not in type(task.unet).__module__


def test_torchs_process_needs_no_jax():
    code = (
        "import sys, memjax.tools.bench.torch_side, memjax.tools.bench.worker; "
        "sys.exit(any(name in sys.modules for name in ('jax', 'flax')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False).returncode == 0
    )


def test_the_table_names_both_sides_and_warns():
    times = {"memjax": [Times(1.0, 2.0)] * 2, "torch": [Times(3.0, 3.0)] * 2}
    warmup = {"memjax": Times(5.0, 6.0), "torch": Times(1.0, 1.0)}
    case = summarize(CASES["sample"], 6, warmup, times, flops=3e12, peak=6e12)
    for side in case["sides"].values():
        side.update(peak_bytes=2**30, ready_bytes=2**29)
    calls = {"seconds": 9.0, "cpu_seconds": 8.0, "second_call_seconds": 0.5}
    run = {
        "allocator": {"memjax": "kept", "torch": "kept"},
        "torch_missing": "",
        "parameters": {"memjax": 10**6, "torch": 10**6},
        "load_average": {"before": 9.0, "after": 9.5},
        "busy": True,
        "peak": {"flops_per_second": 6e12, "source": "measured"},
        "cases": {"sample": case},
        COMPILE: {"sample": {"cold": calls, "cached": {**calls, "seconds": 2.0}}},
    }
    text = model_table(run)
    assert "THE MACHINE WAS BUSY" in text
    assert "3.00x (3.00 to 3.00)" in text
    assert "3.000 / 1.000" in text  # TFLOP/s
    assert "50% / 17%" in text
    assert "1,024 / 1,024" in text
    assert "memjax 512 MiB" in text
    assert "9.00      2.00" in text  # cold, cached
