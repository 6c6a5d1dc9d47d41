"""Linen modules, NNX modules and plain functions as ``EpsFn``, and the change of prediction.

Each adapter is a frozen dataclass: hashable by value, so it may be a static argument of a jitted
function and two equal ones share a trace.

Where the network tells its cross-attention, an adapter has the method ``with_maps(params, x_t, t,
cond) → (eps, maps [b, layers, tokens])``, and elsewhere no such attribute
(:func:`memjax.core.denoiser.gives_maps` asks). Where it also tells how much each pixel attends to
the end of a text, there is ``with_end_map(params, x_t, t, cond) → (eps, (maps, end [b, h, w]))``.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core import process
from memjax.core.condition import text_length
from memjax.core.denoiser import gives_end_map, gives_maps
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Array, Cond, EpsFn, Params

WithMaps: TypeAlias = Callable[[Params, Array, Array, Cond], tuple[Array, Any]]
END_LAYERS = 2  # the first ones, whose attention to the end of a text is averaged


def _maps_of(network: Any) -> WithMaps:
    """Returns a network's ``with_maps``.

    Raises:
        AttributeError: If it has none, which makes an adapter's property no attribute either.
    """
    if not gives_maps(network):
        raise AttributeError(f"{type(network).__name__} does not tell its cross-attention.")
    return network.with_maps


def _end_map_of(network: Any) -> WithMaps:
    """Returns a network's ``with_end_map``; an AttributeError where it has none."""
    if not gives_end_map(network):
        raise AttributeError(f"{type(network).__name__} does not tell where it sees a text's end.")
    return network.with_end_map


