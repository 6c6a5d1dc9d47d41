"""The entropy of the attention that image regions pay to the condition's tokens.

References:
    Ren et al., "Unveiling and Mitigating Memorization in Text-to-image Diffusion Models through
    Cross Attention", ECCV 2024, arXiv 2403.11052.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Bool, Float

from memjax.core.condition import text_length
from memjax.core.denoiser import Denoiser
from memjax.core.types import Array, Cond, Detector, Domain, State, Steps, Trajectory


@dataclasses.dataclass(frozen=True)
class AttentionEntropy(Detector):
    """Entropy of cross-attention at one state, ``−Σ_i a_i log a_i`` over all tokens.

    ``a_i`` is the probability of token i, averaged over the heads and pixels of one layer: 0 where
    one token draws all attention, ``log L`` where L tokens share it evenly.

    Attributes:
        layer: Index of the cross-attention layer, counted from the input; None averages the
            attention of all layers before its entropy is taken.
        steps: Steps whose mean is the score.

    .. note:: Layer 3 is the published choice for Stable Diffusion, which has 16; a network with
        fewer is better read with ``layer=None``. Entropies are in nats and safe where a token
        draws no attention, as padding that is masked out; the official code is not. Start and
        padding tokens count wherever the network attends to them.

    References:
        Ren et al., ECCV 2024, arXiv 2403.11052 (its detection from a single step).
    """

    cost: ClassVar[str] = "free along sampling; at the first step 1 forward evaluation a noise"
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})

    layer: int | None = 3
    steps: Steps | None = "first"

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        del net
        return entropy(_of_layer(_maps_or_refuse(state.maps), self.layer))


@dataclasses.dataclass(frozen=True)
class AttentionEntropyChange(Detector):
    """Entropy of cross-attention, plus how much its summary tokens' part has grown: ``E_t + ΔE_t``.

    ``E_t`` is the entropy at step t of the attention averaged over heads, pixels and layers;
    ``ΔE_t = S_t − S_0`` compares the part of the sum that *summary tokens* contribute with that at
    the first step. Summary tokens are the end-of-text token and the padding behind it, which repeat
    what the text says as a whole.

    Attributes:
        steps: Steps whose mean is the score; the trajectory must have as many.

    .. note:: Where a text ends is read from a :class:`~memjax.core.types.TextCond`. Other
        conditions, such as labels, have no end token and name no token that sums up the others, so
        all of their tokens count: ``S_t = E_t``. Tokens that are masked out contribute nothing.
        The change is signed, as in the official code; the paper's formula takes its magnitude. The
        summary's part is not normalized to a distribution of its own.

    References:
        Ren et al., ECCV 2024, arXiv 2403.11052 (its detection from all steps).
    """

    cost: ClassVar[str] = "free along sampling, which must run to the end of its window"
    domain: ClassVar[Domain] = "trajectory"
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})

    steps: Steps | None = "last-10"

    def __call__(self, seen: Trajectory, net: Denoiser) -> Float[Array, "s b"]:
        del net
        weights = jnp.mean(_maps_or_refuse(seen.maps), axis=-2)
        terms = entropy_terms(weights)
        summary = jnp.where(summary_tokens(seen.cond, weights)[None], terms, 0.0).sum(axis=-1)
        return terms.sum(axis=-1) + summary - summary[:1]


def entropy_terms(weights: Float[Array, "*b l"]) -> Float[Array, "*b l"]:
    """Returns ``−a_i log a_i`` of each token; 0 with a gradient of 0 where ``a_i`` is 0."""
    return -weights * jnp.log(jnp.where(weights > 0.0, weights, 1.0))


def entropy(weights: Float[Array, "*b l"]) -> Float[Array, "*b"]:
    """Returns ``−Σ_i a_i log a_i`` in nats."""
    return jnp.sum(entropy_terms(weights), axis=-1)


def summary_tokens(cond: Cond, weights: Float[Array, "s b l"]) -> Bool[Array, "b l"]:
    """Returns which tokens sum a condition up: its end-of-text token and all after it.

    All of them where the condition does not say where its text ends.
    """
    length = text_length(cond)
    if length is None:
        return jnp.ones(weights.shape[1:], bool)
    return jnp.arange(weights.shape[-1])[None, :] >= length[:, None] - 1


def _of_layer(maps: Float[Array, "b k l"], layer: int | None) -> Float[Array, "b l"]:
    if layer is None:
        return jnp.mean(maps, axis=1)
    if not 0 <= layer < maps.shape[1]:
        raise ValueError(
            f"layer is {layer}, expected one of the network's {maps.shape[1]} cross-attention "
            f"layers: give 0 to {maps.shape[1] - 1}, or none for the mean of all."
        )
    return maps[:, layer]


def _maps_or_refuse(maps: Float[Array, "*s b k l"] | None) -> Float[Array, "*s b k l"]:
    if maps is None:
        raise ValueError(
            "the state carries no attention maps, expected those of the condition's tokens: make "
            "it by Denoiser.at(..., maps=True), or let the detector ride along sample or detect."
        )
    return maps
