"""The tiny Stable Diffusions as diffusers' pipelines, and the plain torch loop over them."""

import pathlib
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
import transformers

from tests.interop.clip.clip_folders import write_tokenizer
from tests.models.stable_diffusion_cases import CASES, LENGTH, SCALE, SIZE, SPEC, weights
from tests.parity.diffusers_unet import diffusers_unet
from tests.parity.diffusers_vae import diffusers_vae
from tests.parity.torch_clip import clip_state, text_settings
from tests.parity.torch_weights import torch_state


def filled(net: torch.nn.Module, state: dict[str, np.ndarray]) -> torch.nn.Module:
    state = {key: torch.tensor(np.ascontiguousarray(value)) for key, value in state.items()}
    net.load_state_dict(state, strict=True)
    return net.eval()


def networks(name: str) -> dict[str, torch.nn.Module]:
    """Returns the three networks with the weights of the cases."""
    case, params = CASES[name], weights(name)
    unet = diffusers_unet(case.unet, linear=name == "sd2")
    unet.register_to_config(sample_size=SIZE)
    vae = diffusers_vae(case.vae)
    vae.register_to_config(sample_size=2 * SIZE)
    nets = {"unet": unet, "vae": vae}
    for part, net in nets.items():
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        filled(net, torch_state(params[part], shapes))
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_settings(case.text)))
    return {**nets, "text_encoder": filled(text, clip_state(params["text_encoder"]))}


def scheduler(name: str) -> diffusers.DDIMScheduler:
    """Returns Stable Diffusion's DDIM."""
    return diffusers.DDIMScheduler(
        num_train_timesteps=SPEC.num_timesteps,
        beta_schedule=SPEC.name,
        beta_start=SPEC.beta_start,
        beta_end=SPEC.beta_end,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[CASES[name].prediction],
    )


def pipeline(name: str, folder: pathlib.Path) -> diffusers.StableDiffusionPipeline:
    """Returns diffusers' pipeline; its tokenizer is written to a subfolder first."""
    (folder / "words").mkdir()
    write_tokenizer(folder / "words", LENGTH)
    return diffusers.StableDiffusionPipeline(
        **networks(name),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "words"),
        scheduler=scheduler(name),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Generated(NamedTuple):
    """What the torch loop found, NHWC.

    Attributes:
        magnitudes: ``‖ε_c − ε_u‖₂`` per example and step.
        latents: The end of the trajectory.
        images: Decoded, not clipped.
    """

    magnitudes: np.ndarray
    latents: np.ndarray
    images: np.ndarray


@torch.no_grad()
def generate(
    name: str, nets: dict[str, Any], ids: np.ndarray, x_T: np.ndarray, steps: int
) -> Generated:
    """Runs guided DDIM as the formulas say; the last row of ``ids`` is the empty prompt.

    Every prompt starts from all noises of ``x_T``; a magnitude is the norm of one example.
    """
    embeddings = nets["text_encoder"](torch.from_numpy(ids).long()).last_hidden_state
    cond = embeddings[:-1].repeat_interleave(len(x_T), dim=0)
    null = embeddings[-1:].expand_as(cond)
    x = torch.from_numpy(x_T.transpose(0, 3, 1, 2).copy()).repeat(len(ids) - 1, 1, 1, 1)
    ddim, magnitudes = scheduler(name), []
    ddim.set_timesteps(steps)
    for t in ddim.timesteps:
        eps_u, eps_c = (nets["unet"](x, t, encoder_hidden_states=e).sample for e in (null, cond))
        difference = (eps_c - eps_u).flatten(1).norm(dim=1)
        if CASES[name].prediction == "v":  # ε = √ᾱ v + σ x
            difference = difference * ddim.alphas_cumprod[t].sqrt()
        magnitudes.append(difference)
        x = ddim.step(eps_u + SCALE * (eps_c - eps_u), t, x).prev_sample
    images = nets["vae"].decode(x / CASES[name].vae.scaling_factor).sample
    arrays = (torch.stack(magnitudes, dim=1), x.permute(0, 2, 3, 1), images.permute(0, 2, 3, 1))
    return Generated(*(array.numpy() for array in arrays))
