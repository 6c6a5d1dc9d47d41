"""How much an audit asks for in a given time, so that more time later goes on from there."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from memjax.core.registry import title_of
from memjax.mitigations import Chain, EmbeddingOptimization
from memjax.runs.options import AuditOptions
from memjax.studies.prompts.draw import MEMORIZED, RANDOM, PromptCounts, Prompts
from memjax.studies.run import MOST_MITIGATED
from memjax.studies.store import Store

LEVELS = tuple(2.0**k for k in range(-3, 11))  # of the configuration's numbers of prompts
_SHARE = 0.5  # of the time left; compiling, counting and the report take the rest
_ENOUGH = ("near_miss", "random")  # of made-up prompts there is no end: no more than configured
_FEWEST = 4  # prompts of a family
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIMED = "seconds-a-chunk"

Draw = Callable[[PromptCounts], Prompts]


def parse_seconds(text: str) -> float:
    """Returns the seconds of ``90s``, ``10m``, ``1h`` or ``1h30m``.

    Raises:
        ValueError: If it is no such time.
    """
    found = re.fullmatch(r"(?:\d+(?:\.\d+)?[smhd])+", text.strip())
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text) if found else []
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not total > 0:
        raise ValueError(f"--budget={text}: expected a time such as 10m, 1h or 1h30m.")
    return total


class Budget(NamedTuple):
    """How long an audit may take.

    Attributes:
        text: As it was given.
        seconds: In all.
        until: When they are over, of ``time.monotonic()``.
    """

    text: str
    seconds: float
    until: float

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(self.until - time.monotonic(), 0.0)


class Plan(NamedTuple):
    """What is asked for.

    Attributes:
        prompts: Those of every smaller plan come first, in the same order.
        options: With the mitigations that fit.
        level: Times the configuration's numbers of prompts.
        seconds: How long it is expected to take.
        complete: Whether there is nothing more to ask for.
    """

    prompts: Prompts
    options: AuditOptions
    level: float
    seconds: float
    complete: bool


def scaled(counts: PromptCounts, level: float) -> PromptCounts:
    """Returns so many times the numbers of prompts, at least four of each family.

    Prompts that are made up are never more than the configuration says.
    """
    names = [field.name for field in dataclasses.fields(counts) if field.name != "repeats"]
    values = {name: getattr(counts, name) for name in names}
    times = {name: min(level, 1.0) if name in _ENOUGH else level for name in values}
    changes = {
        name: max(math.floor(value * times[name]), min(value, _FEWEST))
        for name, value in values.items()
    }
    return dataclasses.replace(counts, **changes)


def nested(draw: Draw, counts: PromptCounts, levels: Sequence[float]) -> Prompts:
    """Returns the prompts of the last level, those of earlier levels first.

    Args:
        draw: Numbers of prompts → prompts.
        counts: The configuration's numbers.
        levels: Rising.
    """
    *lower, wanted = (draw(scaled(counts, level)) for level in levels)
    place = {key: i for i, key in enumerate(wanted.keys)}
    order: dict[int, None] = {}
    for prompts in (*lower, wanted):  # random prompts last: another number draws others
        last = np.argsort(prompts.family == RANDOM, kind="stable")
        keys = prompts.keys
        order |= {place[keys[i]]: None for i in last if keys[i] in place}
    return wanted.take(np.asarray(list(order)))


def time_of_chunk(store: Store | None, run: Callable[[int], None], prompts: int) -> float:
    """Returns the seconds of one chunk, measured on a second one where there are two.

    Args:
        store: Keeps the figure, for a run that goes on.
        run: Makes the images of the first so many chunks, those that are there already excepted.
        prompts: Chunks there are.
    """
    known = None if store is None else store.read(_TIMED)
    if known is not None:
        return float(known[1]["seconds"])
    for count in (1, 2)[: max(prompts, 1)]:
        began = time.monotonic()
        run(count)
        seconds = time.monotonic() - began
    if store is not None:
        store.keep(_TIMED, {"seconds": np.asarray(seconds)})
    return seconds


def make_plan(
    draw: Draw,
    counts: PromptCounts,
    options: AuditOptions,
    num_steps: int,
    seconds: float,
    left: float,
) -> Plan:
    """Returns the largest plan that fits; the smallest where none does.

    Args:
        draw: Numbers of prompts → prompts.
        counts: The configuration's numbers.
        options: What is measured.
        num_steps: Steps of a trajectory.
        seconds: Of one chunk of prompts.
        left: Seconds that are left.
    """
    best, everything = None, len(draw(scaled(counts, LEVELS[-1])).rows)
    for place in range(1, len(LEVELS) + 1):
        prompts = nested(draw, counts, LEVELS[:place])
        arms = len(options.arms)
        needed = _seconds(prompts, options, arms, num_steps, seconds)
        while best is None and arms and needed > _SHARE * left:  # the smallest: fewer mitigations
            arms -= 1
            needed = _seconds(prompts, options, arms, num_steps, seconds)
        if best is not None and needed > _SHARE * left:
            return best
        fewer = dataclasses.replace(options, arms=options.arms[:arms])
        done = len(prompts.rows) == everything and arms == len(options.arms)
        best = Plan(prompts, fewer, LEVELS[place - 1], needed, done)
        if done or arms < len(options.arms):
            return best
    assert best is not None
    return best


def _seconds(
    prompts: Prompts, options: AuditOptions, arms: int, num_steps: int, chunk_seconds: float
) -> float:
    """Predicts how long the images, explanations and mitigations of some prompts take."""
    mitigated = int((prompts.family == MEMORIZED).sum()) or min(
        int(prompts.loud.sum()), MOST_MITIGATED
    )
    chunks = math.ceil(len(prompts.rows) / options.chunk)
    fewer = math.ceil(mitigated / options.chunk)
    each = [_mitigating(options.chain(arm), num_steps) for arm in options.arms[:arms]]
    return chunk_seconds * (chunks + fewer * (1 + sum(each)))


def _mitigating(chain: Chain, num_steps: int) -> float:
    """Returns what a mitigation costs with its images, in trajectories of two evaluations a step.

    An update costs about three evaluations a step index and noise.
    """
    cost = 1.0
    for mitigation in chain.mitigations:
        if isinstance(mitigation, EmbeddingOptimization):
            updates = 3 * len(mitigation.steps) * mitigation.num_iters
            cost += (mitigation.steps != (0,)) + updates / (2 * num_steps)
    return cost


def late_note(budget: Budget) -> str:
    """Returns a sentence where an audit took longer than its budget, else nothing."""
    over = time.monotonic() - budget.until
    if over <= 0:
        return ""
    return (
        f"It took {budget.seconds + over:.0f} s, more than --budget={budget.text}: what is "
        "compiled and drawn once takes its time however few prompts there are."
    )


def budget_section(plan: Plan, budget: Budget, asked: AuditOptions) -> dict[str, Any]:
    """Returns ``budget`` of ``report.json``, with a sentence on what was not reached.

    Args:
        plan: What was asked for.
        budget: The time there was.
        asked: What would have been measured in any time.
    """
    dropped = [title_of(arm) for arm in asked.arms[len(plan.options.arms) :]]
    said = f"--budget={budget.text} was enough for all there is to ask."
    if not plan.complete:
        missing = f", without {' and '.join(dropped)}" if dropped else ""
        said = (
            f"--budget={budget.text} asks for {len(plan.prompts.rows)} prompts{missing}: the same "
            "command with a larger one goes on from here."
        )
    return {
        "seconds": budget.seconds,
        "seconds_expected": plan.seconds,
        "level": plan.level,
        "prompts": len(plan.prompts.rows),
        "mitigations_left_out": dropped,
        "complete": plan.complete,
        "sentence": said,
    }
