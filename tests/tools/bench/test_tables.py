"""``memjax bench --table``: sections of a Markdown file from reports."""

import copy
import json

import pytest

from memjax.cli.config import load_config
from memjax.runs.config import plain
from memjax.tools.bench.markdown import read_sections, section_of, write_tables
from memjax.tools.bench.sizes import MODEL_SIZES, resized
from memjax.tools.bench.task import COMPILE
from memjax.tools.bench.timing import CASES, Times, summarize
from tests.commands import memjax

FACTS = {
    "command": "memjax bench --size=demo",
    "date": "2026-01-02",
    "machine": {"processor": "A Processor", "platform": "Linux x86_64", "usable_cores": 2},
    "versions": {"jax": "1.2", "torch": "3.4", "faiss": "not installed"},
}
LOAD = {"load_average": {"before": 0.1, "after": 0.2}, "busy": False}
PEAK = {"flops_per_second": 6e12, "source": "measured"}


def case_of(name, **known):
    times = {"memjax": [Times(1.0, 2.0)] * 2, "torch": [Times(2.0, 3.0), Times(4.0, 5.0)]}
    warmup = {"memjax": Times(5.0, 6.0), "torch": Times(1.0, 1.0)}
    found = summarize(CASES[name], 6, warmup, times, flops=3e12, peak=6e12)
    for side, size in {"memjax": 2**30, "torch": 2**31}.items():
        found["sides"][side] |= {"peak_bytes": size, "ready_bytes": 2**29, **known}
    return found


@pytest.fixture
def model():
    """A report of the demo's size, with invented times."""
    calls = {"seconds": 9.0, "cpu_seconds": 8.0, "second_call_seconds": 0.5}
    run = {
        "allocator": {"memjax": "kept", "torch": "kept"},
        "torch_missing": "",
        "parameters": {"memjax": 864_036},
        "peak": PEAK,
        "cases": {name: case_of(name) for name in sorted(CASES)},
        COMPILE: {"train": {"cold": calls, "cached": {**calls, "seconds": 2.0}}},
        **LOAD,
    }
    size = MODEL_SIZES["demo"]
    return {
        **FACTS,
        "kind": "model",
        "size": "demo",
        "settings": size.settings._asdict(),
        "config": resized(plain(load_config(size.config)), "demo", ()),
        "runs": [run],
    }


@pytest.fixture
def stable_diffusion():
    """A report of Stable Diffusion's size on CPU."""
    run = {"allocator": {"title": "freed memory kept"}, "cases": {"detect": case_of("detect")}}
    return {
        **FACTS,
        "kind": "sd",
        "size": "sd14",
        "torch_missing": "",
        "matmul_flops_per_second": 6e12,
        "settings": {
            "dtype": "float32",
            "prompts": 8,
            "generations": 1,
            "iterations": 10,
            "only": ["forward", "detect"],
        },
        "runs": {"same": run | LOAD},
    }


def write(tmp_path, *reports):
    paths = [tmp_path / f"{report['size']}.json" for report in reports]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(json.dumps(report))
    return [str(path) for path in paths]


def test_a_section_holds_machine_command_and_a_row_a_case(model):
    text = section_of(model)
    lines = text.splitlines()
    assert lines[0] == "## demo"
    assert "A Processor, Linux x86_64, 2 threads a side; 2026-01-02; jax 1.2, torch 3.4." in text
    assert "`memjax bench --size=demo`" in text
    assert "8 steps of 32" in text
    assert "BUSY" not in text
    speed = "| training | images/s | 6 | 2 | 3.00x (2.00 to 4.00) | 2.00x"
    assert f"{speed} | 3.000 | 50 | 1,024 | 2,048 |" in lines
    rows = [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")]
    titles = [case.title for case in CASES.values()]  # in the order they are measured
    assert [title for title in rows if title in titles] == titles
    assert "| training step | s | 9.00 | 2.00 | 0.50 |" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables} == {11, 6}  # every row as wide as its head


def test_warnings_are_kept(model):
    model["runs"][0].update(busy=True, torch_missing="no torch here")
    text = section_of(model)
    assert "**THE MACHINE WAS BUSY" in text
    assert "no torch here." in text


