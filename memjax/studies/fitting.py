"""How many prompts of a foreign model are repaired at once: the gradient is what needs memory."""

from typing import Any

import jax
import jax.numpy as jnp

from memjax.core.guidance import CompanionNull, RandomNull
from memjax.detectors import null_or_refuse
from memjax.runs.model import Model
from memjax.runtime.batching import choose, free_bytes, program_bytes, usual_size
from memjax.studies.mitigation.targets import trace_repair


def fitting(
    model: Model, generations: int, steps: int, num_iters: int, prompts: int, targets: int = 1
) -> tuple[int, bool]:
    """Returns how many prompts fit, and whether even one needs more than there is.

    Args:
        model: The model.
        generations: Images a prompt.
        steps: How many steps the optimizer minimizes over.
        num_iters: Its updates.
        prompts: How many prompts there are.
        targets: How many targets.
    """
    bundle = model.bundle
    noise = jax.ShapeDtypeStruct((generations, *bundle.sample_shape), jnp.float32)
    cond = null_or_refuse(bundle.null_cond)  # its shapes are those of any prompt
    if isinstance(cond, RandomNull | CompanionNull):
        cond = bundle.encode([{"caption": ""}])

    def trace(rows: int) -> Any:
        return trace_repair(
            bundle, noise, cond, rows, steps=steps, num_iters=num_iters, targets=targets
        )

    size, compiled = choose(trace, min(usual_size(generations), prompts))
    needed = 0 if compiled is None else program_bytes(compiled) or 0
    return size, size == 1 and needed > free_bytes()


def fitting_size(model: Model, generations: int, steps: int, num_iters: int, prompts: int) -> int:
    """Returns how many prompts fit; see :func:`fitting`."""
    return fitting(model, generations, steps, num_iters, prompts)[0]
