"""Many prompts measured with shared initial noise, in chunks of one static shape."""

from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from memjax.core.condition import num_rows, take_rows
from memjax.core.mesh import place, replicated, row_shards, rows_over
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params
from memjax.detectors.base import Detection, Steps
from memjax.detectors.probe import prepare


def detect(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    null_cond: Cond | None,
    schedule: NoiseSchedule,
    *,
    steps: Steps = "all",
    chunk: int = 16,
    progress: Callable[[int, int], None] | None = None,
    mesh: Mesh | None = None,
    **sampling,
) -> Detection:
    """Measures many prompts with shared initial noise, in chunks of one static shape.

    ``steps='first'`` needs one forward a prompt and generation (the unconditional half is computed
    once for all prompts) and makes no image; K runs the first K steps of the trajectory; ``all``
    runs it to the end, so that images and every (n, first-k, all-steps) ablation come from one run.

    Args:
        eps_fn: The network.
        params: Its weights.
        x_T: Initial noises, shared by all prompts.
        cond: Conditions of p prompts.
        null_cond: The null condition; None is refused.
        schedule: The noise schedule.
        steps: ``first``, K, ``(start, stop)`` or ``all``.
        chunk: Prompts a call; the last chunk is padded.
        progress: Called with (prompts done, prompts in all).
        mesh: Devices of this process over which the prompts of a chunk are spread (see
            :func:`memjax.core.mesh.make_mesh`); the chunk is rounded up to a multiple of them.
        **sampling: Grid and sampling options, see :func:`memjax.detectors.prepare`.

    Returns:
        Raw magnitudes ``[prompt, generation, step]`` with images where the end was reached.

    Raises:
        ValueError: If there is no null condition or the window does not fit.
    """
    if mesh is not None:
        params, null_cond = place((params, null_cond), replicated(mesh))
    probe = prepare(eps_fn, params, x_T, null_cond, schedule, steps=steps, **sampling)
    prompts = num_rows(cond)
    chunk = min(chunk, prompts)
    chunk += 0 if mesh is None else -chunk % row_shards(mesh)
    norms, images = [], []
    for start in range(0, prompts, chunk):
        real = min(chunk, prompts - start)
        rows = take_rows(cond, np.arange(start, start + chunk).clip(max=prompts - 1))
        per_step, end = probe(rows if mesh is None else place(rows, rows_over(mesh)))
        norms.append(np.asarray(per_step)[:real])
        if end is not None and probe.finished:
            images.append(np.asarray(end)[:real])
        if progress is not None:
            progress(start + real, prompts)
    return Detection(
        np.concatenate(norms),
        np.concatenate(images) if images else None,
        probe.forward_evals(prompts),
        probe.dim,
    )
