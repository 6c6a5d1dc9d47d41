"""Steppers against diffusers' schedulers, float32, 50 steps with a small network.

Where the two differ by design: DPM-Solver++ lays its own grid in diffusers, which is our open
spacing, and is given our closed ones; DDIM there steps by ``T // S`` even on the linspace grid,
where that is not the next timestep, so linspace is compared with first-order DPM-Solver++, which is
the same update on the true grid.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.process import eps_from_v
from memjax.core.schedules import ScheduleSpec
from memjax.sampling import DDIM, DDPM, DPMSolverPP2M, sample, timesteps

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

STEPS, SIZE = 50, 12
STABLE_DIFFUSION = ScheduleSpec("scaled_linear", 1000, 0.00085, 0.012)
RNG = np.random.default_rng(0)
MIX = (0.25 * RNG.normal(size=(SIZE, SIZE))).astype(np.float32)
X_T = RNG.normal(size=(3, SIZE)).astype(np.float32)


def _config(spec, **more):
    return {
        "num_train_timesteps": spec.num_timesteps,
        "beta_schedule": spec.name,
        "beta_start": spec.beta_start,
        "beta_end": spec.beta_end,
        **more,
    }


def _network(spec, prediction):
    """Returns one network for jax and torch; a share of ``x_t`` in it keeps x0 of order 1."""
    alphas_bar = np.cumprod(1 - spec.betas())
    gain = np.sqrt(1 - alphas_bar if prediction == "eps" else alphas_bar).astype(np.float32)
    sign, small = (1.0, 0.3 * np.sqrt(alphas_bar)) if prediction == "eps" else (0.2, gain * 0 + 0.3)
    small = small.astype(np.float32)

    def ours(params, x, t, cond):
        raw = sign * jnp.asarray(gain)[t][:, None] * x
        raw = raw + jnp.asarray(small)[t][:, None] * jnp.tanh(x @ MIX)
        return raw if prediction == "eps" else eps_from_v(spec.build(), x, t, raw)

    def theirs(x, t):
        raw = sign * float(gain[t]) * x
        return raw + float(small[t]) * torch.tanh(x @ torch.from_numpy(MIX))

    return ours, theirs


def _ours(spec, prediction, stepper, **kwargs):
    network, _ = _network(spec, prediction)
    run = jax.jit(
        lambda x, key: (
            sample(
                network,
                None,
                x,
                jnp.zeros((3, 1)),
                None,
                spec.build(),
                num_steps=STEPS,
                stepper=stepper,
                key=key,
                **kwargs,
            ).x
        )
    )
    return run(X_T, jax.random.key(0))


def _theirs(scheduler, spec, prediction, noises=None, **step):
    _, network = _network(spec, prediction)
    x = torch.from_numpy(X_T)
    for i, t in enumerate(scheduler.timesteps):
        if noises is not None:
            step["generator"] = _Recorded(noises[i])
        x = scheduler.step(network(x, int(t)), t, x, **step).prev_sample
    return x.numpy()


class _Recorded:
    """Stands for a torch generator; the patched ``randn_tensor`` reads its noise."""

    def __init__(self, noise):
        self.noise = torch.from_numpy(np.array(noise))


def _close(got, want):
    assert np.all(np.isfinite(want))
    assert np.abs(want).max() < 20
    error = np.abs(np.asarray(got) - want).max() / np.sqrt(np.mean(want**2))
    assert error < 1e-4  # float32 rounding through fifty steps; measured up to 1.2e-5


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
def test_ddim(prediction, clean, spacing, offset):
    spec = STABLE_DIFFUSION
    scheduler = diffusers.DDIMScheduler(
        **_config(spec, timestep_spacing=spacing, steps_offset=offset),
        clip_sample=False,
        set_alpha_to_one=clean,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
    )
    scheduler.set_timesteps(STEPS)
    assert scheduler.timesteps.tolist() == timesteps(1000, STEPS, spacing, offset).tolist()
    kwargs = {"spacing": spacing, "steps_offset": offset, "set_alpha_to_one": clean}
    _close(_ours(spec, prediction, DDIM(), **kwargs), _theirs(scheduler, spec, prediction))


def test_ddim_with_clipped_x0():
    spec = ScheduleSpec()
    scheduler = diffusers.DDIMScheduler(**_config(spec), clip_sample=True, clip_sample_range=0.4)
    scheduler.set_timesteps(STEPS)
    got = _ours(spec, "eps", DDIM(), clip_x0=0.4)
    _close(got, _theirs(scheduler, spec, "eps", use_clipped_model_output=True))
    assert np.abs(got - _ours(spec, "eps", DDIM())).max() > 1e-2


def _dpm_solver(spec, spacing, offset, clean, prediction, order):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **_config(spec),
        solver_order=order,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        final_sigmas_type="zero" if clean else "sigma_min",
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
    )
    scheduler.set_timesteps(timesteps=timesteps(1000, STEPS, spacing, offset).tolist())
    return scheduler


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 1), ("trailing", 0), ("linspace", 0)])
def test_dpm_solver(prediction, clean, spacing, offset):
    spec = STABLE_DIFFUSION
    scheduler = _dpm_solver(spec, spacing, offset, clean, prediction, 2)
    kwargs = {"spacing": spacing, "steps_offset": offset, "set_alpha_to_one": clean}
    got = _ours(spec, prediction, DPMSolverPP2M(), **kwargs)
    _close(got, _theirs(scheduler, spec, prediction))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_dpm_solver_on_its_own_grid(prediction, clean, spacing):
    spec = STABLE_DIFFUSION
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **_config(spec, timestep_spacing=spacing, steps_offset=1),
        final_sigmas_type="zero" if clean else "sigma_min",
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
    )
    scheduler.set_timesteps(STEPS)
    spacing = spacing if spacing == "trailing" else f"{spacing}_open"
    assert scheduler.timesteps.tolist() == timesteps(1000, STEPS, spacing, 1).tolist()
    kwargs = {"spacing": spacing, "steps_offset": 1, "set_alpha_to_one": clean}
    got = _ours(spec, prediction, DPMSolverPP2M(), **kwargs)
    _close(got, _theirs(scheduler, spec, prediction))


@pytest.mark.parametrize("clean", [True, False])
def test_ddim_on_the_linspace_grid(clean):
    spec = STABLE_DIFFUSION
    grid = diffusers.DDIMScheduler(**_config(spec, timestep_spacing="linspace"))
    grid.set_timesteps(STEPS)
    assert grid.timesteps.tolist() == timesteps(1000, STEPS, "linspace").tolist()
    scheduler = _dpm_solver(spec, "linspace", 0, clean, "eps", 1)
    got = _ours(spec, "eps", DDIM(), spacing="linspace", set_alpha_to_one=clean)
    _close(got, _theirs(scheduler, spec, "eps"))


@pytest.mark.parametrize("spec", [ScheduleSpec(), STABLE_DIFFUSION], ids=["linear", "sd"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize(
    ("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)]
)
def test_ddpm_with_the_same_noise(prediction, spacing, offset, spec, monkeypatch):
    from diffusers.schedulers import scheduling_ddpm

    scheduler = diffusers.DDPMScheduler(
        **_config(spec, timestep_spacing=spacing, steps_offset=offset),
        clip_sample=False,
        variance_type="fixed_small",
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
    )
    scheduler.set_timesteps(STEPS)
    assert scheduler.timesteps.tolist() == timesteps(1000, STEPS, spacing, offset).tolist()
    noises = [
        jax.random.normal(jax.random.fold_in(jax.random.key(0), i), X_T.shape) for i in range(STEPS)
    ]
    monkeypatch.setattr(
        scheduling_ddpm, "randn_tensor", lambda shape, generator, **_: generator.noise
    )
    got = _ours(spec, prediction, DDPM(), spacing=spacing, steps_offset=offset)
    _close(got, _theirs(scheduler, spec, prediction, noises))


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
def test_schedules(name):
    spec = ScheduleSpec(name)
    theirs = {"cosine": "squaredcos_cap_v2"}.get(name, name)
    scheduler = diffusers.DDPMScheduler(**{**_config(spec), "beta_schedule": theirs})
    # diffusers multiplies a thousand float32 factors, so its ᾱ carries 1e-5 of rounding.
    np.testing.assert_allclose(spec.build().alphas_bar, scheduler.alphas_cumprod, rtol=5e-4)
    np.testing.assert_allclose(spec.betas(), scheduler.betas, rtol=1e-4)
