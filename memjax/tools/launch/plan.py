"""What a launch writes and runs, as text: templates filled in, commands as words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from memjax.tools.launch.options import Options
from memjax.tools.launch.quoting import for_kubernetes, join, quote, yaml_string

CACHE = "JAX_COMPILATION_CACHE_DIR"
COORDINATOR_PORT = 12355


class Plan(NamedTuple):
    """A launch, ready to be printed or run.

    Attributes:
        files: Name → content, written into the launch's folder.
        commands: What is run, one after the other; ``{folder}`` has been replaced.
        after: What one runs by hand to watch and to stop it.
        notes: What one should know before.
    """

    files: dict[str, str]
    commands: list[list[str]]
    after: list[list[str]]
    notes: list[str]


def template_folder() -> Path:
    """Returns the folder of the templates (of the wheel, or of the checkout)."""
    package = Path(__file__).resolve().parents[2]
    bundled = package / "launch"
    return bundled if bundled.is_dir() else package.parent / "launch"


def render(template: str, options: Options, **values: Any) -> str:
    """Returns a template with the launch's values in it.

    Templates quote each value by a filter: ``q`` for bash, ``words`` for a list of words, ``yaml``
    for a scalar, ``kubernetes`` for a script in a container's command.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(q=quote, words=join, yaml=yaml_string, kubernetes=for_kubernetes)
    return environment.get_template(template).render(
        **{**options._asdict(), "slice": options.slice, "cache": cache_folder(options), **values}
    )


def folder(options: Options) -> Path:
    """Returns where a launch's files are written."""
    return Path(options.out) / "launch" / options.run_id


def cache_folder(options: Options) -> str:
    """Returns where compiled programs are kept: in the run's folder, for the next start."""
    return f"{options.workdir.rstrip('/')}/compile_cache"


def log_folder(options: Options) -> str:
    """Returns where logs are kept: ``--log_dir``, else in the run's folder."""
    return options.log_dir or f"{options.workdir.rstrip('/')}/logs"


def job_words(options: Options, processes: Sequence[str] = ()) -> list[str]:
    """Returns the command that every process runs.

    Args:
        options: The launch.
        processes: Flags that say which process of how many this is.
    """
    own = []
    if options.job == "train":
        own = [f"--config={options.config}", f"--workdir={options.workdir}"]
        slices = f"--config.parallel.slices={options.num_slices}"
        said = any(word.startswith("--config.parallel.slices") for word in options.passed)
        own += [slices] if options.num_slices > 1 and not said else []
    return ["memjax", options.job, *own, *options.passed, *processes]


def install_target(options: Options) -> str:
    """Returns what pip installs; empty where the environment is the user's own."""
    if options.install or options.target == "slurm":
        return options.install
    gpu = options.slice is None
    return "memjax[cuda,gcs]" if gpu else "memjax[tpu,gcs]"


def printed(plan: Plan, options: Options) -> str:
    """Returns a plan as text: each file as it would be written, each command as it would run."""
    place = folder(options)
    lines = [f"# memjax launch --target={options.target}, run id {options.run_id}"]
    lines += [f"# {note}" for note in plan.notes]
    for name, text in plan.files.items():
        lines += ["", f"# file {quote(place / name)}", text.rstrip("\n"), f"# end of {name}"]
    lines += ["", "# commands", *map(join, plan.commands)]
    if plan.after:
        lines += ["", "# to watch it and to stop it", *map(join, plan.after)]
    return "\n".join(lines)