@dataclasses.dataclass(frozen=True)
class LinenEps:
    """A Linen module as ``EpsFn``; ``params`` is its 'params' tree.

    Attributes:
        module: Called as ``module(x_t, t, cond)``; Linen modules compare and hash by value.
        method: Name of the method to call instead, for example ``"denoise"``.

    .. note:: ``with_maps`` is there if the module's ``num_cross_attentions`` says that it attends
        to the condition through :class:`memjax.models.unet.attention.Attention`, which averages
        over heads and pixels inside the layer. Layers stand in the order of their names, numbers by
        their value: for a :class:`memjax.models.unet.network.UNet` from input to output.
    """

    module: Any
    method: str | None = None

    @property
    def with_maps(self) -> WithMaps:
        if not getattr(self.module, "num_cross_attentions", 0):
            raise AttributeError(
                f"{type(self.module).__name__} does not tell its cross-attention: "
                "num_cross_attentions is not there, or 0."
            )
        return self._with_maps

    @property
    def with_end_map(self) -> WithMaps:
        _maps_of(self)
        return self._with_end_map

    def _with_maps(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> tuple[Float[Array, "b *d"], Float[Array, "b k l"]]:
        eps, written = self._written(params, x_t, t, cond, "maps")
        return eps, jnp.stack(_in_order(written["maps"]), axis=1)

    def _with_end_map(
        self, params: Params, x_t: Float[Array, "b h w c"], t: Int[Array, " b"], cond: Cond
    ) -> tuple[Float[Array, "b h w c"], tuple[Float[Array, "b k l"], Float[Array, "b h w"]]]:
        length = text_length(cond)
        if length is None:
            raise ValueError(
                f"the condition is a {type(cond).__name__}, expected a TextCond, which says where "
                "its text ends: no other token sums the others up."
            )
        eps, written = self._written(params, x_t, t, cond, "maps", "pixels")
        maps = jnp.stack(_in_order(written["maps"]), axis=1)
        layers = []
        for weights in _in_order(written["pixels"])[:END_LAYERS]:
            end = jnp.take_along_axis(weights, (length - 1)[:, None, None], axis=2)[..., 0]
            layers.append(_as_image(end, x_t.shape[1:3]))
        return eps, (maps, jnp.mean(jnp.stack(layers), axis=0))

    def _written(self, params: Params, x_t, t, cond, *collections: str) -> tuple[Array, Any]:
        return self.module.apply(
            {"params": params}, x_t, t, cond, method=self.method, mutable=list(collections)
        )

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        return self.module.apply({"params": params}, x_t, t, cond, method=self.method)


def _in_order(written: Any) -> list[Array]:
    """Returns what each layer has written, in the order of their names."""
    leaves = jax.tree_util.tree_leaves_with_path(written)
    leaves.sort(key=lambda leaf: _by_number(jax.tree_util.keystr(leaf[0])))
    return [weights for _, weights in leaves]


def _as_image(pixels: Float[Array, "b n"], shape: tuple[int, int]) -> Float[Array, "b h w"]:
    """Returns one number a pixel of a layer as an image of the state's shape."""
    h, w = shape
    scale = round((h * w / pixels.shape[1]) ** 0.5)
    image = pixels.reshape(len(pixels), h // scale, w // scale)
    return jax.image.resize(image, (len(pixels), h, w), "linear")


def _by_number(name: str) -> list[str | int]:
    """Sorts ``block_2`` before ``block_10``: texts and numbers in turn."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


@dataclasses.dataclass(frozen=True)
class NnxEps:
    """A split NNX module as ``EpsFn``; ``params`` is the state that ``nnx.split`` gave.

    Attributes:
        graphdef: The static half, hashable by value.
    """

    graphdef: Any

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        from flax import nnx

        return nnx.merge(self.graphdef, params)(x_t, t, cond)


def nnx_eps(model: Any) -> tuple[NnxEps, Params]:
    """Splits an NNX module called as ``model(x_t, t, cond)`` into ``(eps_fn, params)``."""
    from flax import nnx

    graphdef, state = nnx.split(model)
    return NnxEps(graphdef), state


@dataclasses.dataclass(frozen=True)
class PlainEps:
    """A plain function ``fn(params, x_t, t, cond)`` as ``EpsFn``.

    .. note:: Functions hash by identity: define ``fn`` once, at module level. A lambda rebuilt for
        every call is a new function, and a new trace, every time.
    """

    fn: Callable[[Params, Array, Array, Cond], Array]

    @property
    def with_maps(self) -> WithMaps:
        return _maps_of(self.fn)

    @property
    def with_end_map(self) -> WithMaps:
        return _end_map_of(self.fn)

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        return self.fn(params, x_t, t, cond)


@dataclasses.dataclass(frozen=True)
class EpsFromV:
    """A v-predicting function as ``EpsFn``: ``ε = √ᾱ_t v + √(1−ᾱ_t) x_t``.

    References:
        Salimans and Ho 2022, arXiv 2202.00512, appendix D.
    """

    v_fn: EpsFn
    spec: ScheduleSpec

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        return process.eps_from_v(self.spec.build(), x_t, t, self.v_fn(params, x_t, t, cond))

    @property
    def with_maps(self) -> WithMaps:
        _maps_of(self.v_fn)
        return self._with_maps

    @property
    def with_end_map(self) -> WithMaps:
        _end_map_of(self.v_fn)
        return self._with_end_map

    def _with_maps(self, params, x_t, t, cond):
        v, maps = _maps_of(self.v_fn)(params, x_t, t, cond)
        return process.eps_from_v(self.spec.build(), x_t, t, v), maps

    def _with_end_map(self, params, x_t, t, cond):
        v, maps = _end_map_of(self.v_fn)(params, x_t, t, cond)
        return process.eps_from_v(self.spec.build(), x_t, t, v), maps


@dataclasses.dataclass(frozen=True)
class EpsFromX0:
    """An image-predicting function as ``EpsFn``: ``ε = (x_t − √ᾱ_t x0) / √(1−ᾱ_t)``."""

    x0_fn: EpsFn
    spec: ScheduleSpec

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        return process.eps_from_x0(self.spec.build(), x_t, t, self.x0_fn(params, x_t, t, cond))

    @property
    def with_maps(self) -> WithMaps:
        _maps_of(self.x0_fn)
        return self._with_maps

    @property
    def with_end_map(self) -> WithMaps:
        _end_map_of(self.x0_fn)
        return self._with_end_map

    def _with_maps(self, params, x_t, t, cond):
        x0, maps = _maps_of(self.x0_fn)(params, x_t, t, cond)
        return process.eps_from_x0(self.spec.build(), x_t, t, x0), maps

    def _with_end_map(self, params, x_t, t, cond):
        x0, maps = _end_map_of(self.x0_fn)(params, x_t, t, cond)
        return process.eps_from_x0(self.spec.build(), x_t, t, x0), maps
