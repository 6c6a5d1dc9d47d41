"""memjax fit --config=NAME --topology=v5p:4x4x4 [--job=detect] [--out=FILE.json]

Compiles the very training step of a configuration (or its detection) for a TPU slice with the real
TPU compiler, on a machine that has no TPU: needs pip install 'memjax[tpu]'. Says whether it fits,
bytes a chip by kind, flops, what the chips exchange and whether that is weights or activations,
which rule splits what, the least time a run can take (a roofline against the chip's public peaks),
and the largest batch that fits. Nothing is trained and no data is read; the figures are estimates.

The mesh is --config.parallel.data, .fsdp, .tensor; --slices joins several slices. Each compilation
takes minutes for a large network: --largest_batch=false makes it one.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from memjax.cli.flags import MOST, force_flag, refuse_given
from memjax.core.names import MOST_COMPILES
from memjax.runs.config import check_config, plain
from memjax.runtime.locks import hold

if TYPE_CHECKING:
    from memjax.tools.fit.compile import Compiled, Largest, Need, Refused
    from memjax.tools.fit.programs import Program
    from memjax.tools.fit.topology import Topology

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration.", lock_config=True, flag_values=FLAGS
)
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    "",
    "Chips of one slice: v4:AxBxC, v5e:AxB, v5p:AxBxC or v6e:AxB.",
    flag_values=FLAGS,
)
_SLICES = flags.DEFINE_integer(
    "slices",
    None,
    "Slices joined by the data center's network (default: config.parallel.slices).",
    lower_bound=1,
    upper_bound=MOST,
    flag_values=FLAGS,
)
_JOB = flags.DEFINE_enum(
    "job", "train", ["train", "detect"], "What is compiled.", flag_values=FLAGS
)
_BATCH = flags.DEFINE_integer(
    "batch",
    None,
    "Images a step, of all chips together (default: config.train.batch_size).",
    lower_bound=1,
    upper_bound=MOST,
    flag_values=FLAGS,
)
_PROMPTS = flags.DEFINE_integer(
    "prompts",
    None,
    "With --job=detect: prompts at once, of all chips together (default: what detect takes).",
    lower_bound=1,
    upper_bound=MOST,
    flag_values=FLAGS,
)
_GENERATIONS = flags.DEFINE_integer(
    "generations",
    4,
    "With --job=detect: initial noises a prompt.",
    lower_bound=1,
    upper_bound=MOST,
    flag_values=FLAGS,
)
_STEPS = flags.DEFINE_string(
    "steps", "all", "With --job=detect: first, a number or all.", flag_values=FLAGS
)
_LARGEST = flags.DEFINE_boolean(
    "largest_batch",
    True,
    f"Search for the largest batch that fits, with at most {MOST_COMPILES} compilations in all.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.", flag_values=FLAGS)
_TEXT = flags.DEFINE_string(
    "hlo", None, "File to write the compiled program's text to.", flag_values=FLAGS
)
_FORCE = force_flag(FLAGS)

# What a program that does not fit has no figures of.
_EMPTY = dict.fromkeys(("flops", "bytes_accessed", "roofline_seconds", "collectives"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    if _CONFIG.value is None or not _TOPOLOGY.value:
        raise ValueError(
            "memjax fit needs --config and --topology: for instance --config=chexpert_cfg "
            "--topology=v5e:2x4."
        )
    check_config(plain(_CONFIG.value))
    if _JOB.value == "train":
        of_detect = ("prompts", "generations", "steps")
        refuse_given(FLAGS, of_detect, "it is for --job=detect, and --job is train.")
    else:
        refuse_given(FLAGS, ("batch",), "it is for --job=train: give --prompts.")


def main() -> int:
    """Runs the command; the exit code is 0 whether the program fits or not."""
    config = plain(_CONFIG.value)
    from memjax.tools.fit.topology import parse_topology

    slices = config["parallel"]["slices"] if _SLICES.value is None else _SLICES.value
    config["parallel"]["slices"] = slices
    topology = parse_topology(_TOPOLOGY.value, slices)
    with contextlib.ExitStack() as stack:
        for flag, file in (("out", _OUT.value), ("hlo", _TEXT.value)):
            if file:
                stack.enter_context(hold(file, force=_FORCE.value, flag=flag, kind="file"))
        return _fit(config, topology)


def _fit(config: dict[str, Any], topology: Topology) -> int:
    from memjax.runtime.json import write_json
    from memjax.tools.fit.report import table
    from memjax.tools.fit.topology import devices_of, prepare_compiler

    prepare_compiler()
    program = _program(config, devices_of(topology))
    asked = _BATCH.value if _JOB.value == "train" else _PROMPTS.value
    batch = program.batch if asked is None else asked
    figures = measure(program, topology, batch, search=_LARGEST.value, keep=_TEXT.value)
    report = {"config": _name(), "job": _JOB.value, **figures}
    print(table(report))
    if _OUT.value:
        print(f"all figures: {write_json(_OUT.value, report)}")
    return 0


def _name() -> str:
    flag: Any = FLAGS["config"]
    return Path(flag.config_filename).stem


def _program(config: dict[str, Any], devices: list[Any]) -> Program:
    from memjax.tools.fit.programs import detect_program, train_program

    if _JOB.value == "train":
        return train_program(config, devices)
    steps: Any = int(_STEPS.value) if _STEPS.value.isdigit() else _STEPS.value
    return detect_program(config, devices, generations=_GENERATIONS.value, steps=steps)


def measure(
    program: Program, topology: Topology, batch: int, *, search: bool, keep: str | None = None
) -> dict[str, Any]:
    """Compiles a program and returns the report on it.

    Args:
        program: What is compiled.
        topology: The slices.
        batch: Rows of the batch, of all devices together.
        search: Whether to look for the largest batch.
        keep: File for the program's text.
    """

    from memjax.runtime.files import write_bytes
    from memjax.tools.fit.compile import Compiled, Refused, compile_at, largest_batch, need_of
    from memjax.tools.fit.report import base_report, duration, full_report, gib, largest_report

    def compiled_at(rows: int) -> Compiled | Refused:
        _say(f"compiling for {rows} {program.rows} ...")
        outcome = compile_at(program, rows)
        if isinstance(outcome, Refused):
            _say(f"  {rows} do not fit: {outcome.said}")
        else:
            total = gib(outcome.memory["total"])
            _say(f"  {rows} fit: {total} a chip, compiled in {duration(outcome.seconds)}")
        return outcome

    def probe(rows: int) -> Need:
        return need_of(compiled_at(rows))

    first = compiled_at(batch)
    report = base_report(program, topology, batch, first)
    if isinstance(first, Compiled):
        if keep:
            write_bytes(keep, first.text.encode())
        report |= full_report(program, topology, batch, first)
    found: Largest | None = None
    if search:
        limit = report["memory"]["limit"]
        found = largest_batch(probe, (batch, need_of(first)), program.unit, limit)
    return {**_EMPTY, **report, "largest_batch": largest_report(found)}
