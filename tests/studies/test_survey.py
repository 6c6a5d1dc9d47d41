"""A survey of training prompts: the detector's scores, and figures that are plain counts."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.condition import take_rows
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Bundle
from memjax.detectors import detect
from memjax.runs.options import AuditOptions
from memjax.sampling import SamplingOptions
from memjax.studies.prompts.draw import (
    HELD_OUT,
    LOUDEST,
    MEMORIZED,
    ONCE,
    Candidates,
    Prompts,
    candidates,
)
from memjax.studies.store import Store
from memjax.studies.survey import (
    Survey,
    came_back_section,
    nearly_twice,
    returned_images,
    scored_prompts,
    survey_job,
    survey_section,
    take_survey,
)
from tests.closed_forms import SHAPE, null_tokens, tokens, toy_eps, toy_params

COND = tokens(1, 9, padded=1)
OPTIONS = AuditOptions(generations=2, target_fpr=0.25, seed=3)
SAMPLING = SamplingOptions(num_steps=4, clip_x0=None, guidance_scale=2.0)
SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()


def model():
    bundle = Bundle(
        eps_fn=toy_eps,
        params=toy_params(),
        schedule=SCHEDULE,
        sample_shape=SHAPE,
        encode=lambda rows: take_rows(COND, np.asarray([row["number"] for row in rows])),
        null_cond=null_tokens(),
        decode=lambda x: x,
        describe=lambda row: [],
        info={},
    )
    return SimpleNamespace(bundle=bundle, dtype="float32", name="toy")


def asked(trained=5):
    """Nine prompts: five of training, one of them of two images, and four held out."""
    held = 9 - trained
    rows = [{"id": f"p{i}", "number": i} for i in range(9)]
    return Candidates(
        rows,
        np.asarray([*range(10, 10 + trained), *[-1] * held]),
        np.asarray([7, *[1] * (trained - 1), *[0] * held]),
        np.asarray([1, 2, *[1] * (trained - 2), *[0] * held]),
        trained,
    )


def taken(folder):
    store = Store(folder, survey_job(model(), asked(), OPTIONS, SAMPLING))
    store.start()
    return take_survey(model(), asked(), OPTIONS, SAMPLING, store, size=2)


def test_scores_are_those_of_the_detector_at_the_first_step(tmp_path):
    survey = taken(tmp_path)
    x_T = jax.random.normal(jax.random.key(3), (2, *SHAPE))
    found = detect(
        toy_eps, toy_params(), x_T, COND, null_tokens(), SCHEDULE, steps="first",
        **SAMPLING.static(),
    )  # fmt: skip
    np.testing.assert_allclose(survey.scores, found.scores(), rtol=1e-5)
    held = np.sort(survey.scores[5:])
    assert survey.threshold == held[-2]  # one of four may lie above it
    assert survey.flagged.tolist() == (survey.scores[:5] > held[-2]).tolist()
    order = np.argsort(-survey.scores[:5])
    assert survey.loudest == (10 + order).tolist()


def test_a_stopped_survey_goes_on_and_another_job_is_refused(tmp_path):
    first = taken(tmp_path)
    *kept, last = sorted(tmp_path.glob("part-*.npz"))
    last.unlink()
    before = [part.stat().st_mtime_ns for part in kept]
    np.testing.assert_array_equal(taken(tmp_path).scores, first.scores)
    assert [part.stat().st_mtime_ns for part in kept] == before
    other = dataclasses.replace(OPTIONS, seed=4)
    store = Store(tmp_path, survey_job(model(), asked(), other, SAMPLING))
    with pytest.raises(ValueError, match="--restart"):
        store.check()


def test_too_few_held_out_prompts_flag_nothing(tmp_path):
    few = asked(7)
    store = Store(tmp_path, {})
    survey = take_survey(model(), few, OPTIONS, SAMPLING, store, size=3)
    assert survey.threshold is None
    assert not survey.flagged.any()
    section = survey_section(survey, 3)["survey"]
    assert (section["num_flagged"], section["threshold"]) == (None, None)
    assert section["known_repeats"] == {
        "repeats": 3, "num": 1, "ranks": [survey.loudest.index(10) + 1],
    }  # fmt: skip


def of_scores(scores, copies, held, threshold):
    """A survey with made-up scores."""
    n = len(scores)
    found = Candidates(
        [{"id": f"t{i}"} for i in range(n)] + [{"id": f"h{i}"} for i in range(len(held))],
        np.asarray([*range(n), *[-1] * len(held)]),
        np.asarray([*copies, *[0] * len(held)]),
        np.ones(n + len(held), int),
        2 * n,
    )
    return Survey(found, np.asarray([*scores, *held], float), threshold, 0.05, 4, 100)


def test_flags_are_compared_with_what_is_known_to_be_repeated():
    survey = of_scores([9, 1, 8, 7, 2, 3], [40, 40, 1, 40, 2, 1], [4, 5, 1, 2], 5.0)
    section = survey_section(survey, 3)["survey"]
    assert (section["num_scored"], section["num_training"], section["num_flagged"]) == (6, 12, 3)
    assert section["flagged"] == 0.5
    assert section["threshold_rms"] == 0.5
    known = section["known_repeats"]
    assert (known["num"], known["num_flagged"], known["ranks"]) == (3, 2, [1, 3, 6])
    assert known["recall"] == pytest.approx(2 / 3)
    assert known["precision"] == pytest.approx(2 / 3)
    assert known["recall_low"] < 0.2  # three prompts say little
    assert survey_section(None, 3) == {}
    near = survey_section(survey, 3, np.asarray([1, 0, 0, 1, 1, 1], bool))["survey"]
    assert (near["near_duplicates"]["num"], near["near_duplicates"]["num_flagged"]) == (4, 2)
    assert section["near_duplicates"] is None


def test_images_that_nearly_stand_twice_are_found():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (6, 32, 32, 1)).astype(np.float32)
    images[4] = np.clip(images[1] * 0.98 + 0.01, -1, 1)
    found = nearly_twice(SimpleNamespace(train=images))
    assert found.tolist() == [False, True, False, False, True, False]


def test_an_image_that_stands_twice_is_not_known_to_be_repeated():
    nothing = survey_section(of_scores([9, 1], [2, 1], [4, 5, 1], 5.0), 3)["survey"]
    assert nothing["known_repeats"] is None  # an image that stands twice is not known to be


def test_all_scores_are_listed_the_loudest_first():
    survey = of_scores([1, 9, 3], [1, 1, 5], [4], 2.0)
    rows = scored_prompts(survey, ["a.png", "b.png", "c.png"])
    assert [(s.prompt, s.image, s.score, s.flagged, s.copies) for s, _ in rows] == [
        ("t1", "b.png", 9.0, True, 1), ("t2", "c.png", 3.0, True, 5),
        ("t0", "a.png", 1.0, False, 1),
    ]  # fmt: skip
    assert [row["id"] for _, row in rows] == ["t1", "t2", "t0"]


def audited(copies, index, ratio):
    similarity = SimpleNamespace(
        is_copy_adaptive=np.asarray(copies, bool).ravel(),
        index=np.asarray(index).ravel(),
        ratio_adaptive=np.asarray(ratio, float).ravel(),
    )
    images = np.zeros((*np.shape(copies), 2, 2, 1))
    before = SimpleNamespace(similarity=similarity, images=images)
    return SimpleNamespace(before=before, memorized=np.zeros(len(copies), bool))


def prompts_with(families, loud):
    n = len(families)
    rows = [{"id": f"p{i}"} for i in range(n)]
    blank = np.zeros(n, int)
    return Prompts(
        rows, np.asarray(families), blank, np.zeros((n, 0), int), np.full(n, ""), np.ones(n),
        np.asarray(loud, bool),
    )  # fmt: skip


def test_a_prompt_came_back_where_half_of_its_images_are_copies():
    prompts = prompts_with([ONCE, ONCE, HELD_OUT, LOUDEST, MEMORIZED], [1, 0, 0, 1, 0])
    copies = [[1, 1], [1, 0], [0, 0], [0, 0], [1, 1]]
    audit = audited(copies, np.zeros((5, 2), int), np.ones((5, 2)))
    section = came_back_section(audit, prompts, OPTIONS)
    assert section["leads"]
    found = {n: (g["num"], g["num_came_back"]) for n, g in section["groups"].items()}
    assert found == {LOUDEST: (2, 1), ONCE: (2, 2), HELD_OUT: (1, 0)}
    assert section["groups"][ONCE]["copy_rate"] == 0.75
    low, high = (section["groups"][ONCE][f"came_back_{end}"] for end in ("low", "high"))
    assert low < 0.2  # two prompts of two say little
    assert high == 1.0
    known = audit
    known.memorized[:3] = True
    assert not came_back_section(known, prompts, OPTIONS)["leads"]


def test_training_images_that_came_back_are_counted_and_named():
    prompts = prompts_with([ONCE, ONCE, HELD_OUT], [0, 0, 0])
    audit = audited(
        [[1, 0], [1, 1], [0, 1]], [[4, 4], [4, 2], [4, 4]], [[0.9, 2.0], [0.2, 0.5], [3.0, 0.8]]
    )
    gallery = SimpleNamespace(
        patients=np.asarray(list("abcde")), copies=np.asarray([1, 1, 2, 1, 9])
    )
    back = returned_images(audit, prompts, gallery, [f"{i}.png" for i in range(5)])
    assert [tuple(b) for b in back] == [
        (4, "4.png", "e", 9, 3, 3, 0.2, "p1", 0),
        (2, "2.png", "c", 2, 1, 1, 0.5, "p1", 1),
    ]


def test_candidates_of_empty_prompts_are_left_out():
    found = candidates(
        ["a", "", "b", "a"], ["c", "a", ""], np.asarray([1, 9, 1, 3]),
        lambda image, held: {"image": image, "held": held}, most=10,
    )  # fmt: skip
    assert [(row["image"], row["held"]) for row in found.rows] == [
        (0, False), (2, False), (0, True),
    ]  # fmt: skip
    assert found.copies.tolist() == [3, 1, 0]
    assert jnp.asarray(found.group).tolist() == [0, 2, -1]
