"""Finds the command, parses its flags, and turns a user's mistake into one sentence."""

import difflib
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from memjax.runtime.allocator import fill_holes_after_compilation, keep_freed_memory
from memjax.runtime.interruption import RESTART_EXIT_CODE, stop_at_once

COMMANDS = {
    "demo": "Draw phantoms, train, audit: the whole story in under five minutes on a laptop.",
    "train": "Train a diffusion model from a configuration; resumes by itself.",
    "sample": "Make images for prompts.",
    "detect": "Score how memorized each prompt is.",
    "explain": "Show which part of each prompt drives the copying.",
    "mitigate": "Optimize each prompt's embedding; before and after, likeness and CLIP score.",
    "audit": "Detect, explain, mitigate and validate a model; write report.html.",
    "data": "Show what a data set holds: balance, repeats, rows at risk; write data.html.",
    "copies": "Which generated images copy a training image? No model needed; write index.html.",
    "extract": "Which images does a model keep giving back? Cliques of generations; index.html.",
    "convert": "Turn a Stable-Diffusion-format model into a diffusers folder of safetensors.",
    "sweep": "Answer one question with several arms and seeds; write sweep.html.",
    "fit": "Compile for a TPU slice that is not there: does it fit, and how fast at best?",
    "launch": "Train in several processes here, on TPU pods, Kubernetes, SLURM or SkyPilot.",
    "bench": "Measure speed side by side with torch: bench, bench sd, bench knn (with faiss).",
    "doctor": "Say what is installed, what is missing and how to get it.",
}
# memjax COMMAND WORD = memjax COMMAND --FLAG=WORD
_WORDS = {"bench": ("what", ("model", "demo", "chexpert-128", "knn", "sd"))}
_HOME = re.compile(r"^(--?\w+=)~(?=/|$)")  # shells leave it as it is behind an equals sign
_RANGE = re.compile(r"^flag --(\S+): \S+ is not (an integer|a number) in the range \[(.+), (.+)\]$")
_HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")
EXIT_USER_ERROR = 2
# Stopped, these go on where they were when the same command is started again.
_GO_ON = ("train", "demo", "detect", "explain", "mitigate", "audit", "sweep", "copies", "extract")


def _usage() -> str:
    lines = [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    return (
        "memjax: train diffusion models, find what they memorized, explain it, take it away.\n\n"
        "usage: memjax COMMAND [--flag=value ...]     (memjax COMMAND --help for its flags)\n\n"
        + "\n".join(lines)
        + "\n\nMEMJAX_TRACEBACK=1 shows where an error came from."
    )


def _fail(message: str) -> int:
    print(f"memjax: {message}", file=sys.stderr)
    return EXIT_USER_ERROR


def _help(module) -> str:
    known = [module.FLAGS[name] for name in getattr(module, "FLAGS", ())]
    lines = [module.__doc__.strip(), "", "flags:"]
    for flag in sorted(known, key=lambda f: f.name):
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines.append(f"  --{flag.name}: {flag.help}{default}")
    if any(flag.name == "config" for flag in known):
        lines += ["", "Any value of the configuration can be set: --config.train.steps=200"]
    return "\n".join(lines if known else lines[:1])


def _cluster_help(name: str) -> str:
    from memjax.runtime import supervisor

    if name not in supervisor.COMMANDS:
        return ""
    return f"\n\nseveral processes or hosts, the same command in each:\n{supervisor.HELP}"


def _parse(module, argv: Sequence[str]) -> list[str]:
    """Parses flags; raises ValueError with the parser's own sentence (and its suggestion)."""
    from absl import flags

    from memjax.cli.config import resolve_config_flags
    from memjax.cli.flags import check_numbers

    values = getattr(module, "FLAGS", flags.FlagValues())
    default = getattr(module, "DEFAULT_CONFIG", None)
    if hasattr(module, "default_config"):  # where it depends on the other arguments
        default = module.default_config(argv[1:])
    resolved = resolve_config_flags(list(argv), default)
    before, sys.argv = sys.argv, resolved  # config_flags looks for overrides there
    try:
        rest = values(resolved)
        check_numbers(values)
        return rest
    except flags.Error as error:
        said = _RANGE.sub(r"--\1, expected \2 from \3 to \4.", str(error).strip())
        raise ValueError(said.splitlines()[-1] if "Traceback" in said else said) from error
    except (AttributeError, KeyError, TypeError) as error:  # a field the configuration lacks
        raise ValueError(_unknown_field(str(error))) from error
    finally:
        sys.argv = before


def _unknown_field(text: str) -> str:
    hint = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text)
    if hint:
        return f"the configuration has no field {hint[2]!r}: did you mean {hint[1]!r}?"
    said = " ".join(text.replace("\\n", " ").split()).strip("'\"")
    return f"the configuration does not take that: {said}"


