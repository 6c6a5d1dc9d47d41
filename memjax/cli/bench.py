"""memjax bench [demo|chexpert-128] [--only=train,sample,detect,mitigate,compile] [--out=FILE.json]
memjax bench sd [--prompts=8] [--generations=1] [--iterations=10] [--out=FILE.json]
memjax bench knn [--queries=4096] [--rows=100000] [--dim=512] [--k=10] [--out=FILE.json]
memjax bench --table=FILE.json,FILE.json --out=tests/benchmarks.md

Measures memjax against the same network of diffusers' parts in eager torch, on this CPU, in one
run and in turn: training and guided sampling, images per second; first-step detection and
embedding mitigation against plain loops that compute both halves of the guidance every time, one
prompt at a time. Each side lives in a process of its own, with the same allocator setting and
number of threads. Prints ratios, TFLOP/s, their share of the machine's measured peak, and memory;
and how long memjax's first calls take, cold and with a filled compilation cache. Without torch,
memjax is measured alone.
Sizes: demo is the demo's network; chexpert-128 is chexpert_cfg's, in float32, with little asked for
(minutes, up to 20 GB of memory in all); sd14 is the same as sd.
sd: Stable Diffusion 1.4's network with random weights, the same in diffusers: a guided pair,
first-step detection, ten iterations of mitigation (up to 16 GB of memory in all); on a GPU in
bfloat16, against eager and compiled torch.
knn: exact nearest neighbors against faiss's exact index and scikit-learn's brute force.
--table writes what was measured before as tables; sections of other sizes stay as they are.
"""

import difflib
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from memjax.cli.flags import MOST, force_flag
from memjax.runs.config import check_config, plain
from memjax.runtime.locks import hold
from memjax.tools.bench.sizes import ALL_SIZES, DEMO, MODEL_SIZES, choose, config_for, resized
from memjax.tools.bench.stable_diffusion.task import SD_CASES, SdSettings
from memjax.tools.bench.task import BOTH, COMPILE, KnnSettings, Settings
from memjax.tools.bench.timing import CASES
from memjax.tools.bench.worker import DEFAULT, KEEP

MODEL_CASES = (*CASES, COMPILE)

_TYPED: list[str] = []
FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration.",
    lock_config=True,
    flag_values=FLAGS,
)
_ONLY = flags.DEFINE_list(
    "only",
    None,
    f"Which of {', '.join(MODEL_CASES)}; with sd of {', '.join(SD_CASES)}. Default: all.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "JSON file for figures, raw times, versions and machine; with --table the Markdown file.",
    flag_values=FLAGS,
)
_TABLE = flags.DEFINE_list(
    "table", None, "JSON files to write as tables, instead of measuring.", flag_values=FLAGS
)
_WHAT = flags.DEFINE_enum(
    "what",
    "model",
    ["model", "sd", "knn", *MODEL_SIZES],
    "A model's cases, Stable Diffusion's network, or nearest neighbors.",
    flag_values=FLAGS,
)
_SIZE = flags.DEFINE_enum(
    "size",
    None,
    list(ALL_SIZES),
    "The network (default: demo; with sd: sd14); tiny is a trial.",
    flag_values=FLAGS,
)


def _number(name: str, default: int | None, help: str) -> flags.FlagHolder:
    return flags.DEFINE_integer(name, default, help, 1, MOST, flag_values=FLAGS)


