"""What importing costs, and what the methods need, measured in fresh processes."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

import memjax
from tests.commands import PATIENCE

ROOT = pathlib.Path(memjax.__file__).parents[1]
BLOCK = "import sys\nfor name in {names!r}: sys.modules[name] = None\n"
BLOCKED = ("flax", "grain", "orbax", "ml_collections", "absl.app", "torch", "diffusers")

ON_A_PLAIN_FUNCTION = """
    import jax, jax.numpy as jnp
    from memjax.core.schedules import ScheduleSpec
    from memjax.core.types import TokenCond
    from memjax.detectors import NoiseMagnitude, detect
    from memjax.explain import explain_tokens
    from memjax.mitigations import first_step_states, optimize_embedding

    def eps_fn(params, x, t, cond):
        return params * (x + jnp.mean(cond.embeddings, axis=(1, 2))[:, None])

    params, x_T = jnp.float32(0.5), jnp.ones((2, 4))
    cond = TokenCond(jnp.ones((3, 2, 5)), jnp.ones((3, 2), bool))
    null = TokenCond(jnp.zeros((1, 2, 5)), jnp.ones((1, 2), bool))
    schedule = ScheduleSpec().build()
    found = detect(eps_fn, params, x_T, cond, null, schedule, steps="first")
    assert abs(found.scores() - 1.0).max() < 1e-6, found  # ‖.5 · 1‖ over 4 pixels
    weights = explain_tokens(eps_fn, params, x_T, cond, null, schedule, num_steps=2)
    assert weights.shape == (3, 2, 2, 2) and float(weights.min()) > 0
    states = first_step_states(eps_fn, params, x_T, jnp.array(999), cond, null)
    out = optimize_embedding(NoiseMagnitude(), eps_fn, params, states, cond, num_iters=2)
    assert float(out.loss.max()) < 1.0
    print("ok", [m for m in sys.modules if m in {names!r} and sys.modules[m] is not None])
"""


def _python(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
    )


@pytest.mark.slow
def test_the_methods_run_on_a_plain_function_without_flax():
    code = BLOCK + textwrap.dedent(ON_A_PLAIN_FUNCTION)
    assert _python(code.replace("{names!r}", repr(BLOCKED))).stdout.strip() == "ok []"


@pytest.mark.slow
def test_importing_memjax_is_quick_and_touches_no_backend():
    code = """
        import sys, time
        start = time.process_time()
        import memjax
        seconds = time.process_time() - start
        assert seconds < 1.5, seconds
        assert "flax" not in sys.modules and "orbax" not in sys.modules
        import memjax.core.schedules, memjax.detectors, memjax.explain, memjax.mitigations
        memjax.core.schedules.ScheduleSpec().build()
        from jax._src import xla_bridge
        assert not xla_bridge.backends_are_initialized()
    """
    _python(textwrap.dedent(code))


def test_submodules_load_by_name():
    assert memjax.detectors.detect is not None
    assert "mitigations" in dir(memjax)
    with pytest.raises(AttributeError, match="no attribute 'detecters'"):
        memjax.detecters  # noqa: B018
