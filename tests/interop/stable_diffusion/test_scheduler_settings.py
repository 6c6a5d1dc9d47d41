"""Scheduler files: the schedule, the prediction, how to sample, and what is refused."""

import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.interop.stable_diffusion.scheduler_settings import SPEC, scheduler_settings, scheduling
from memjax.sampling import SamplingOptions

SD14 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.7.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
DDIM = SD14 | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}


def test_stable_diffusion_1():
    found = scheduling(SD14, "f")
    assert (found.spec, found.prediction) == (SPEC, "eps")
    assert found.notes == ("PNDMScheduler is taken as a noise schedule and sampled with DDIM.",)
    options = SamplingOptions(**found.sampling)
    assert (options.stepper, options.num_steps, options.guidance_scale) == ("ddim", 50, 7.5)
    assert (options.spacing, options.steps_offset, options.clip_x0) == ("leading", 1, None)
    assert options.set_alpha_to_one is False
    # αbar_T of Stable Diffusion, from its betas in float64.
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(found.spec.build().alphas_bar[-1], np.prod(1 - betas), rtol=1e-6)


def test_stable_diffusion_2():
    found = scheduling(DDIM | {"timestep_spacing": "trailing"}, "f")
    assert (found.prediction, found.sampling["spacing"], found.notes) == ("v", "trailing", ())


def test_what_a_file_does_not_say_is_as_in_ddim():
    found = scheduling({"_class_name": "DDIMScheduler", "beta_schedule": "linear"}, "f")
    assert found.spec == ScheduleSpec("linear", 1000, 1e-4, 0.02)
    assert found.sampling["set_alpha_to_one"] is True
    assert found.sampling["steps_offset"] == 1
    assert found.notes == ("steps_offset 0 of the file is taken as 1, as diffusers does.",)


def test_clipping_is_off_as_in_diffusers():
    found = scheduling(DDIM | {"clip_sample": True}, "f")
    assert found.sampling["clip_x0"] is None
    assert any("clip_sample" in note for note in found.notes)


def test_cosine():
    settings = DDIM | {"beta_schedule": "squaredcos_cap_v2"}
    assert scheduling(settings, "f").spec.name == "cosine"


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_settings_come_back(prediction):
    found = scheduling(scheduler_settings(SPEC, prediction), "f")
    assert (found.spec, found.prediction, found.notes) == (SPEC, prediction, ())
    assert found.sampling["set_alpha_to_one"] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
        ("beta_schedule", "sigmoid"),
        ("beta_start", "0.00085"),
        ("beta_end", 2.0),
        ("num_train_timesteps", 1),
        ("num_train_timesteps", 10**12),
        ("prediction_type", "sample"),
        ("rescale_betas_zero_snr", True),
        ("set_alpha_to_one", 1.5),
        ("steps_offset", -1),
        ("thresholding", True),
        ("timestep_spacing", "karras"),
        ("trained_betas", [0.1, 0.2]),
    ],
)
def test_unsupported_schedules(name, value):
    with pytest.raises(ValueError, match=rf"The file f has {name}=.*expected .*\.$"):
        scheduling(DDIM | {name: value}, "f")


def test_betas_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"The file f cannot be right: beta_start=0\.5"):
        scheduling(DDIM | {"beta_start": 0.5}, "f")
