"""Refusals of the compiler, and the search for the largest batch with a compiler made up."""

import pytest

from memjax.core.chips import GIB
from memjax.tools.fit.compile import Largest, Need, largest_batch, need_of, read_refusal

LIMIT = 16 * GIB


def compiler(fixed, each, *, curved=0.0, mute=False):
    """A compiler whose programs need ``fixed + each b + curved b²`` bytes; counts its calls."""
    calls = []

    def probe(batch):
        calls.append(batch)
        total = fixed + each * batch + curved * batch**2
        fits = total <= LIMIT
        return Need(0.0 if mute and not fits else total, fixed if fits else 0.0, fits)

    probe.calls = calls
    return probe


def truth(probe, unit):
    batch = unit
    while probe(batch).fits:
        batch += unit
    return batch - unit


@pytest.mark.parametrize("first", [8, 64, 1024])
@pytest.mark.parametrize("mute", [False, True])
def test_the_largest_batch_is_found_exactly(first, mute):
    made = compiler(2 * GIB, 0.1 * GIB, mute=mute)
    right = truth(made, 8)
    made.calls.clear()
    found = largest_batch(made, (first, made(first)), 8, LIMIT, most=30)
    assert found == Largest(right, right + 8, len(made.calls), True)


def test_linear_memory_takes_few_compilations():
    made = compiler(2 * GIB, 0.0137 * GIB)
    found = largest_batch(made, (128, made(128)), 8, LIMIT)
    assert found.exact
    assert found.compiles <= 4
    assert found.batch == truth(compiler(2 * GIB, 0.0137 * GIB), 8)


def test_compilations_are_bounded_and_the_answer_says_it_is_not_exact():
    made = compiler(GIB, 0.001 * GIB, curved=1e-5 * GIB, mute=True)
    found = largest_batch(made, (8, made(8)), 8, LIMIT, most=3)
    assert found.compiles == len(made.calls) == 3
    assert not found.exact
    assert made(found.batch).fits
    assert found.refused is None or not made(found.refused).fits


def test_nothing_fits():
    made = compiler(20 * GIB, 0.1 * GIB)
    found = largest_batch(made, (64, made(64)), 8, LIMIT, most=10)
    assert (found.batch, found.refused, found.exact) == (0, 8, True)


@pytest.mark.parametrize("unit", [3, 8])
def test_only_multiples_are_tried(unit):
    made = compiler(GIB, 0.03 * GIB)
    largest_batch(made, (unit, made(unit)), unit, LIMIT, most=12)
    assert all(batch > 0 and batch % unit == 0 for batch in made.calls)
    assert len(set(made.calls)) == len(made.calls)


REFUSALS = {
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(96.06G) exceeds available HBM (15.75G).": (96.06, 15.75),
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 22.09G of 15.75G hbm. Exceeded hbm capacity by 6.34G.\n\nTotal hbm usage ...": (
        22.09,
        15.75,
    ),
    "RESOURCE_EXHAUSTED: something new": (0, 0),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_refusals_are_read_with_the_bytes_they_name(message):
    refused = read_refusal(message)
    needed, limit = REFUSALS[message]
    assert (refused.needed, refused.limit) == (needed * GIB, limit * GIB)
    assert "\n" not in refused.said
    assert not need_of(refused).fits


def test_other_errors_are_no_refusal():
    assert read_refusal("INVALID_ARGUMENT: the layout is wrong") is None
