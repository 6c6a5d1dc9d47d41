"""A Stable Diffusion model in memory, and whether its parts fit each other.

References:
    Rombach et al. 2022, arXiv 2112.10752; diffusers' ``StableDiffusionPipeline``.
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Params, TokenCond
from memjax.interop.clip.tokenizer import PromptTokenizer
from memjax.interop.fields import shown
from memjax.interop.stable_diffusion.scheduler_settings import Scheduling
from memjax.models.clip.text import CLIPText
from memjax.models.unet.network import UNet
from memjax.models.vae import AutoencoderKL

TITLES = {"unet": "the U-Net", "vae": "the autoencoder", "text_encoder": "the text encoder"}


class Pipeline(NamedTuple):
    """A text-to-image model in Stable Diffusion's parts.

    Attributes:
        unet: The network; ``unet.apply({"params": unet_params}, x_t, t, TokenCond)``.
        unet_params: Its weights.
        vae: Images ↔ latents.
        vae_params: Its weights.
        text: Token ids → the condition.
        text_params: Its weights.
        tokenizer: Prompts → token ids.
        spec: The noise schedule.
        prediction: Whether the network predicts ε or v.
        sampling: Keyword arguments of ``SamplingOptions`` from the scheduler's file; 50 steps of
            DDIM at guidance 7.5.
        sample_shape: Height, width and channels of a latent.
        settings: The folder's JSON files by name, kept for saving.
        info: Provenance: ``kind``, ``model``, ``revision``, ``dtype``, ``variant``, ``notes`` and
            ``sha256`` of the weights files where they were verified.
    """

    unet: UNet
    unet_params: Params
    vae: AutoencoderKL
    vae_params: Params
    text: CLIPText
    text_params: Params
    tokenizer: PromptTokenizer
    spec: ScheduleSpec
    prediction: Literal["eps", "v"]
    sampling: Mapping[str, Any]
    sample_shape: tuple[int, int, int]
    settings: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def params(self) -> dict[str, Params]:
        """The weights of the three networks by their folder's name."""
        return {
            "unet": self.unet_params,
            "vae": self.vae_params,
            "text_encoder": self.text_params,
        }

    @property
    def dtype(self) -> str:
        """Dtype of the U-Net's parameters."""
        return str(jax.tree.leaves(self.unet_params)[0].dtype)


class Networks(NamedTuple):
    """The three networks without weights."""

    unet: UNet
    vae: AutoencoderKL
    text: CLIPText

    def templates(self) -> dict[str, Params]:
        """Returns the shapes of their parameters by their folder's name."""
        return _templates(self)

    def example_inputs(self) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """Returns each network with shapes that it accepts, by their folder's name."""
        unet, vae, text = self.unet.config, self.vae.config, self.text.config
        length, side = text.max_length, unet.size_multiple
        cond = TokenCond(_like(1, length, unet.cross_attention_dim), _like(1, length, dtype=bool))
        state = _like(1, side, side, unet.in_channels)
        image = _like(1, vae.downscale, vae.downscale, vae.in_channels)
        return {
            "unet": (self.unet, (state, _like(1, dtype=jnp.int32), cond)),
            "vae": (self.vae, (image,)),
            "text_encoder": (self.text, (_like(1, length, dtype=jnp.int32),)),
        }


@functools.lru_cache(maxsize=8)
def _templates(networks: Networks) -> dict[str, Params]:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return {
        name: jax.eval_shape(module.init, key, *inputs)["params"]
        for name, (module, inputs) in networks.example_inputs().items()
    }


