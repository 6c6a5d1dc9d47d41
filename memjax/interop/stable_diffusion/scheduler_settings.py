"""``scheduler/scheduler_config.json``: the noise schedule, what is predicted, how to sample.

References:
    Song et al. 2021, arXiv 2010.02502 (DDIM); Lin et al. 2023, arXiv 2305.08891 (spacings);
    diffusers' ``DDIMScheduler`` and ``StableDiffusionPipeline``.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from memjax.core.schedules import ScheduleSpec
from memjax.interop.fields import Fields

_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS: dict[str, Literal["eps", "v"]] = {"epsilon": "eps", "v_prediction": "v"}
_CLASSES = (
    *("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler"),
)
STEPS, GUIDANCE = 50, 7.5
_DISTILLED_CLASSES = ("LCMScheduler", "TCDScheduler")
_DISTILLED = re.compile(
    r"(?<![a-z])(turbo|lcm|lightning|hyper|hyper-?sd\d*|tcd|pcm|dmd2?|perflow|instaflow|flash)"
    r"(?![a-z])",
    re.IGNORECASE,
)
SPEC = ScheduleSpec("scaled_linear", 1000, 0.00085, 0.012)  # of every Stable Diffusion


class Scheduling(NamedTuple):
    """What a scheduler's file says.

    Attributes:
        spec: The noise schedule.
        prediction: What the U-Net predicts.
        sampling: Keyword arguments of ``SamplingOptions``.
        notes: What is done otherwise than the file says, in sentences.
    """

    spec: ScheduleSpec
    prediction: Literal["eps", "v"]
    sampling: dict[str, Any]
    notes: tuple[str, ...]


def scheduling(settings: Mapping[str, Any], where: str) -> Scheduling:
    """Reads a scheduler's settings as ``DDIMScheduler.from_config`` would.

    .. note:: As diffusers' ``StableDiffusionPipeline`` does with any file, estimates of the clean
        latent are not clipped and the grid starts at offset 1; where the file says otherwise the
        notes say so. Schedulers other than DDIM are taken as schedules and sampled with DDIM.

    Raises:
        ValueError: Lists every setting that is not supported.
    """
    fields = Fields(settings, where)
    if settings.get("_class_name") in _DISTILLED_CLASSES:
        raise ValueError(
            f"The file {where} names the {settings['_class_name']}: the model was distilled to be "
            "sampled in few steps without guidance, which is not supported; give the model that it "
            "was distilled from."
        )
    name = fields.choice("_class_name", *_CLASSES)
    fields.choice("trained_betas", None)
    fields.choice("rescale_betas_zero_snr", False)
    fields.choice("thresholding", False)
    fields.choice("use_flow_sigmas", False)
    schedule = fields.choice("beta_schedule", *_SCHEDULES)
    predicted = fields.choice("prediction_type", *_PREDICTIONS)
    steps = fields.whole("num_train_timesteps", 1000, 10**6, 2)
    start = fields.number("beta_start", 1e-4, 1e-12, 1.0)
    end = fields.number("beta_end", 0.02, 1e-12, 1.0)
    spacing = fields.choice("timestep_spacing", "leading", "trailing", "linspace")
    to_one = fields.choice("set_alpha_to_one", True, False)
    offset = fields.whole("steps_offset", 0, 10**6, 0)
    clips = fields.choice("clip_sample", False, True)
    fields.finish("schedules of Stable Diffusion 1 and 2")
    try:
        spec = ScheduleSpec(_SCHEDULES[schedule], steps, start, end)
    except ValueError as error:
        raise ValueError(f"The file {where} cannot be right: {error}") from error
    sampling = {
        "stepper": "ddim",
        "num_steps": min(STEPS, steps // 2),
        "guidance_scale": GUIDANCE,
        "clip_x0": None,
        "spacing": spacing,
        "steps_offset": 1,
        "set_alpha_to_one": to_one,
    }
    notes = _notes(name, 1 if spacing != "leading" else offset, clips)
    return Scheduling(spec, _PREDICTIONS[predicted], sampling, notes)


def distilled_notes(names: Iterable[str], sampling: Mapping[str, Any]) -> list[str]:
    """Says it where a model's name is that of one distilled to be sampled in few steps.

    .. note:: Weights do not tell it, and a name may mislead, so nothing is changed. Guidance 1 is
        the conditional prediction alone; trailing steps begin at pure noise, as those models do.
    """
    for name in names:
        found = _DISTILLED.search(name)
        if found is not None:
            return [
                f"The name {name[:80]!r} is one of a model distilled to be sampled in few steps "
                f"without guidance ({found[0]}), but {sampling['num_steps']} steps at guidance "
                f"{sampling['guidance_scale']:g} are the default: --num_steps=4 "
                "--guidance_scale=1 are what such a model was trained for."
            ]
    return []


def _notes(name: str, offset: int, clips: bool) -> tuple[str, ...]:
    notes = []
    if name != "DDIMScheduler":
        notes.append(f"{name} is taken as a noise schedule and sampled with DDIM.")
    if offset != 1:
        notes.append(f"steps_offset {offset} of the file is taken as 1, as diffusers does.")
    if clips:
        notes.append("clip_sample of the file is off, as in diffusers: latents are not images.")
    return tuple(notes)


def scheduler_settings(spec: ScheduleSpec, prediction: str) -> dict[str, Any]:
    """Returns what diffusers writes for a DDIM scheduler of Stable Diffusion."""
    schedules = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    predictions: dict[str, str] = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": spec.beta_end,
        "beta_schedule": schedules[spec.name],
        "beta_start": spec.beta_start,
        "clip_sample": False,
        "num_train_timesteps": spec.num_timesteps,
        "prediction_type": predictions[prediction],
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
    }
