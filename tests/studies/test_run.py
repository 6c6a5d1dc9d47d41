"""What an audit looks at, counts as memorized, protects and counts as work."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.data.records import FINDINGS, Record, chexpert_label_space, labels_of
from memjax.detectors import detect
from memjax.runs.options import AuditOptions
from memjax.sampling import SamplingOptions
from memjax.studies.problems import chunked, trainable_tokens
from memjax.studies.prompts.draw import (
    HELD_OUT,
    LOUDEST,
    MEMORIZED,
    NEAR_MISS,
    ONCE,
    RANDOM,
    PromptCounts,
    Prompts,
    asked_findings,
    choose_prompts,
    finding_targets,
    make_gallery,
)
from memjax.studies.run import to_mitigate
from memjax.studies.summary import standalone_evals

SPACE = chexpert_label_space(num_markers=2, marker_vocabulary=(("K3", "M4"), ("17", "20")))


def record(patient, findings=(), markers=("K3", "17"), study="study1"):
    states = [0] * len(FINDINGS)
    for name, state in dict(findings).items():
        states[FINDINGS.index(name)] = state
    path = f"train/{patient}/{study}/view1_frontal.jpg"
    return Record(path, patient, study, "AP", "Male", 60, True, tuple(states), tuple(markers))


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (4, 4, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def data():
    """Patients a (3 copies and one other film), b (2 copies), c and d (one film); e, f held out."""
    rows = [
        ("pa", 0, "study1"), ("pc", 10, "study1"), ("pb", 5, "study1"), ("pa", 0, "study2"),
        ("pa", 7, "study4"), ("pb", 5, "study2"), ("pa", 0, "study3"), ("pd", 12, "study1"),
    ]  # fmt: skip
    codes = {10: ("K3", "20"), 7: ("M4", "17"), 12: ("M4", "20")}
    train = [
        record(p, {"Edema": 2} if p == "pa" else {"Edema": 1}, codes.get(n, ("K3", "17")), s)
        for p, n, s in rows
    ]
    images = np.stack([picture(number) for _, number, _ in rows])
    held = [record("pe"), record("pe", study="study2"), record("pf", {"Fracture": 3})]
    held_images = np.stack([picture(n) for n in (20, 21, 22)])
    return train, images, held, held_images


def test_gallery_holds_each_image_once_with_its_patient(data):
    train, images, held, held_images = data
    gallery, kept = make_gallery(train, images, held, held_images)
    assert gallery.train.shape == (5, 4, 4, 1)
    assert sorted(gallery.copies.tolist()) == [1, 1, 1, 2, 3]
    assert gallery.copies.sum() == len(train)
    for row, copies, patient, rec in zip(
        gallery.train, gallery.copies, gallery.patients, kept, strict=True
    ):
        same = [i for i, im in enumerate(images) if np.allclose(im / 127.5 - 1, row, atol=1e-6)]
        assert len(same) == copies
        assert {train[i].patient for i in same} == {patient} == {rec.patient}
    assert gallery.patients.tolist().count("pa") == 2  # the copied film and the other one
    assert gallery.held_out.min() >= -1
    assert gallery.held_out.max() <= 1
    assert gallery.held_patients.tolist() == ["pe", "pe", "pf"]
    assert not set(gallery.patients) & set(gallery.held_patients)


def test_targets_leave_the_uncertain_out():
    rows = [record("p", {"Edema": 2, "Fracture": 3, "Pneumonia": 1})]
    columns = [FINDINGS.index(name) for name in ("Edema", "Fracture", "Pneumonia", "Cardiomegaly")]
    assert finding_targets(rows)[0, columns].tolist() == [1, -1, 0, 0]
    assert asked_findings(rows)[0, columns].tolist() == [1, -1, 0, -1]
    assert finding_targets([]).shape == (0, 14)


def prompts_of(data, counts, seed=0):
    train, images, held, held_images = data
    gallery, kept = make_gallery(train, images, held, held_images)
    return gallery, kept, choose_prompts(gallery, kept, held, SPACE, counts, seed=seed)


def test_prompts_come_in_families_with_their_own_image(data):
    gallery, kept, prompts = prompts_of(data, PromptCounts(8, 8, 8, 0, 0))
    # Two of the three held-out films have one condition: it is asked for once.
    # A film that merely stands twice is no planted copy: it is one of those drawn at random.
    assert prompts.family.tolist() == [MEMORIZED] + [ONCE] * 4 + [HELD_OUT] * 2
    assert gallery.copies[prompts.group[:1]].tolist() == [3]
    assert sorted(gallery.copies[prompts.group[1:5]].tolist()) == [1, 1, 1, 2]
    assert prompts.group[5:].tolist() == [-1, -1]
    assert len(set(prompts.group[:5].tolist())) == 5
    assert len({row["id"] for row in prompts.rows}) == 7
    assert kept[prompts.group[0]].patient == "pa"
    first = prompts.rows[0]
    assert first["family"] == MEMORIZED
    assert first["labels"]["Edema"] == "positive"
    assert first["labels"]["markers"] == ["K3", "17"]
    assert prompts.asked[0, FINDINGS.index("Edema")] == 1
    assert prompts.where(ONCE, HELD_OUT).tolist() == [1, 2, 3, 4, 5, 6]
    assert prompts.strata[0] == "Edema"
    assert prompts.frequency[0] == 2 / 5  # of five different images two show edema


def test_near_misses_change_one_detail_and_random_conditions_are_new(data):
    _, kept, prompts = prompts_of(data, PromptCounts(8, 8, 8, 8, 40))
    near, drawn = prompts.where(NEAR_MISS), prompts.where(RANDOM)
    # The near miss of b would be the very condition of c, so that only a's is left.
    assert [prompts.rows[i]["labels"]["markers"] for i in near] == [["K3", "20"]]
    changed = prompts.rows[near[0]]["labels"]
    own = prompts.rows[0]["labels"]
    assert {k for k in own if own[k] != changed[k]} == {"markers"}
    trained = [labels_of(r, SPACE) for r in kept]
    assert len(drawn)
    assert all(prompts.rows[i]["labels"] not in trained for i in drawn)
    assert all(prompts.rows[i]["labels"]["markers"][0] in ("K3", "M4") for i in drawn)


def test_counts_are_the_most_and_the_seed_decides_the_draw(data):
    few_of_each = PromptCounts(1, 2, 1, 0, 0)
    _, _, few = prompts_of(data, few_of_each)
    assert few.family.tolist() == [MEMORIZED, ONCE, ONCE, HELD_OUT]
    _, _, again = prompts_of(data, few_of_each)
    assert again.rows == few.rows
    drawn = {tuple(prompts_of(data, few_of_each, s)[2].group[1:3]) for s in range(8)}
    assert len(drawn) > 1
    assert all(prompts_of(data, few_of_each, s)[2].group[0] == few.group[0] for s in (1, 2))


def test_labels_hold_only_what_the_model_is_conditioned_on(data):
    train, images, held, held_images = data
    gallery, kept = make_gallery(train, images, held, held_images)
    small = chexpert_label_space(("Fracture",), age=False)
    prompts = choose_prompts(gallery, kept, held, small, PromptCounts(), seed=0)
    assert all(set(row["labels"]) <= {"Fracture", "view", "sex"} for row in prompts.rows)


def prompts_with(families):
    count = len(families)
    return Prompts(
        [{}] * count,
        np.asarray(families),
        np.zeros(count, int),
        np.zeros((count, 14), int),
        np.full(count, "Edema"),
        np.ones(count),
        np.zeros(count, bool),
    )


def similarity(table):
    return SimpleNamespace(is_copy_adaptive=np.asarray(table, bool).ravel())


def test_where_nothing_is_known_what_came_back_and_what_was_flagged_is_mitigated():
    prompts = prompts_with([ONCE, ONCE, HELD_OUT, LOUDEST, LOUDEST, RANDOM])
    copies = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert to_mitigate(prompts, similarity(copies), 4).tolist() == [1, 2]
    flagged = np.asarray([False, False, False, False, True, True])
    assert to_mitigate(prompts, similarity(copies), 4, flagged).tolist() == [1, 2, 4]
    many = prompts_with([ONCE] * 40)
    share = np.arange(40)[:, None] > np.arange(40)[None]  # the last prompts copy most
    assert to_mitigate(many, similarity(share), 40).tolist() == list(range(24, 40))


def describe(row):
    return ["BOS", *SPACE.describe(row["labels"])]


BUNDLE = SimpleNamespace(describe=describe)
ROWS = [{"labels": {"Edema": "positive"}}, {"labels": {"markers": ["K3", "17"]}}]


@pytest.mark.parametrize(
    ("protect", "moving"),
    [
        ((), set(range(1, 20))),
        (("findings",), set(range(15, 20))),
        (("Edema",), set(range(1, 20)) - {1 + FINDINGS.index("Edema")}),
        (("findings", "view", "Sex", "age"), {18, 19}),
        (("Marker 2", "FINDINGS"), {15, 16, 17, 18}),
    ],
)
def test_a_mitigation_moves_neither_bos_nor_what_is_protected(protect, moving):
    table = trainable_tokens(BUNDLE, ROWS, protect)
    assert table.shape == (2, 20)
    for row in table:
        assert set(np.flatnonzero(row)) == moving


def test_a_label_that_cannot_be_protected_is_named():
    with pytest.raises(ValueError, match=r"'edmea'.*did you mean 'edema'"):
        trainable_tokens(BUNDLE, ROWS, ("findings", "Edmea"))


@pytest.mark.parametrize(
    ("name", "steps"), [("first_step", "first"), ("first_k", 3), ("all_steps", "all")]
)
def test_stated_evaluations_are_what_the_detector_spends(name, steps):
    def eps(params, x_t, t, cond):
        return x_t * cond[:, :, None, None]

    found = detect(
        eps,
        None,
        jnp.ones((2, 4, 4, 1)),
        jnp.ones((5, 1)),
        jnp.zeros((1, 1)),
        ScheduleSpec().build(),
        steps=steps,
        num_steps=6,
    )
    assert standalone_evals(name, 5, 2, 6, 3) == found.forward_evals


def test_chunks_have_one_size_and_lose_no_row():
    rows = jnp.arange(7)[:, None]
    parts = chunked(rows, 3)
    assert [part.ravel().tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert [part.ravel().tolist() for part in chunked(rows[:2], 3)] == [[0, 1]]
    assert jax.tree.leaves(chunked(rows, 7))[0].shape == (7, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"default": "last"}, r"default is 'last', expected first_step"),
        ({"arms": ("luck",)}, r"luck.*embedding_noise"),
    ],
)
def test_impossible_audits_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        AuditOptions(**changes)


def test_an_unknown_stepper_is_refused():
    with pytest.raises(ValueError, match="euler"):
        SamplingOptions(stepper="euler").static()
