"""The flags that several commands share, defined once: model, prompts, sampling, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from memjax.core.names import DTYPES, MOST_SEED, NULLS, SPACINGS, STEPPERS

if TYPE_CHECKING:  # a command's help and its refusals do without jax
    from memjax.runs.model import Model
    from memjax.sampling import SamplingOptions

_MODEL_HELP = (
    "Folder of a memjax run or of a diffusers model, a single .safetensors file, or a hub id."
)


MOST = 1_000_000_000  # of what is counted; what does not fit into memory is said once it is known


class ModelFlags(NamedTuple):
    """``--model`` and how it is opened; see :func:`model_flags`."""

    model: flags.FlagHolder
    dtype: flags.FlagHolder
    revision: flags.FlagHolder
    variant: flags.FlagHolder
    tokenizer: flags.FlagHolder

    @property
    def value(self) -> str:
        """What ``--model`` says."""
        return self.model.value

    def load(self) -> Model:
        """Opens the model."""
        from memjax.runs.model import load_model

        return load_model(
            self.model.value,
            self.dtype.value,
            revision=self.revision.value,
            variant=self.variant.value,
            tokenizer=self.tokenizer.value,
        )


def model_flags(values: flags.FlagValues) -> ModelFlags:
    """Defines ``--model``, ``--dtype``, ``--revision``, ``--variant`` and ``--tokenizer``."""
    return ModelFlags(
        flags.DEFINE_string("model", "", _MODEL_HELP, flag_values=values),
        flags.DEFINE_enum(
            "dtype",
            None,
            DTYPES,
            "Type the network computes in (default: a run's own, float32 for other models).",
            flag_values=values,
        ),
        flags.DEFINE_string(
            "revision", "", "Of a hub id: branch, tag or commit.", flag_values=values
        ),
        flags.DEFINE_string(
            "variant",
            "",
            "Of a diffusers folder or hub id: which weights, such as fp16.",
            flag_values=values,
        ),
        flags.DEFINE_string(
            "tokenizer", "", "Of a single file: folder with its tokenizer.", flag_values=values
        ),
    )


class SamplingFlags(NamedTuple):
    """How images are made, where it differs from the model's; see :func:`sampling_flags`."""

    stepper: flags.FlagHolder
    num_steps: flags.FlagHolder
    guidance_scale: flags.FlagHolder
    spacing: flags.FlagHolder
    steps_offset: flags.FlagHolder

    def options(self, model: Any) -> SamplingOptions:
        """Returns how the model samples, with the command line's changes."""
        from memjax.sampling import SamplingOptions

        given = {name: holder.value for name, holder in self._asdict().items()}
        changes = {name: value for name, value in given.items() if value not in (None, "")}
        return SamplingOptions(**{**model.config["sampling"], **changes})


def sampling_flags(values: flags.FlagValues) -> SamplingFlags:
    """Defines the flags of :class:`SamplingFlags`; each defaults to the model's own."""
    return SamplingFlags(
        flags.DEFINE_enum(
            "stepper",
            None,
            STEPPERS,
            "How a step is made (default: the model's).",
            flag_values=values,
        ),
        flags.DEFINE_integer(
            "num_steps",
            None,
            "Steps of the trajectory (default: the model's).",
            lower_bound=1,
            upper_bound=100_000,
            flag_values=values,
        ),
        flags.DEFINE_float(
            "guidance_scale",
            None,
            "Guidance scale (default: the model's).",
            lower_bound=-100.0,
            upper_bound=100.0,
            flag_values=values,
        ),
        flags.DEFINE_enum(
            "spacing",
            None,
            SPACINGS,
            "How timesteps are spaced (default: the model's).",
            flag_values=values,
        ),
        flags.DEFINE_integer(
            "steps_offset",
            None,
            "Added to leading timesteps; 1 for Stable Diffusion (default: the model's).",
            lower_bound=0,
            upper_bound=100_000,
            flag_values=values,
        ),
    )


class NoiseFlags(NamedTuple):
    """The initial noise; see :func:`noise_flags`."""

    generations: flags.FlagHolder
    seed: flags.FlagHolder


def noise_flags(
    values: flags.FlagValues, generations: str = "Initial noises a prompt."
) -> NoiseFlags:
    """Defines ``--generations`` and ``--seed``."""
    return NoiseFlags(
        flags.DEFINE_integer("generations", 4, generations, 1, 100_000, flag_values=values),
        seed_flag(values, 0, "Seed of the noise."),
    )


def seed_flag(values: flags.FlagValues, default: int | None, help: str) -> flags.FlagHolder:
    """Defines ``--seed``; what a key does not hold in full is refused, never wrapped."""
    return flags.DEFINE_integer("seed", default, help, 0, MOST_SEED, flag_values=values)


