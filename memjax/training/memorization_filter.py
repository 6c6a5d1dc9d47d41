"""The training-time memorization filter: examples whose guidance is too large are left out.

An example is kept iff ``m_i < τ(t_i)`` with ``m_i = ‖ε_θ(x_t, t, c_i) − ε_θ(x_t, t, ∅)‖₂``. Shapes
are static: a filtered example stays in the batch with weight zero.

References:
    Wen et al. ICLR 2024, "Detecting, Explaining, and Mitigating Memorization in Diffusion Models"
    (openreview 84n3UwkH7b), §5.2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.numerics import per_example_norm
from memjax.core.process import coefficients
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array

MODES = ("kept", "all")


class FilterRecord(NamedTuple):
    """What the filter saw of every training row.

    Attributes:
        seen: How often the row was judged (steps on which its condition was dropped do not count).
        flagged: How often it was left out; ``flagged / seen`` ranks rows by memorization.
        magnitude_ema: Moving average of ``m``; the first judgement sets it, 0 before.
    """

    seen: Int[Array, " n"]
    flagged: Int[Array, " n"]
    magnitude_ema: Float[Array, " n"]


def empty_record(num_rows: int) -> FilterRecord:
    """Returns the record of ``num_rows`` rows not seen yet."""
    if num_rows < 1:
        raise ValueError(f"num_rows is {num_rows}, expected the number of training rows (>= 1).")
    return FilterRecord(
        seen=jnp.zeros(num_rows, jnp.int32),
        flagged=jnp.zeros(num_rows, jnp.int32),
        magnitude_ema=jnp.zeros(num_rows, jnp.float32),
    )


def guidance_magnitude(
    output: Float[Array, "b *d"],
    null_output: Float[Array, "b *d"],
    schedule: NoiseSchedule,
    t: Int[Array, " b"],
    *,
    prediction: str = "eps",
    rms: bool = False,
) -> Float[Array, " b"]:
    """Returns ``m = ‖ε_c − ε_∅‖₂`` per example, always in units of ε.

    Args:
        output: The network's raw prediction with the condition.
        null_output: The same without.
        schedule: For v networks, since ``ε_c − ε_∅ = √ᾱ_t (v_c − v_∅)``.
        t: Timesteps.
        prediction: What the network predicts, ``eps`` or ``v``.
        rms: Divide by ``√d``, so that one threshold serves every image size.
    """
    difference = output.astype(jnp.float32) - null_output.astype(jnp.float32)
    if prediction == "v":
        signal, _ = coefficients(schedule, t, difference.ndim)
        difference = signal * difference
    return per_example_norm(difference, rms=rms)


def threshold_at(
    threshold: float | Sequence[float], t: Int[Array, " b"], num_timesteps: int
) -> Float[Array, " b"]:
    """Returns ``τ(t)``: one number, or one per equal bucket of timesteps (first = cleanest)."""
    table = jnp.atleast_1d(jnp.asarray(np.asarray(threshold, np.float32)))
    return table[t * table.shape[0] // num_timesteps]


def filter_weights(
    magnitude: Float[Array, " b"], threshold: Float[Array, " b"], dropped: Bool[Array, " b"]
) -> Float[Array, " b"]:
    """Returns ``w_i = 1[m_i < τ_i]`` without gradient; rows with a dropped condition are kept."""
    keep = dropped | (magnitude < threshold)
    return jax.lax.stop_gradient(keep.astype(jnp.float32))


def masked_mean(
    losses: Float[Array, " b"], weights: Float[Array, " b"], mode: str = "kept"
) -> Float[Array, ""]:
    """Averages the kept losses.

    Args:
        losses: One loss per example.
        weights: 1 = kept, 0 = filtered.
        mode: ``kept`` gives ``Σwl / max(Σw, 1)`` (the paper's); ``all`` gives ``Σwl / b``, under
            which a kept example pulls equally hard whatever the rest of its batch does.
    """
    if mode not in MODES:
        raise ValueError(f"filter mode is {mode!r}, expected one of {MODES}.")
    kept = jnp.maximum(weights.sum(), 1.0) if mode == "kept" else float(losses.shape[0])
    return jnp.sum(weights * losses) / kept


def update_record(
    record: FilterRecord,
    row: Int[Array, " b"],
    magnitude: Float[Array, " b"],
    weights: Float[Array, " b"],
    dropped: Bool[Array, " b"],
    *,
    decay: float = 0.9,
) -> FilterRecord:
    """Scatters one batch into the record.

    .. note:: A row may stand in one batch several times: counts add up, and the moving average
        takes one step towards the mean of its magnitudes, in an order that does not depend on
        the device.
    """
    judged = ~dropped
    same = row[:, None] == row[None, :]
    times = jnp.sum(same & judged[None, :], axis=1)
    mean = jnp.sum(jnp.where(same & judged[None, :], magnitude[None, :], 0.0), axis=1)
    mean = mean / jnp.maximum(times, 1)
    old = record.magnitude_ema[row]
    moved = jnp.where(record.seen[row] == 0, mean, old + (1.0 - decay) * (mean - old))
    moved = jnp.where(times > 0, moved, old)[jnp.argmax(same, axis=1)]
    flagged = judged & (weights == 0)
    return FilterRecord(
        seen=record.seen.at[row].add(judged.astype(jnp.int32)),
        flagged=record.flagged.at[row].add(flagged.astype(jnp.int32)),
        magnitude_ema=record.magnitude_ema.at[row].set(moved),
    )
