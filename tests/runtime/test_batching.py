"""What fits is chosen, what does not is halved, and every row is measured once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.runtime import batching
from memjax.runtime.batching import choose, over_rows, program_bytes, traced_bytes, usual_size

WIDTH = 64


@jax.jit
def _square(cond):
    """Outer products: memory grows with the rows, and much faster than they do.

    Their largest entry, which no order of rounded sums decides.
    """
    return jnp.max(jnp.tanh(cond[:, :, None] * cond[:, None, :]), axis=(1, 2))


class Program:
    """Counts what is compiled and run, and runs out of memory above ``room`` rows."""

    def __init__(self, room=100):
        self.room, self.traced, self.ran = room, [], []

    def trace(self, cond):
        self.traced.append(cond.shape[0])
        return _square.trace(cond)

    def __call__(self, cond, compiled=None):
        self.ran.append(cond.shape[0])
        if cond.shape[0] > self.room:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 GiB")
        return compiled(cond)


def encode_ones(numbers):
    return jnp.asarray(np.tile(np.asarray(numbers, np.float32)[:, None] + 1, (1, WIDTH)))


def measured(program, count, **options):
    """Runs over some rows and returns ``{row: value}``; refuses a row that comes twice."""
    found = {}
    for numbers, values in over_rows(program, encode_ones, np.arange(count), **options):
        assert len(numbers) == len(values)
        for number, value in zip(numbers, values, strict=True):
            assert int(number) not in found
            found[int(number)] = float(value)
    return found


def expected(count):
    rows = np.arange(count) + 1.0
    return dict(enumerate(np.tanh(rows**2)))


@pytest.mark.parametrize("count", [1, 3, 7, 8, 9, 21])
@pytest.mark.parametrize("size", [0, 1, 3, 8])
def test_every_row_is_measured_once_whatever_the_size(count, size):
    found = measured(Program(), count, size=size, most=8)
    assert list(found) == list(range(count))
    for row, value in expected(count).items():
        assert found[row] == pytest.approx(value, rel=1e-6)


def test_rows_that_fit_are_compiled_once_at_the_largest_size():
    program = Program()
    measured(program, 40, most=8, budget=1 << 40)
    assert program.traced == [1, 8]  # a look at one row, without compiling; then the program
    assert set(program.ran) == {8}


def test_rows_that_do_not_fit_are_evaluated_fewer_at_a_time():
    wide = jnp.ones((WIDTH, 1 << 14))

    def trace(rows):
        return jax.jit(lambda x: jnp.tanh(x @ wide) @ wide.T).trace(jnp.ones((rows, WIDTH)))

    needed = program_bytes(trace(1).lower().compile())
    assert needed >= 4 << 14  # the wide layer
    assert choose(trace, 16, 5 * needed) == (4, None)
    size, compiled = choose(trace, 16, needed // 2)
    assert size == 1
    assert compiled(jnp.ones((1, WIDTH))).shape == (1, WIDTH)


def test_memory_that_runs_out_halves_the_rows_until_they_fit():
    program = Program(room=3)
    assert measured(program, 16, most=8, budget=1 << 40) == pytest.approx(expected(16), rel=1e-6)
    assert program.ran[:3] == [8, 4, 2]
    assert set(program.ran[2:]) == {2}
    assert program.traced == [1, 8, 4, 2]


def test_memory_that_runs_out_while_compiling_halves_too():
    class Tight(Program):
        def trace(self, cond):
            if cond.shape[0] > 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: while autotuning")
            return super().trace(cond)

    assert len(measured(Tight(), 6, most=4, budget=1 << 40)) == 6


def test_one_row_that_does_not_fit_is_a_sentence():
    with pytest.raises(ValueError, match=r"does not hold one prompt.*--generations.*bfloat16"):
        measured(Program(room=0), 4, most=4)


def test_a_given_number_that_does_not_fit_is_a_sentence():
    with pytest.raises(ValueError, match=r"--chunk=4 prompts.*smaller"):
        measured(Program(room=3), 4, size=4)


def test_other_errors_stay_what_they_are():
    class Broken(Program):
        def __call__(self, cond, compiled=None):
            raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        measured(Broken(), 2)


def test_the_traced_bound_counts_what_is_alive_together():
    def chain(x):  # one array in, one out, at any time
        for _ in range(10):
            x = jnp.sin(x)
        return x

    def fan(x):  # ten arrays wait for the sum
        kept = [jnp.sin(x + k) for k in range(10)]
        return sum(kept[1:], start=kept[0])

    def scanned(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c) + 1.0, None), x, None, length=100)[0]

    x, one = jnp.ones(1000), 4000
    assert traced_bytes(jax.jit(chain).trace(x)) == 2 * one
    assert traced_bytes(jax.jit(fan).trace(x)) >= 10 * one
    assert traced_bytes(jax.jit(fan).trace(x)) <= 13 * one
    assert traced_bytes(jax.jit(scanned).trace(x)) <= 4 * one  # not a hundred times the body


def test_the_usual_size_shrinks_with_the_generations():
    assert [usual_size(g) for g in (1, 2, 4, 5, 64, 100)] == [64, 32, 16, 8, 1, 1]


def test_an_accelerators_own_figure_is_taken(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 200}

    monkeypatch.setattr(batching.jax, "local_devices", lambda: [Device()])
    assert batching.free_bytes() == 720


def test_the_hosts_free_memory_is_positive():
    assert 0 < batching.free_bytes() < 1 << 62