_REPEATS = _number("repeats", None, "Timed repeats a side (default: 5; chexpert-128: 3).")
_BATCH = _number("batch", None, "Images a training batch (default: the configuration's; 4).")
_STEPS = _number("steps", None, "Training steps a repeat (default: 8; chexpert-128: 1).")
_SAMPLES = _number("samples", None, "Images a repeat of sampling (default: 16; 1).")
_PROMPTS = _number("prompts", None, "Prompts a repeat of detection (default: 32; 2; with sd: 8).")
_MITIGATED = _number("mitigate_prompts", None, "Prompts a repeat of mitigation (default: 8; 1).")
_SD = {
    name: _number(name, SdSettings._field_defaults[name], f"With sd: {help}")
    for name, help in {
        "generations": "initial noises a prompt.",
        "iterations": "updates of the embedding.",
        "chunk": "prompts a call of memjax's detection.",
        "long_repeats": "timed repeats of detection and mitigation.",
    }.items()
}
_KNN = {
    name: _number(name, KnnSettings._field_defaults[name], f"With knn: {help}")
    for name, help in {
        "queries": "rows searched for.",
        "rows": "rows of the database.",
        "dim": "values a row.",
        "k": "neighbours.",
    }.items()
}
_ALLOCATOR = flags.DEFINE_enum(
    "allocator",
    KEEP,
    [KEEP, DEFAULT, BOTH],
    "keep: freed memory stays mapped, as in every memjax command, for torch as well; default: the "
    "system's own settings for both sides; both: one after the other.",
    flag_values=FLAGS,
)
_FORCE = force_flag(FLAGS)


def default_config(arguments: Sequence[str]) -> str:
    """Returns the configuration of a command line that names none; keeps what was typed."""
    _TYPED[:] = arguments
    return config_for(arguments)


def main() -> int:
    """Runs the command."""
    from memjax.tools.bench.markdown import is_tables

    if not _OUT.value:
        return _run()
    force = _FORCE.value or bool(_TABLE.value and is_tables(_OUT.value))
    with hold(_OUT.value, reads=_TABLE.value or (), force=force, kind="file"):
        return _run()


def _run() -> int:
    from memjax.tools.bench.knn import run_knn
    from memjax.tools.bench.markdown import write_tables
    from memjax.tools.bench.report import command_of
    from memjax.tools.bench.run import run_model
    from memjax.tools.bench.stable_diffusion.run import run_sd

    if _TABLE.value:
        print(f"tables: {write_tables(_TABLE.value, _OUT.value)}")
        return 0
    what, size = choose(_WHAT.value, _SIZE.value)
    command = command_of(_TYPED)
    if what == "knn":
        numbers: dict[str, Any] = {name: flag.value for name, flag in _KNN.items()}
        return run_knn(KnnSettings(**numbers, repeats=_REPEATS.value or 5), command, _OUT.value)
    if what == "sd":
        return run_sd(_sd_settings(size), _ALLOCATOR.value, command, _OUT.value)
    config, name = _model_config(size)
    settings = _model_settings(size)
    return run_model(name, config, settings, _ALLOCATOR.value, command, _OUT.value)


def _model_config(size: str | None) -> tuple[dict[str, Any], str]:
    """Returns the plain, checked configuration and what its table is called."""
    given = config_flags.get_override_values(FLAGS["config"])
    name = config_flags.get_config_filename(FLAGS["config"]).rpartition("/")[2].partition(".")[0]
    config = resized(plain(_CONFIG.value), size or DEMO, given)
    if _BATCH.value:
        config["train"]["batch_size"] = _BATCH.value
    check_config(config)
    return config, size or (DEMO if name == MODEL_SIZES[DEMO].config else name)


def _model_settings(size: str | None) -> Settings:
    asked = {
        "repeats": _REPEATS.value,
        "steps": _STEPS.value,
        "prompts": _PROMPTS.value,
        "mitigate_prompts": _MITIGATED.value,
        "samples": _SAMPLES.value,
    }
    numbers = {name: value for name, value in asked.items() if value is not None}
    only = _cases(_ONLY.value, MODEL_CASES)
    return MODEL_SIZES[size or DEMO].settings._replace(only=only, **numbers)


def _sd_settings(size: str | None) -> SdSettings:
    numbers: dict[str, Any] = {name: flag.value for name, flag in _SD.items()}
    return SdSettings(
        size=size or "sd14",
        only=_cases(_ONLY.value, tuple(SD_CASES)),
        repeats=_REPEATS.value or 5,
        prompts=_PROMPTS.value or 8,
        **numbers,
    )


def _cases(names: list[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    names = list(known) if names is None else names
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"--only={name} is unknown, expected {', '.join(known)}.{hint}")
    if not names:
        raise ValueError(f"--only is empty, expected some of {', '.join(known)}.")
    return tuple(dict.fromkeys(names))
