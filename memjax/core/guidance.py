"""Classifier-free guidance: the one place where its formula stands.

References:
    Ho and Salimans 2022, arXiv 2207.12598, Eq. 6, in the convention of Stable Diffusion:
    ``ε = ε_u + s (ε_c − ε_u)``; s=1 is conditional, s=0 unconditional.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.condition import num_rows
from memjax.core.types import Array, Cond, EpsFn, GuidanceStep, Params


class CachedNull(NamedTuple):
    """A null prediction ``ε(x_t, t, ∅)`` computed once; stands in for ``null_cond``.

    At a fixed ``x_t`` the unconditional half does not depend on the prompt, so whoever evaluates
    many prompts, or many iterations, at one state passes this instead of the null condition.
    """

    eps: Float[Array, "b *d"]


class RandomNull(NamedTuple):
    """``ε_∅ := mean_k ε(x_t, t, c_k)`` over random conditions, where no null was trained.

    References:
        Sadat et al. 2024 (independent condition guidance), arXiv 2407.02687, §4.
    """

    conds: Cond  # leading axis k


class CompanionNull(NamedTuple):
    """``ε_∅`` from a companion unconditional network: ``jax.tree_util.Partial(eps_fn, params)``."""

    predict: jax.tree_util.Partial
    cond: Cond


def null_or_refuse(null_cond: Cond | None) -> Cond:
    """Returns the null condition, or refuses where none was trained.

    Raises:
        ValueError: With the ways out.
    """
    if null_cond is None:
        raise ValueError(
            "this model was trained without a null condition, so ‖ε_c − ε_∅‖ has no meaning: train "
            "with condition dropout > 0, or give null='random_labels' (the mean prediction over "
            "random conditions), or null='companion' with an unconditional model, which the "
            "commands detect, explain, mitigate and audit take as --null."
        )
    return null_cond


def guide(
    eps_uncond: Float[Array, "b *d"],
    eps_cond: Float[Array, "b *d"],
    guidance_scale: Float[Array, ""] | float,
) -> Float[Array, "b *d"]:
    """Returns ``ε_u + s (ε_c − ε_u)``."""
    return eps_uncond + guidance_scale * (eps_cond - eps_uncond)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance with one scale, or one a step.

    Attributes:
        scale: s of :func:`guide`.
    """

    scale: Float[Array, ""] | Float[Array, " steps"] | float

    def init(self, x_T: Float[Array, "b *d"]) -> tuple[()]:
        del x_T
        return ()

    def at(self, step: GuidanceStep) -> Float[Array, ""]:
        """Returns the scale of a step."""
        scales = jnp.asarray(self.scale, jnp.float32)
        return jnp.broadcast_to(scales, (step.num_steps,))[step.index]

    def __call__(self, carry, step, eps_cond, eps_uncond):
        return carry, guide(eps_uncond, eps_cond, self.at(step))


def broadcast_cond(cond: Cond, batch: int) -> Cond:
    """Repeats a condition of batch 1 to ``batch`` rows; leaves one of ``batch`` rows alone."""

    def repeat(leaf):
        if leaf.shape[0] not in (1, batch):
            raise ValueError(
                f"a condition leaf has batch {leaf.shape[0]}, expected 1 or {batch}: "
                "give one null condition, or one per example."
            )
        return jnp.broadcast_to(leaf, (batch, *leaf.shape[1:]))

    return jax.tree.map(repeat, cond)


def predict_null(
    eps_fn: EpsFn,
    params: Params,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    null_cond: Cond | CachedNull | RandomNull | CompanionNull,
) -> Float[Array, "b *d"]:
    """Returns the unconditional prediction, whatever stands for the null condition."""
    batch = x_t.shape[0]
    if isinstance(null_cond, CachedNull):
        return null_cond.eps
    if isinstance(null_cond, CompanionNull):
        return null_cond.predict(x_t, t, broadcast_cond(null_cond.cond, batch))
    if isinstance(null_cond, RandomNull):

        def one(cond):
            row = jax.tree.map(lambda leaf: leaf[None], cond)
            return eps_fn(params, x_t, t, broadcast_cond(row, batch))

        return jnp.mean(jax.lax.map(one, null_cond.conds), axis=0)
    return eps_fn(params, x_t, t, broadcast_cond(null_cond, batch))


def null_evals(null_cond: Cond | CachedNull | RandomNull | CompanionNull) -> int:
    """Returns how many network evaluations one unconditional prediction costs."""
    if isinstance(null_cond, CachedNull):
        return 0
    return num_rows(null_cond.conds) if isinstance(null_cond, RandomNull) else 1


def predict_pair(
    eps_fn: EpsFn,
    params: Params,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    cond: Cond,
    null_cond: Cond | CachedNull | RandomNull | CompanionNull,
) -> tuple[Float[Array, "b *d"], Float[Array, "b *d"]]:
    """Returns ``(ε_c, ε_u)``; with a trained null condition both halves in one batched call.

    The halves lie row beside row: one after the other, rows spread over devices would have to move.
    """
    if isinstance(null_cond, CachedNull | RandomNull | CompanionNull):
        return eps_fn(params, x_t, t, cond), predict_null(eps_fn, params, x_t, t, null_cond)
    batch = x_t.shape[0]

    def beside(c: Array, u: Array) -> Array:
        return jnp.stack([c, u], axis=1).reshape(2 * batch, *c.shape[1:])

    both = jax.tree.map(beside, cond, broadcast_cond(null_cond, batch))
    out = eps_fn(params, beside(x_t, x_t), beside(t, t), both)
    pairs = jax.tree.map(lambda a: a.reshape(batch, 2, *a.shape[1:]), out)
    return jax.tree.map(lambda a: a[:, 0], pairs), jax.tree.map(lambda a: a[:, 1], pairs)


def cache_null(
    eps_fn: EpsFn,
    params: Params,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    null_cond: Cond | CachedNull | RandomNull | CompanionNull,
) -> CachedNull:
    """Evaluates the unconditional half once, without gradient."""
    return CachedNull(jax.lax.stop_gradient(predict_null(eps_fn, params, x_t, t, null_cond)))
