"""``memjax bench --what=knn``: exact nearest neighbors beside faiss and scikit-learn."""

import importlib
import importlib.util
import multiprocessing
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float

from memjax.evaluate.similarity.knn import knn
from memjax.runtime.cores import usable_cores
from memjax.tools.bench.peak import Probe
from memjax.tools.bench.report import finish, introduce
from memjax.tools.bench.task import KnnSettings
from memjax.tools.bench.timing import Times, alternate, is_busy, load_average
from memjax.tools.bench.worker import peak_host_bytes

SKLEARN_PART = 8  # scikit-learn searches one query in so many: the rate does not depend on it much
NO_FAISS = "faiss is not installed, so it is left out: pip install 'memjax[bench]'"


def run_knn(settings: KnnSettings, command: str, out: str | None) -> int:
    """Measures, prints the figures and, where asked, writes them as JSON."""
    facts = introduce()
    report = measure_knn(settings)
    print("\n" + knn_table(report))
    finish("knn", "knn", report, command=command, facts=facts, out=out, versions=_versions())
    return 0


def measure_knn(settings: KnnSettings) -> dict[str, Any]:
    """Runs the sides in turn on normal vectors; then each side's peak memory in its own process.

    Raises:
        ValueError: ``k`` exceeds the rows.
    """
    if settings.k > settings.rows:
        raise ValueError(
            f"--k={settings.k} neighbors of --rows={settings.rows} were asked for, expected no "
            "more than the rows; lower --k."
        )
    before = load_average()
    runs, amounts = _sides(settings)
    warmup, times = alternate(runs, settings.repeats)
    return {
        "settings": settings._asdict(),
        "sides": {n: _figures(amounts[n], times[n], warmup[n]) for n in runs},
        "ratios": {n: _ratio(times, amounts, n) for n in runs if n != "memjax"},
        "peak_bytes": {n: _apart(peak_memory, settings, n) for n in runs if n != "scikit-learn"},
        "input_bytes": 4 * settings.dim * (settings.queries + settings.rows),
        "load_average": {"before": before, "after": load_average()},
        "busy": is_busy(before),
        "peak": Probe().facts(),
        "missing": "" if "faiss" in runs else NO_FAISS,
    }


def peak_memory(settings: KnnSettings, side: str) -> int | None:
    """Returns the most memory this process has held after one search, or None if unknown."""
    queries, rows = _vectors(settings)
    search = knn if side == "memjax" else _faiss_search(rows)
    _ = search(queries, rows, settings.k)
    return peak_host_bytes()


def knn_table(report: Mapping[str, Any]) -> str:
    """Returns the figures as text."""
    size, load = KnnSettings(**report["settings"]), report["load_average"]
    lines = [
        f"{size.queries:,} queries x {size.rows:,} rows x {size.dim} values, k = {size.k}; "
        f"median of {size.repeats}; load average {load['before']} before, {load['after']} after",
        f"{'':<14}{'queries/s':>10}{'GFLOP/s':>9}{'peak memory':>13}  memjax is faster by",
    ]
    gflop = 2e-9 * size.rows * size.dim
    for name, side in report["sides"].items():
        peak = report["peak_bytes"].get(name)
        memory = f"{peak / 2**20:,.0f} MiB" if peak else "-"
        rate = side["queries_per_second"]
        line = f"{name:<14}{rate:>10.1f}{rate * gflop:>9.0f}{memory:>13}  "
        lines.append((line + _words(report["ratios"].get(name))).rstrip())
    lines.append(
        f"peak memory: of a process of its own, with {report['input_bytes'] / 2**20:,.0f} MiB of "
        f"inputs; scikit-learn: on 1 in {SKLEARN_PART} queries, and its memory is not measured"
    )
    return "\n".join([*lines, report["missing"]]).rstrip()


def _sides(settings: KnnSettings) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Name → one repeat's work, and how many queries it searches."""
    queries, rows = _vectors(settings)
    few = queries[: max(len(queries) // SKLEARN_PART, 1)]
    runs: dict[str, Callable[[], Any]] = {"memjax": lambda: knn(queries, rows, settings.k)[0]}
    if importlib.util.find_spec("faiss"):
        search = _faiss_search(rows)
        runs["faiss"] = lambda: search(queries, rows, settings.k)[0]
    neighbors = importlib.import_module("sklearn.neighbors")
    brute = neighbors.NearestNeighbors(algorithm="brute", n_jobs=usable_cores()).fit(rows)
    runs["scikit-learn"] = lambda: brute.kneighbors(few, settings.k)[0]
    amounts = {name: len(few) if name == "scikit-learn" else len(queries) for name in runs}
    return runs, amounts


def _faiss_search(rows: np.ndarray) -> Callable[..., Any]:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(usable_cores())
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    return lambda queries, _, k: index.search(queries, k)


def _vectors(
    settings: KnnSettings,
) -> tuple[Float[np.ndarray, "queries dim"], Float[np.ndarray, "rows dim"]]:
    rng = np.random.default_rng(0)
    shapes = (settings.queries, settings.dim), (settings.rows, settings.dim)
    one, other = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return one, other


def _figures(amount: int, times: list[Times], warmup: Times) -> dict[str, Any]:
    wall = statistics.median(t.wall for t in times)
    return {
        "queries_per_second": amount / wall,
        "queries_per_repeat": amount,
        "median_cpu_seconds": statistics.median(t.cpu for t in times),
        "raw_seconds": [t.wall for t in times],
        "raw_cpu_seconds": [t.cpu for t in times],
        "warmup_seconds": warmup.wall,
    }


def _ratio(
    times: Mapping[str, list[Times]], amounts: Mapping[str, int], other: str
) -> dict[str, float]:
    """Rate of memjax over the other's: of medians, the extremes of the pairs, processor time."""
    scale = amounts["memjax"] / amounts[other]
    ours, theirs = times["memjax"], times[other]
    pairs = [scale * t.wall / m.wall for m, t in zip(ours, theirs, strict=True)]
    cpu = [statistics.median(t.cpu for t in side) for side in (theirs, ours)]
    walls = [statistics.median(t.wall for t in side) for side in (theirs, ours)]
    return {
        "ratio": scale * walls[0] / walls[1],
        "ratio_low": min(pairs),
        "ratio_high": max(pairs),
        "cpu_ratio": scale * cpu[0] / cpu[1],
    }


def _words(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    low, high = ratio["ratio_low"], ratio["ratio_high"]
    return f"{ratio['ratio']:.2f}x ({low:.2f} to {high:.2f}); {ratio['cpu_ratio']:.2f}x in CPU time"


def _apart(fn: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(fn, *arguments).result()


def _versions() -> dict[str, str]:
    names = {"faiss": "faiss", "scikit-learn": "sklearn"}
    present = {n: m for n, m in names.items() if importlib.util.find_spec(m)}
    return {n: str(importlib.import_module(m).__version__) for n, m in present.items()}
