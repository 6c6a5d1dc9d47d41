"""An audit within a time: plans that nest, the largest that fits, and what is said of the rest."""

import dataclasses
import itertools
import time

import numpy as np
import pytest

from memjax.data.records import image_record
from memjax.runs.options import AuditOptions
from memjax.studies.budget import (
    LEVELS,
    Budget,
    budget_section,
    late_note,
    make_plan,
    nested,
    parse_seconds,
    scaled,
    time_of_chunk,
)
from memjax.studies.prompts.captions import caption_gallery, choose_caption_prompts
from memjax.studies.prompts.draw import HELD_OUT, LOUDEST, MEMORIZED, ONCE, RANDOM, PromptCounts
from memjax.studies.store import Store

COUNTS = PromptCounts(memorized=8, once=16, held_out=16, near_miss=8, random=8, loudest=8)
OPTIONS = AuditOptions(arms=("embedding_noise", "embedding_first_step"), chunk=4)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_times_are_read(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["10", "m", "1 h", "-5m", "0s", "10m5", "soon"])
def test_other_texts_are_refused_by_name(text):
    with pytest.raises(ValueError, match=rf"--budget={text}: expected a time such as 10m"):
        parse_seconds(text)


def test_numbers_are_scaled_but_for_prompts_that_are_made_up():
    few, many = scaled(COUNTS, 1 / 8), scaled(COUNTS, 4)
    assert dataclasses.astuple(few) == (4, 4, 4, 4, 4, 4, COUNTS.repeats)
    assert (many.memorized, many.once, many.loudest) == (32, 64, 32)
    assert (many.near_miss, many.random) == (8, 8)
    assert scaled(COUNTS, 1) == COUNTS


@pytest.fixture(scope="module")
def draw():
    """Prompts of 150 images with captions, ten of them repeated, and of 60 held out."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(300)]

    def record(number):
        text = " ".join(rng.choice(words, 4))
        name = f"{number}.png"
        return image_record(name, name, caption=text, repeats=9 if number < 10 else 1)

    train, held = [record(i) for i in range(150)], [record(200 + i) for i in range(60)]
    images = rng.integers(0, 256, (210, 4, 4, 1)).astype(np.uint8)
    gallery, kept = caption_gallery(train, images[:150], held, images[150:])
    loudest = rng.permutation(150).tolist()
    return lambda counts: choose_caption_prompts(gallery, kept, held, counts, loudest=loudest)


def test_smaller_plans_are_the_beginning_of_larger_ones(draw):
    plans = [nested(draw, COUNTS, LEVELS[:n]) for n in range(1, 9)]
    for small, large in itertools.pairwise(plans):
        fixed = [key for key, f in zip(small.keys, small.family, strict=True) if f != RANDOM]
        shared = [key for key in large.keys[: len(small.keys)] if key in set(fixed)]
        # A random prompt may be another one with more of them, and then a few others move up.
        assert len(shared) >= len(fixed) - 8
        assert shared[:20] == fixed[:20]
    assert [len(plan.rows) for plan in plans] == sorted(len(plan.rows) for plan in plans)
    last = plans[-1]
    assert set(last.keys) == set(draw(scaled(COUNTS, LEVELS[7])).keys)
    assert len({row["id"] for row in last.rows}) == len(last.rows)
    assert all(row["family"] == family for row, family in zip(last.rows, last.family, strict=True))
    assert {MEMORIZED, ONCE, HELD_OUT} <= set(last.family.tolist())
    assert last.loud.sum() > plans[0].loud.sum() == 4


def test_the_largest_plan_that_fits_is_taken(draw):
    sizes, levels = [], []
    for left in (1.0, 60.0, 120.0, 1e6):
        plan = make_plan(draw, COUNTS, OPTIONS, 10, 1.0, left)
        sizes.append(len(plan.prompts.rows))
        levels.append(plan.level)
        if plan.level > LEVELS[0]:
            assert plan.seconds <= 0.5 * left
            assert plan.options.arms == OPTIONS.arms
    assert sizes == sorted(set(sizes))
    assert plan.complete
    assert (plan.prompts.family == ONCE).sum() + (plan.prompts.family == LOUDEST).sum() == 140
    tight = make_plan(draw, COUNTS, OPTIONS, 10, 1.0, 1.0)
    assert (tight.level, tight.options.arms, tight.complete) == (LEVELS[0], (), False)
    one = make_plan(draw, COUNTS, OPTIONS, 10, 1.0, 20.0)
    assert one.options.arms == ("embedding_noise",)


def test_what_was_not_reached_is_said(draw):
    budget = Budget("10m", 600.0, time.monotonic() + 600)
    assert 590 < budget.left <= 600
    tight = make_plan(draw, COUNTS, OPTIONS, 10, 1.0, 1.0)
    said = budget_section(tight, budget, OPTIONS)
    assert said["mitigations_left_out"] == ["embedding noise", "embedding first step"]
    assert said["sentence"] == (
        f"--budget=10m asks for {len(tight.prompts.rows)} prompts, without embedding noise and "
        "embedding first step: the same command with a larger one goes on from here."
    )
    whole = make_plan(draw, COUNTS, OPTIONS, 10, 1.0, 1e6)
    assert budget_section(whole, budget, OPTIONS)["complete"]


def test_an_audit_that_took_longer_says_so():
    now = time.monotonic()
    assert late_note(Budget("1m", 60.0, now + 1)) == ""
    assert late_note(Budget("1m", 60.0, now - 14.9)).startswith(
        "It took 75 s, more than --budget=1m"
    )


def test_the_time_of_a_chunk_is_that_of_the_second_and_kept(tmp_path):
    asked = []

    def run(chunks):
        asked.append(chunks)
        time.sleep(0.2 if chunks == 1 else 0.01)  # the first one compiles

    store = Store(tmp_path, {})
    seconds = time_of_chunk(store, run, 5)
    assert seconds < 0.15
    assert asked == [1, 2]
    assert time_of_chunk(store, run, 5) == seconds
    assert asked == [1, 2]
    assert time_of_chunk(None, run, 1) > 0.15
