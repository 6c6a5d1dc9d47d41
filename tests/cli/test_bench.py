"""``memjax bench``: the command without torch, and how it measures and summarises."""

import json
import os
import subprocess
import sys

import pytest

from memjax.cli.bench_timing import CASES, Times, alternate, summarise
from memjax.cli.bench_workload import Settings, bench_label_space, check_comparable
from memjax.cli.configs import plain
from memjax.cli.defaults import base_config

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
)
WITHOUT_TORCH = (
    "import sys; sys.modules.update(torch=None, diffusers=None); "
    "from memjax.cli.main import main; sys.exit(main())"
)


def run_bench(*arguments: str, timeout: int = 300) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.slow
def test_bench_measures_memjax_alone_where_torch_is_missing(tmp_path):
    out = tmp_path / "bench.json"
    done = run_bench(*TINY, f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "pip install 'memjax[parity]'" in done.stdout
    report = json.loads(out.read_text())
    (run,) = report["runs"]
    assert "torch" in run["torch_missing"]
    assert run["setting"] == "keep"
    assert run["allocator"]["memjax"] == run["allocator"]["torch"]
    assert report["threads"]["memjax"] == report["machine"]["usable_cores"]
    assert {"jax", "flax", "memjax", "python", "torch", "diffusers"} <= set(report["versions"])
    assert list(run["cases"]) == sorted(CASES)
    amounts = {"train": 2, "detect": 3, "mitigate": 2}
    for name, case in run["cases"].items():
        side = case["sides"]["memjax"]
        assert set(case["sides"]) == {"memjax"}
        assert case["ratio"] is None
        assert case["amount_per_repeat"] == amounts[name]
        assert len(side["raw_seconds"]) == 2
        assert side["warmup_seconds"] > max(side["raw_seconds"])  # it holds the compilation
    assert run["cases"]["train"]["sides"]["memjax"]["gflop_per_second"] > 0


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


def test_a_side_that_diverges_is_refused():
    with pytest.raises(ValueError, match=r"the torch side .* not finite"):
        alternate({"torch": lambda: float("nan")}, 1)


def test_summary_takes_medians_and_the_ratio_says_how_much_faster_memjax_is():
    times = {
        "memjax": [Times(1.0, 2.0), Times(2.0, 2.0), Times(9.0, 4.0)],
        "torch": [Times(3.0, 3.0), Times(8.0, 6.0), Times(9.0, 8.0)],
    }
    warmup = {"memjax": Times(5.0, 6.0), "torch": Times(1.0, 1.0)}
    found = summarise(CASES["train"], 64, warmup, times, gflop=10.0)
    assert found["sides"]["memjax"]["median"] == 32.0  # images a second
    assert found["sides"]["torch"]["median"] == 8.0
    assert found["sides"]["memjax"]["gflop_per_second"] == 5.0
    assert found["sides"]["memjax"]["warmup_seconds"] == 5.0
    assert found["ratio"] == 4.0
    assert (found["ratio_low"], found["ratio_high"]) == (1.0, 4.0)
    assert found["cpu_ratio"] == 3.0
    per_prompt = summarise(CASES["mitigate"], 4, warmup, times)
    assert per_prompt["sides"]["memjax"]["median"] == 0.5  # seconds a prompt
    assert per_prompt["ratio"] == 4.0


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "snr_gamma", 5.0),
        ("train", "filter_threshold", 1.0),
        ("model", "dtype", "bfloat16"),
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
    assert Settings().only == tuple(CASES)
