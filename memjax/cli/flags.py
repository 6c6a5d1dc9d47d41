"""The flags that several commands share, defined once: model, prompts, sampling, noise."""

from typing import Any, NamedTuple

from absl import flags

from memjax.runs.model import DTYPES, Model, load_model
from memjax.runs.null import NULLS, null_condition, with_null
from memjax.sampling import SamplingOptions
from memjax.sampling.steppers import SPACINGS

_MODEL_HELP = (
    "Folder of a memjax run or of a diffusers model, a single .safetensors file, or a hub id."
)


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
        given = {name: holder.value for name, holder in self._asdict().items()}
        changes = {name: value for name, value in given.items() if value not in (None, "")}
        return SamplingOptions(**{**model.config["sampling"], **changes})


def sampling_flags(values: flags.FlagValues) -> SamplingFlags:
    """Defines the flags of :class:`SamplingFlags`; each defaults to the model's own."""
    return SamplingFlags(
        flags.DEFINE_string(
            "stepper", "", "ddim, ddpm or dpm-solver++ (default: the model's).", flag_values=values
        ),
        flags.DEFINE_integer(
            "num_steps", None, "Steps of the trajectory (default: the model's).", flag_values=values
        ),
        flags.DEFINE_float(
            "guidance_scale", None, "Guidance scale (default: the model's).", flag_values=values
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
        flags.DEFINE_integer("generations", 4, generations, lower_bound=1, flag_values=values),
        flags.DEFINE_integer("seed", 0, "Seed of the noise.", flag_values=values),
    )


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
        "[generations, channels, height, width] is recognised by its shape.",
        flag_values=values,
    )


def chunk_flag(values: flags.FlagValues) -> flags.FlagHolder:
    """Defines ``--chunk``."""
    return flags.DEFINE_integer(
        "chunk",
        0,
        "Prompts evaluated together; 0 takes what fits into the device's memory.",
        lower_bound=0,
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
        return null_condition(
            model, self.value, companion=self.companion.value, seed=seed, dtype=dtype
        )

    def apply(self, model: Model, seed: int, dtype: str | None) -> Model:
        """Returns the model with it, of :func:`memjax.runs.null.with_null`."""
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


def require(**values: Any) -> None:
    """Refuses missing flags by name."""
    missing = [f"--{name}" for name, value in values.items() if value in (None, "")]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given: see --help.")


def one_line(text: str, width: int = 60) -> str:
    """Returns text for the terminal: one line of that width, nothing that steers the terminal."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= width else shown[: width - 2].rstrip() + " …"
