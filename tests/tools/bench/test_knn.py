"""``memjax bench --what=knn``: a tiny run, without faiss, and its arithmetic."""

import json
import os
import subprocess
import sys

import pytest

from memjax.tools.bench.knn import NO_FAISS, KnnSettings, _ratio, knn_table, measure_knn
from memjax.tools.bench.timing import Times
from tests.commands import PATIENCE

WITHOUT_FAISS = (
    "import importlib.util as u, sys; found = u.find_spec; "
    "u.find_spec = lambda name, *a: None if name == 'faiss' else found(name, *a); "
    "from memjax.cli.main import main; sys.exit(main())"
)


def run_bench(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_FAISS, "bench", "--what=knn", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.slow
def test_a_tiny_run_prints_and_writes_the_figures(tmp_path):
    out = tmp_path / "knn.json"
    size = ("--queries=64", "--rows=500", "--dim=8", "--k=3", "--repeats=2")
    done = run_bench(*size, f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "64 queries x 500 rows x 8 values, k = 3" in done.stdout
    assert NO_FAISS in done.stdout
    report = json.loads(out.read_text())
    assert set(report["sides"]) == {"memjax", "scikit-learn"}
    assert report["sides"]["memjax"]["queries_per_repeat"] == 64
    assert report["sides"]["scikit-learn"]["queries_per_repeat"] == 8
    assert len(report["sides"]["memjax"]["raw_seconds"]) == 2
    assert report["input_bytes"] == 4 * 8 * 564
    if sys.platform.startswith("linux"):
        # an interpreter with JAX and scikit-learn, and hardly any data
        assert 2**26 < report["peak_bytes"]["memjax"] < 2**30


def test_ratio_counts_that_scikit_learn_searches_fewer():
    times = {
        "memjax": [Times(2.0, 4.0), Times(2.0, 4.0), Times(4.0, 4.0)],
        "scikit-learn": [Times(1.0, 2.0), Times(1.0, 2.0), Times(1.0, 2.0)],
    }
    got = _ratio(times, {"memjax": 80, "scikit-learn": 10}, "scikit-learn")
    assert got == {"ratio": 4.0, "ratio_low": 2.0, "ratio_high": 4.0, "cpu_ratio": 4.0}


def test_table_reads_rates_and_ratios():
    side = {"queries_per_second": 1000.0}
    report = {
        "settings": KnnSettings(100, 10**6, 500, 5, 3)._asdict(),
        "sides": {"memjax": side, "faiss": side},
        "ratios": {"faiss": {"ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1, "cpu_ratio": 1.2}},
        "peak_bytes": {"memjax": 2**30},
        "input_bytes": 2**20,
        "load_average": {"before": 0.1, "after": 0.2},
        "missing": "",
    }
    text = knn_table(report)
    assert "1,024 MiB" in text
    assert "1.00x (0.90 to 1.10); 1.20x in CPU time" in text
    # 1000 queries/s x 10^6 rows x 500 multiply-adds
    assert "     1000.0     1000" in text


def test_more_neighbours_than_rows_are_refused():
    with pytest.raises(ValueError, match="--k=10 neighbors of --rows=5"):
        measure_knn(KnnSettings(rows=5))
