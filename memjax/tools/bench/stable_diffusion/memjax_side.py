"""The memjax side of ``memjax bench --what=sd``: the functions that the commands call."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.condition import embeddings_of
from memjax.core.guidance import predict_pair
from memjax.core.types import TokenCond
from memjax.detectors import NoiseMagnitude, detect
from memjax.interop.stable_diffusion.scheduler_settings import SPEC
from memjax.mitigations import first_step_states, optimize_embedding
from memjax.models.adapters import LinenEps
from memjax.models.unet.network import UNet
from memjax.runtime.allocator import fill_holes_after_compilation
from memjax.runtime.flops import count_flops
from memjax.tools.bench.stable_diffusion.task import (
    FIRST_T,
    LEARNING_RATE,
    SdSettings,
    draw,
    make_inputs,
    rates,
    template,
)
from memjax.tools.bench.worker import peak_host_bytes
from memjax.tools.bench.workload import detection_flops, mitigation_flops

_pair = partial(jax.jit, static_argnames=("eps_fn",))(predict_pair)
_first_step = partial(jax.jit, static_argnames=("eps_fn",))(first_step_states)


class SdMemjaxSide:
    """Predicts, detects and mitigates with memjax.

    Args:
        settings: What to do.
    """

    def __init__(self, settings: SdSettings) -> None:
        fill_holes_after_compilation()
        self.settings, self.inputs = settings, make_inputs(settings)
        self.eps_fn = LinenEps(UNet(settings.config))
        self.schedule = SPEC.build()
        self._cond, self._null = _tokens(self.inputs.prompts), _tokens(self.inputs.null)

        def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
            names = tuple(str(entry.key) for entry in path)
            return jnp.asarray(draw(settings, names, shape.shape), settings.dtype)

        self.params = jax.tree_util.tree_map_with_path(leaf, template(settings))

    def warm(self, case: str) -> None:
        """Compiles a case; runs one call of the detection, and the start of the mitigation."""
        if case == "mitigate":
            jax.block_until_ready(_first_step(self.eps_fn, self.params, *self._first_inputs()))
            self._optimize = self._lower_mitigation().compile()
        elif case == "detect":
            self.detect(self.settings.chunk)
        else:
            self.forward()

    def forward(self, pairs: int | None = None) -> Float[np.ndarray, "two b h w c"]:
        """Returns ``(ε_u, ε_c)`` of the first prompt, both halves in one batch."""
        eps_cond, eps_uncond = _pair(self.eps_fn, self.params, *self._pair_inputs(pairs))
        return np.stack([eps_uncond, eps_cond])

    def pairs_per_second(self, candidates: tuple[int, ...], repeats: int) -> dict[int, float]:
        """Returns the rate of the forward for each number of pairs that fits into memory.

        The detection then takes as many prompts a call as suit the best of them.
        """
        found = rates(self.forward, candidates, repeats)
        best = max(found, key=lambda pairs: found[pairs])
        chunk = max(1, 2 * best // self.settings.generations)
        self.settings = self.settings._replace(chunk=chunk)
        return found

    def _pair_inputs(self, pairs: int | None = None) -> tuple[Any, ...]:
        pairs = pairs or self.settings.pairs
        cond = jax.tree.map(lambda a: np.repeat(a[:1], pairs, axis=0), self._cond)
        noise = self.inputs.noise[:pairs]
        return noise, np.full((pairs,), FIRST_T, np.int32), cond, self._null

    def detect(self, prompts: int | None = None) -> Float[np.ndarray, "p g"]:
        """Returns the first-step magnitude of every prompt (or the first few) and generation."""
        noise = self.inputs.noise[: self.settings.generations]
        found = detect(
            self.eps_fn,
            self.params,
            noise,
            jax.tree.map(lambda a: a[:prompts], self._cond),
            self._null,
            self.schedule,
            steps="first",
            num_steps=50,
            steps_offset=1,
            chunk=self.settings.chunk,
        )
        return found.per_step[..., 0]

    def mitigate(self) -> Float[np.ndarray, "1 l d"]:
        """Optimises the first prompt's embedding at the first step; returns it."""
        states = _first_step(self.eps_fn, self.params, *self._first_inputs())
        found = self._optimize(self.params, states, self._first_inputs()[2], LEARNING_RATE)
        return np.asarray(embeddings_of(found.cond))

    def _first_inputs(self) -> tuple[Any, ...]:
        cond = jax.tree.map(lambda a: a[:1], self._cond)
        noise = self.inputs.noise[: self.settings.generations]
        return noise, jnp.asarray(FIRST_T), cond, self._null

    def _lower_mitigation(self) -> Any:
        states = jax.eval_shape(
            partial(first_step_states, self.eps_fn), self.params, *self._first_inputs()
        )

        def optimize(params: Any, states: Any, cond: TokenCond, rate: Any) -> Any:
            return optimize_embedding(
                NoiseMagnitude(),
                self.eps_fn,
                params,
                states,
                cond,
                num_iters=self.settings.iterations,
                learning_rate=rate,
            )

        cond = self._first_inputs()[2]
        return jax.jit(optimize).lower(self.params, states, cond, LEARNING_RATE)

    def facts(self) -> dict[str, Any]:
        """Returns what belongs next to the figures: parameters, and the most memory so far."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        on_device = jax.devices()[0].memory_stats() or {}
        return {
            "parameters": parameters,
            "platform": jax.devices()[0].platform,
            "device": jax.devices()[0].device_kind,
            "peak_bytes": on_device.get("peak_bytes_in_use") or peak_host_bytes(),
        }

    def pair_flops(self) -> float:
        """Returns the operations of one call of :meth:`forward`, counted, not measured."""
        return count_flops(partial(predict_pair, self.eps_fn), self._shapes(), *self._pair_inputs())

    def flops(self, case: str) -> float:
        """Returns the operations of one repeat of a case, counted, loops in full."""
        if case == "forward":
            return self.pair_flops()
        noise, _, row, _ = self._first_inputs()
        model = (self.eps_fn, self._shapes(), noise, row)
        if case == "detect":
            return detection_flops(*model, self.settings.prompts)
        return mitigation_flops(*model, self.settings.iterations) + detection_flops(*model, 0)

    def _shapes(self) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self.params)

    def matmul_rate(self, n: int) -> float:
        """Returns the operations a second of an ``n × n`` product: the machine's measured peak."""
        square = jnp.ones((n, n), self.settings.dtype)
        product = jax.jit(jnp.matmul)
        product(square, square).block_until_ready()
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            product(square, square).block_until_ready()
            seconds.append(time.perf_counter() - began)
        return 2.0 * n**3 / min(seconds)


def _tokens(embeddings: Float[np.ndarray, "p l d"]) -> TokenCond:
    return TokenCond(embeddings, np.ones(embeddings.shape[:2], bool))