def _with_flag(name: str, arguments: Sequence[str]) -> list[str]:
    """Turns a leading word that stands for a flag's value into that flag."""
    flag, words = _WORDS.get(name, ("", ()))
    if arguments and arguments[0] in words:
        return [f"--{flag}={arguments[0]}", *arguments[1:]]
    return list(arguments)


def _run_command(name: str, arguments: Sequence[str], own_process: bool = False) -> int:
    # Each command has flags of its own; a fresh import forgets those of an earlier call.
    sys.modules.pop(f"memjax.cli.{name}", None)
    if hasattr(sys.modules.get(f"memjax.cli.{name}_run"), "_MODEL"):  # it holds those flags, too
        del sys.modules[f"memjax.cli.{name}_run"]
    module = importlib.import_module(f"memjax.cli.{name}")
    if any(a in _HELP for a in arguments):
        print(_help(module) + _cluster_help(name))
        return 0
    if name == "launch":  # what follows -- is passed on, and --config stays a name
        module.read(arguments)
        return int(module.main())
    arguments = [_HOME.sub(lambda found: found[1] + str(Path.home()), a) for a in arguments]
    rest = _parse(module, [f"memjax {name}", *_with_flag(name, arguments)])[1:]
    if rest:
        return _fail(
            f"{name} got {rest[0]!r}, expected flags only (--flag=value): see memjax {name} --help."
        )
    if hasattr(module, "check"):  # mistakes that show without jax
        module.check()
    if name != "doctor":
        if own_process:
            from memjax.runtime.devices import share_cores

            share_cores(name)
        fill_holes_after_compilation()
    return int(module.main() or 0)


def _run_here_or_there(name: str, arguments: list[str], own_process: bool) -> int:
    """Runs a command, with the other processes of a cluster where there are any."""
    from memjax.runtime import supervisor

    if name not in supervisor.COMMANDS:
        return _run_command(name, arguments)
    flags, rest = supervisor.split_flags(arguments)
    reason = supervisor.wanted(flags)
    if reason is None or any(a in _HELP for a in rest):
        return _run_command(name, rest, own_process)
    if supervisor.SUPERVISED not in os.environ:
        return supervisor.supervise([name, *arguments], flags)
    return supervisor.run_joined(
        lambda: _run_among_others(name, rest), _fail_or_raise, flags, reason
    )


def _run_among_others(name: str, arguments: list[str]) -> int:
    """Runs a command of several processes; a training has signals of its own (StopSignals)."""
    if name == "train":
        return _run_command(name, arguments)
    with stop_at_once() as came:
        try:
            return _run_command(name, arguments)
        except KeyboardInterrupt:
            code = _stopped(name, came)
            sys.stderr.flush()
            os._exit(code)  # the others are in the middle of a step that needs this process


def _stopped(name: str, came: Sequence[signal.Signals]) -> int:
    """Says how to go on after a signal, and returns the exit code."""
    number = came[0] if came else signal.SIGINT
    goes_on = name in _GO_ON
    rest = (
        "what was done is kept: start the same command again to go on."
        if goes_on
        else f"{name} keeps nothing that is unfinished: start the same command again, from the "
        "beginning."
    )
    print(f"memjax: stopped by {number.name}; {rest}", file=sys.stderr)
    return RESTART_EXIT_CODE if goes_on else 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0; 2 for a user's mistake; 75 where it was stopped and goes on if it is started again; 128 and
    the signal's number where it was stopped and begins anew.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_usage())
        return 0
    if arguments[0] in ("--version", "version"):
        import memjax

        print(f"memjax {memjax.__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return _fail(f"there is no command {name!r}.{hint} Commands: {', '.join(COMMANDS)}.")
    keep_freed_memory()
    with stop_at_once() as came:
        try:
            return _run_here_or_there(name, arguments[1:], own_process=argv is None)
        except BrokenPipeError:
            return 0
        except KeyboardInterrupt:
            return _stopped(name, came)
        except Exception as error:
            return _fail_or_raise(error)


def _fail_or_raise(error: Exception) -> int:
    code = _explained(error)
    if code is None or os.environ.get("MEMJAX_TRACEBACK"):
        raise error
    return code


def _explained(error: Exception) -> int | None:
    """Prints one sentence for errors that are no bug; returns the exit code, or None."""
    from memjax.runtime.files import said_of

    if isinstance(error, OSError):
        return _fail(said_of(error))
    if isinstance(error, ValueError):
        return _fail(str(error))
    from memjax.runtime.interruption import Interrupted
    from memjax.training.meter import TrainingDiverged

    if isinstance(error, Interrupted):
        print(f"memjax: {error}", file=sys.stderr)
        return RESTART_EXIT_CODE
    if isinstance(error, TrainingDiverged):
        return _fail(str(error))
    return None


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