def _like(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def check_parts(networks: Networks, tokenizer: PromptTokenizer, where: str) -> None:
    """Refuses parts that do not fit each other, before any weight is read.

    Raises:
        ValueError: Lists what does not fit.
    """
    unet, vae, text = networks.unet.config, networks.vae.config, networks.text.config
    pairs = {
        "the U-Net's in_channels and its out_channels": (unet.in_channels, unet.out_channels),
        "the U-Net's in_channels and the autoencoder's latent_channels": (
            unet.in_channels,
            vae.latent_channels,
        ),
        "the U-Net's cross_attention_dim and the text encoder's hidden_size": (
            unet.cross_attention_dim,
            text.hidden_size,
        ),
    }
    wrong = [f"{what} are {a} and {b}" for what, (a, b) in pairs.items() if a != b]
    if tokenizer.max_length > text.max_length:
        wrong.append(
            f"the tokenizer's prompts have {tokenizer.max_length} tokens and the text encoder's "
            f"{text.max_length}"
        )
    if len(tokenizer) > text.vocab_size:
        wrong.append(
            f"the tokenizer has {len(tokenizer)} ids and the text encoder {text.vocab_size}"
        )
    if wrong:
        raise ValueError(
            f"The parts in {where} do not fit each other: {' and '.join(wrong)}; take all parts "
            "from one text-to-image model of Stable Diffusion 1 or 2 (no inpainting or "
            "image-conditioned one)."
        )


def padding_notes(networks: Networks, tokenizer: PromptTokenizer, converted: bool) -> list[str]:
    """Says it in a sentence where prompts are padded otherwise than the text encoder learned it.

    The text encoder of Stable Diffusion 2 is open_clip's, which computes with GELU and pads with
    the id 0.

    Args:
        networks: The three networks.
        tokenizer: Prompts → token ids.
        converted: Whether the folder was written by ``memjax``.
    """
    pad, second = tokenizer.special_ids["pad_token_id"], networks.text.config.hidden_act == "gelu"
    if not second and pad == 0:
        return [
            "The tokenizer pads prompts with the id 0, as Stable Diffusion 2 does, expected the "
            "end token for the text encoder of Stable Diffusion 1; give its tokenizer."
        ]
    if not second or pad == 0:
        return []
    way = "give the tokenizer of a Stable Diffusion 2"
    if converted:
        way = "memjax 0.1 wrote such folders by mistake: convert the original model again"
    return [
        f"The tokenizer pads prompts with the id {pad}, expected 0 for the text encoder of Stable "
        f"Diffusion 2; {way}."
    ]


def latent_size(size: Any, networks: Networks, where: str) -> tuple[int, int]:
    """Returns the height and width of a latent from ``sample_size`` (one number, or both)."""
    sides = [size, size] if type(size) is int else size
    good = isinstance(sides, list) and len(sides) == 2
    if not good or not all(type(side) is int and 0 < side <= 4096 for side in sides):
        raise ValueError(
            f"The file {where} has sample_size={shown(size)}, expected one or two whole numbers "
            "from 1 to 4096: the height and width of a latent."
        )
    try:
        networks.unet.config.validate((sides[0], sides[1]))
    except ValueError as error:
        raise ValueError(f"The file {where} has a sample_size that cannot be: {error}") from error
    return (sides[0], sides[1])


def assemble(
    networks: Networks,
    params: Mapping[str, Params],
    tokenizer: PromptTokenizer,
    schedule: Scheduling,
    size: tuple[int, int],
    settings: Mapping[str, Any],
    info: Mapping[str, Any],
) -> Pipeline:
    """Puts a pipeline together.

    Args:
        networks: The three networks.
        params: Their weights by their folder's name.
        tokenizer: Prompts → token ids.
        schedule: What the scheduler's file says.
        size: Height and width of a latent.
        settings: The folder's JSON files by name.
        info: Provenance; fields that are not given are empty.
    """
    empty: dict[str, Any] = {
        "revision": None,
        "variant": None,
        "notes": [],
        "weights": {},
        "sha256": {},
    }
    return Pipeline(
        unet=networks.unet,
        unet_params=params["unet"],
        vae=networks.vae,
        vae_params=params["vae"],
        text=networks.text,
        text_params=params["text_encoder"],
        tokenizer=tokenizer,
        spec=schedule.spec,
        prediction=schedule.prediction,
        sampling=schedule.sampling,
        sample_shape=(*size, networks.unet.config.in_channels),
        settings=settings,
        info=empty | dict(info),
    )