def test_sections_are_ordered_and_others_stay(tmp_path, model, stable_diffusion):
    out = tmp_path / "benchmarks.md"
    write_tables(write(tmp_path, stable_diffusion, model), str(out))
    first = read_sections(out.read_text())
    assert list(first) == ["demo", "sd14"]
    assert out.read_text().startswith("# Benchmarks\n")
    newer = copy.deepcopy(model) | {"date": "2027-07-07"}
    write_tables(write(tmp_path, newer), str(out))
    second = read_sections(out.read_text())
    assert list(second) == ["demo", "sd14"]
    assert second["sd14"] == first["sd14"]
    assert "2027-07-07" in second["demo"]
    assert "2026-01-02" not in second["demo"]
    assert out.read_text().count("# Benchmarks\n") == 1


def test_knn_and_a_gpu_have_tables_of_their_own():
    ratio = {"ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1, "cpu_ratio": 1.2}
    knn = {
        **FACTS,
        **LOAD,
        "kind": "knn",
        "size": "knn",
        "settings": {"queries": 10, "rows": 10**6, "dim": 500, "k": 5, "repeats": 3},
        "sides": {n: {"queries_per_second": 3000.0} for n in ("faiss", "memjax")},
        "ratios": {"faiss": ratio},
        "peak_bytes": {"memjax": 2**30},
        "peak": PEAK,
        "missing": "",
    }
    lines = section_of(knn).splitlines()
    assert "| memjax | queries/s | 3,000 | – | – | 3.000 | 50 | 1,024 |" in lines
    faiss = "| faiss | queries/s | 3,000 | 1.00x (0.90 to 1.10) | 1.20x | 3.000 | 50 | - |"
    assert faiss in lines
    side = {
        "best_pairs": 4,
        "pairs_per_second": 3.0,
        "detect_seconds": 2.0,
        "mitigate_seconds": 5.0,
        "peak_bytes": 2**31,
        "device": "A Card",
    }
    gpu = {
        **FACTS,
        "kind": "sd",
        "size": "sd14 on GPU",
        "torch_missing": "",
        "settings": {"dtype": "bfloat16", "prompts": 8, "generations": 1, "iterations": 10},
        "matmul_flops_per_second": 6e12,
        "flops_per_pair": 1e12,
        "sides": {"memjax": side},
        "ratios": {"torch": {"forward": 1.5, "detect": 4.0}},
    }
    text = section_of(gpu)
    assert "Linux x86_64, A Card, 2 threads" in text
    assert "| memjax | 4 | 3.00 | 3.0 | 50 | 2.00 | 5.00 | 2,048 |" in text
    assert "memjax is faster than torch by: forward 1.50x, detect 4.00x." in text


def test_what_is_no_report_is_refused(tmp_path, model):
    out = str(tmp_path / "b.md")
    with pytest.raises(ValueError, match="there is no file"):
        write_tables([str(tmp_path / "none.json")], out)
    other = tmp_path / "other.json"
    for text in ("[]", "{}", "no json", '{"size": "demo", "kind": "model"}'):
        other.write_text(text)
        with pytest.raises(ValueError, match="is no report of memjax bench"):
            write_tables([str(other)], out)
    for damaged in (b"\x8c\xff\x00", b'{"size": "demo", "machine": {}, "versions": []}'):
        other.write_bytes(damaged)
        with pytest.raises(ValueError, match="is no report of memjax bench"):
            write_tables([str(other)], out)
    paths = write(tmp_path, model)
    with pytest.raises(ValueError, match="a second report of demo"):
        write_tables(paths * 2, out)


def test_a_file_that_is_no_text_stays(tmp_path, model):
    out = tmp_path / "picture.png"
    out.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"picture\.png is there and is no text"):
        write_tables(write(tmp_path, model), str(out))
    assert out.read_bytes() == b"\x89PNG\xff"


def test_the_command_writes_the_file(tmp_path, model):
    (path,) = write(tmp_path, model)
    out = tmp_path / "tables.md"
    done = memjax("bench", f"--table={path}", f"--out={out}")
    assert (done.code, done.err) == (0, "")
    assert "## demo" in out.read_text()
    done = memjax("bench", f"--table={path}")
    assert done.code == 2
    assert "--table has no --out" in done.err
