"""The optimizer: AdamW with warm-up, a learning-rate shape and a clip of the global norm."""

import optax

LEARNING_RATE_SHAPES = ("constant", "cosine")


def make_learning_rate(
    learning_rate: float,
    *,
    warmup_steps: int = 0,
    total_steps: int | None = None,
    schedule: str = "constant",
) -> optax.Schedule:
    """Returns update count → learning rate.

    Args:
        learning_rate: The peak.
        warmup_steps: Updates of linear warm-up from 0.
        total_steps: Where ``cosine`` reaches 0; needed for it alone.
        schedule: ``constant`` or ``cosine``.
    """
    if schedule not in LEARNING_RATE_SHAPES:
        raise ValueError(f"schedule is {schedule!r}, expected one of {LEARNING_RATE_SHAPES}.")
    if learning_rate <= 0 or warmup_steps < 0:
        raise ValueError(
            f"learning_rate={learning_rate}, warmup_steps={warmup_steps}: "
            "expected a positive rate and warmup_steps >= 0."
        )
    if schedule == "cosine":
        if total_steps is None or total_steps <= warmup_steps:
            raise ValueError(
                f"total_steps is {total_steps}, expected more than warmup_steps={warmup_steps} "
                "for the cosine schedule."
            )
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup_steps else learning_rate, learning_rate, warmup_steps, total_steps
        )
    if not warmup_steps:
        return optax.constant_schedule(learning_rate)
    return optax.linear_schedule(0.0, learning_rate, warmup_steps)


def make_optimizer(
    learning_rate: float = 1e-3,
    warmup_steps: int = 0,
    total_steps: int | None = None,
    schedule: str = "constant",
    *,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """Returns AdamW behind a clip of the gradient's global norm (None: no clip)."""
    rate = make_learning_rate(
        learning_rate, warmup_steps=warmup_steps, total_steps=total_steps, schedule=schedule
    )
    adamw = optax.adamw(rate, b1=b1, b2=b2, weight_decay=weight_decay)
    if clip_norm is None:
        return adamw
    if clip_norm <= 0:
        raise ValueError(f"clip_norm is {clip_norm}, expected a positive norm or None.")
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)
