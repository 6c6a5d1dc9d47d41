"""``memjax bench`` of a configuration's network: measure, print, write."""

from collections.abc import Mapping
from typing import Any

from memjax.cli.bench_run import run_under
from memjax.cli.bench_workload import check_comparable
from memjax.tools.bench.report import finish, introduce
from memjax.tools.bench.tables import model_table
from memjax.tools.bench.task import Settings
from memjax.tools.bench.worker import DEFAULT, KEEP

BOTH = "both"


def run_model(
    size: str,
    config: Mapping[str, Any],
    settings: Settings,
    allocator: str,
    command: str,
    out: str | None,
) -> int:
    """Measures, prints the figures and, where asked, writes them as JSON.

    Args:
        size: What the network is called.
        config: The plain configuration.
        settings: How much is measured.
        allocator: ``keep``, ``default`` or ``both``.
        command: What to type to measure again.
        out: JSON file, or None.
    """
    check_comparable(config)
    facts = introduce()
    print(f"{size}: {amounts_words(config, settings)}")
    runs = []
    for chosen in [DEFAULT, KEEP] if allocator == BOTH else [allocator]:
        runs.append({"setting": chosen, **run_under(chosen, config, settings)})
        print("\n" + model_table(runs[-1]))
    report = {"runs": runs, "settings": settings._asdict(), "config": dict(config)}
    finish("model", size, report, command=command, facts=facts, out=out)
    return 0


def amounts_words(config: Mapping[str, Any], settings: Settings) -> str:
    """Says how much one repeat of each case is."""
    options, sampling = config["audit"]["options"], config["sampling"]
    data, noises = config["data"], options["generations"]
    amounts = {
        "train": f"training: {settings.steps} steps of {config['train']['batch_size']}",
        "sample": f"sampling: {settings.samples} in {sampling['num_steps']} steps",
        "detect": f"detection: {settings.prompts} prompts x {noises} noises",
        "mitigate": (
            f"mitigation: {settings.mitigate_prompts} prompts x {noises} noises x "
            f"{options['first_step_iters']} iterations"
        ),
    }
    said = [words for name, words in amounts.items() if name in settings.only]
    pixels = f"{data['size']} x {data['size']} pixels, float32, {settings.repeats} repeats"
    return "; ".join([pixels, *said])
