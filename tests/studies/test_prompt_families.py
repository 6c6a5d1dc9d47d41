"""Conditions beside a memorized one, mixed ones, classes of images, and rates of a mixture."""

import numpy as np
import pytest

from memjax.data.records import FINDINGS, NEGATIVE, POSITIVE, Record
from memjax.studies.prompts.classes import NONE, class_frequency, main_classes
from memjax.studies.prompts.families import near_misses, random_conditions
from memjax.studies.sweep.metrics import mixed_rate

BLANK = (0,) * len(FINDINGS)


def film(**changes):
    plain = Record("a.jpg", "p", "s", "AP", "Male", 60, True, BLANK)
    return plain._replace(**changes)


def states(**of):
    names = {name.replace(" ", "_"): i for i, name in enumerate(FINDINGS)}
    found = list(BLANK)
    for name, state in of.items():
        found[names[name]] = state
    return tuple(found)


def changed(record, pool, seed=0):
    (made,) = near_misses([record], pool, np.random.default_rng(seed))
    return {f for f in Record._fields if getattr(made, f) != getattr(record, f)}, made


def test_a_near_miss_changes_the_last_marker_code_first():
    own = film(markers=("K3", "17"), classes=(("Digit", "9"),))
    pool = [own, film(markers=("M4", "20")), film(markers=("M4", "30"))]
    fields, made = changed(own, pool)
    assert fields == {"markers"}
    assert made.markers[0] == "K3"
    assert made.markers[1] in ("20", "30")


@pytest.mark.parametrize(
    ("record", "pool", "field"),
    [
        (film(markers=("K3",)), [film(markers=("K3",))], "age"),  # no other code there is
        (
            film(classes=(("Digit", "9"),)),
            [film(classes=(("Digit", c),)) for c in "93"],
            "classes",
        ),
        (film(caption="a dog on grass"), [], "caption"),
        (film(), [], "age"),
        (film(age=None), [], "findings"),
    ],
)
def test_a_near_miss_changes_one_detail(record, pool, field):
    fields, made = changed(record, pool)
    assert fields == {field}
    if field == "age":
        assert abs(made.age - 60) == 20
    if field == "findings":
        assert sum(a != b for a, b in zip(made.findings, record.findings, strict=True)) == 1
    if field == "caption":
        assert len(made.caption.split()) == 3


def test_random_conditions_take_each_detail_from_the_pool():
    pool = [
        film(sex="Male", age=30, markers=("A", "1"), findings=states(Edema=POSITIVE)),
        film(sex="Female", age=70, markers=("B", "2"), findings=states(Fracture=NEGATIVE)),
    ]
    made = random_conditions(pool, 60, np.random.default_rng(0))
    assert len(made) == 60
    assert {r.age for r in made} == {30, 70}
    assert {r.markers for r in made} == {("A", "1"), ("A", "2"), ("B", "1"), ("B", "2")}
    assert {(r.sex, r.age) for r in made} > {("Male", 70), ("Female", 30)}
    edema = FINDINGS.index("Edema")
    assert {r.findings[edema] for r in made} == {0, POSITIVE}
    assert len({r.patient for r in made}) == 60


def test_the_class_of_a_film_is_its_most_common_positive_finding():
    both = film(findings=states(Edema=POSITIVE, Fracture=POSITIVE))
    edema = film(findings=states(Edema=POSITIVE, Pneumonia=NEGATIVE))
    classes = main_classes([both, edema, film()], [both, edema, edema])
    assert classes.tolist() == ["Edema", "Edema", NONE]
    assert main_classes([both], [film(findings=states(Fracture=POSITIVE))]).tolist() == ["Fracture"]
    nine = film(classes=(("Digit", "9"), ("Writer", "a")))
    assert main_classes([nine], []).tolist() == ["Digit: 9"]


def test_class_frequencies_are_shares_and_never_zero():
    found = class_frequency(np.asarray(["a", "b", "c"]), np.asarray(["a", "a", "b", "d"]))
    np.testing.assert_allclose(found, [0.5, 0.25, 0.25])


def test_a_mixture_weighs_its_parts_and_resamples_within_them():
    one, other = np.ones((6, 2)), np.asarray([[0, 0], [1, 1]] * 8)
    found = mixed_rate([(0.4, one), (0.6, other)])
    assert found.value == pytest.approx(0.4 + 0.6 * 0.5)
    # The second part alone varies: 16 prompts of rate 0 or 1, standard error 0.5 / 4.
    assert found.high - found.low == pytest.approx(0.6 * 4 * 0.125, rel=0.25)
    still = mixed_rate([(0.4, one), (0.6, np.zeros((5, 2)))])
    assert (still.value, still.low, still.high) == pytest.approx((0.4, 0.4, 0.4))