def prompts_flag(values: flags.FlagValues) -> flags.FlagHolder:
    """Defines ``--prompts``."""
    return flags.DEFINE_string(
        "prompts",
        "",
        "File of prompts: .jsonl (caption or labels), .txt (one a line) or .csv (column caption, "
        "prompt or text).",
        flag_values=values,
    )


def initial_noise_flag(values: flags.FlagValues) -> flags.FlagHolder:
    """Defines ``--initial_noise``."""
    return flags.DEFINE_string(
        "initial_noise",
        "",
        ".npy, float32 [generations, height, width, channels], shared by all prompts; torch's "
        "[generations, channels, height, width] is recognized by its shape.",
        flag_values=values,
    )


def chunk_flag(values: flags.FlagValues) -> flags.FlagHolder:
    """Defines ``--chunk``."""
    return flags.DEFINE_integer(
        "chunk",
        0,
        "Prompts evaluated together; 0 takes what fits into the device's memory.",
        lower_bound=0,
        upper_bound=MOST,
        flag_values=values,
    )


def force_flag(values: flags.FlagValues) -> flags.FlagHolder:
    """Defines ``--force``."""
    return flags.DEFINE_boolean(
        "force", False, "Replace files there that memjax did not write.", flag_values=values
    )


class NullFlags(NamedTuple):
    """What stands for the unconditional prediction; see :func:`null_flags`."""

    null: flags.FlagHolder
    companion: flags.FlagHolder

    @property
    def value(self) -> str:
        """What ``--null`` says."""
        return self.null.value

    def condition(self, model: Model, seed: int, dtype: str | None) -> Any:
        """Returns the null condition, of :func:`memjax.runs.null.null_condition`."""
        from memjax.runs.null import null_condition

        return null_condition(
            model, self.value, companion=self.companion.value, seed=seed, dtype=dtype
        )

    def apply(self, model: Model, seed: int, dtype: str | None) -> Model:
        """Returns the model with it, of :func:`memjax.runs.null.with_null`."""
        from memjax.runs.null import with_null

        return with_null(model, self.value, companion=self.companion.value, seed=seed, dtype=dtype)


def null_flags(values: flags.FlagValues) -> NullFlags:
    """Defines ``--null`` and ``--companion``."""
    return NullFlags(
        flags.DEFINE_enum(
            "null",
            "trained",
            NULLS,
            "What stands for the unconditional prediction: the trained null condition, the mean "
            "prediction over random_labels, or a companion model's.",
            flag_values=values,
        ),
        flags.DEFINE_string(
            "companion", "", "Unconditional model, for --null=companion.", flag_values=values
        ),
    )


def check_numbers(values: flags.FlagValues) -> None:
    """Refuses numbers that are not finite; the parser, which compares with bounds, lets them pass.

    A flag whose own upper bound is infinite may be infinite. Fields of a configuration have their
    ranges in :mod:`memjax.runs.config`.
    """
    for name in values:
        value, parser = values[name].value, values[name].parser
        if not isinstance(value, float) or "." in name:
            continue
        high = getattr(parser, "upper_bound", None)
        if math.isnan(value) or (math.isinf(value) and value != high):
            low = getattr(parser, "lower_bound", None)
            raise ValueError(f"--{name}={value}, expected a finite number from {low} to {high}.")


def numbers(name: str, texts: Sequence[str] | None, low: float, high: float) -> list[float]:
    """Reads a flag that lists numbers; each must lie in the range, whole where ``low`` is an int.

    Raises:
        ValueError: Naming the flag and the one that does not fit.
    """
    kind = int if isinstance(low, int) else float
    what = "whole numbers" if kind is int else "numbers"
    read = []
    for text in texts or ():
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            given = f"={','.join(texts or ())}:" if kind is int else f" holds {text!r},"
            raise ValueError(
                f"--{name}{given} expected {what} from {low} to {high}, joined by commas."
            )
        read.append(number)
    return read


def refuse_given(values: flags.FlagValues, names: Sequence[str], why: str) -> None:
    """Refuses flags that were given and would be ignored; ``why`` ends the sentence."""
    for name in names:
        if values[name].present:
            raise ValueError(f"--{name}={values[name].value} would change nothing: {why}")


def require_files(**paths: str) -> None:
    """Refuses flags that name a file which is not there, before anything is loaded."""
    for name, path in paths.items():
        if path and not Path(path).is_file():
            raise ValueError(f"--{name}: {path} is not a file, expected the path of one.")


def refuse_files(**paths: str) -> None:
    """Refuses flags that name a file where a folder is written, before anything is loaded."""
    for name, path in paths.items():
        if Path(path).is_file():
            raise ValueError(f"--{name}={path} is a file, expected a folder: choose another name.")


def require(**values: Any) -> None:
    """Refuses missing flags by name."""
    missing = [f"--{name}" for name, value in values.items() if value in (None, "")]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given: see --help.")


def one_line(text: str, width: int = 60) -> str:
    """Returns text for the terminal: one line of that width, nothing that steers the terminal."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= width else shown[: width - 2].rstrip() + " …"
