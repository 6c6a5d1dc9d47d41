import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax.data.labels.space import (
    FINDINGS,
    IGNORED,
    STATES,
    LabelSpace,
    Slot,
    chexpert_label_space,
    state_of,
)
from memjax.data.records import Record, encode_records, labels_of, marker_vocabulary

WORDS = (("K3", "Q7"), ("17", "42", "99"))
SPACE = chexpert_label_space(num_markers=2, marker_vocabulary=WORDS)


def record(**changes) -> Record:
    findings = [0] * 14
    findings[2], findings[5], findings[10] = 2, 1, 3
    base = Record("a/b.jpg", "patient1", "study1", "AP", "Male", 63, True, tuple(findings))
    return base._replace(**changes)


def test_sizes_count_the_null():
    assert SPACE.sizes == (5,) * 14 + (7, 4, 20 - 1 + 1 + 1, 4, 5)
    assert SPACE.num_tokens == 19


def test_encode_by_hand():
    ids = SPACE.encode(
        {
            "Cardiomegaly": "positive",
            "Edema": 0,
            "Pleural Effusion": -1,
            "view": "PA",
            "sex": "Female",
            "age": 63,
            "markers": ["Q7", "17"],
        }
    )
    expected = np.ones(19, np.int32)  # blank
    expected[[2, 5, 10]] = 3, 2, 4  # id = state + 1
    expected[14:] = 2, 2, 13, 2, 1  # PA, Female, 60-64 = thirteenth bin, Q7, 17
    np.testing.assert_array_equal(ids, expected)
    assert ids.dtype == np.int32


def test_left_out_is_blank_unknown_none():
    assert SPACE.describe({}) == [f"{name}: blank" for name in FINDINGS] + [
        "View: unknown",
        "Sex: unknown",
        "Age: unknown",
        "Marker 1: none",
        "Marker 2: none",
    ]


def test_no_prompt_reaches_the_null_id():
    assert (SPACE.encode({}) > 0).all()
    assert not SPACE.null(3).any()
    assert SPACE.null(3).shape == (3, 19)
    assert SPACE.describe_ids(SPACE.null(1)[0])[0] == "No Finding: null"


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (0, "unknown"),
        (np.int64(0), "unknown"),
        ("0", "unknown"),
        (np.float64(63.0), "60-64"),
        (None, "unknown"),
        (1, "0-4"),
        (4, "0-4"),
        (5, "5-9"),
        (63, "60-64"),
        (64, "60-64"),
        (65, "65-69"),
        (89, "85-89"),
        (90, "90+"),
        (119, "90+"),
        ("60-64", "60-64"),
        ("63", "60-64"),
    ],
)
def test_age_bins(age, text):
    assert SPACE.describe({"age": age})[16] == f"Age: {text}"


@pytest.mark.parametrize("width", [1, 4, 7, 10, 90])
def test_age_bins_cover_every_year_once(width):
    space = chexpert_label_space((), age_bin=width, view=False, sex=False)
    names = [space.describe({"age": year})[0].removeprefix("Age: ") for year in range(1, 90)]
    for year, name in zip(range(1, 90), names, strict=True):
        low, high = map(int, name.split("-"))
        assert low <= year <= high < 90
        assert high - low < width


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"Cardiomegally": 1}, "did you mean 'Cardiomegaly'"),
        ({"Edema": "positve"}, "did you mean 'positive'"),
        ({"Edema": 2}, "Edema has the value 2"),
        ({"Edema": [1]}, "Edema has the value"),
        ({"view": "APP"}, "did you mean 'AP'"),
        ({"sex": "man"}, "Sex has no value 'man'"),
        ({"age": -3}, "age is -3"),
        ({"age": 400}, "age is 400"),
        ({"age": float("nan")}, "age is nan"),
        ({"age": "sixty"}, "age is 'sixty'"),
        ({"markers": ["K4"]}, "Marker 1 has no value 'K4'"),
        ({"markers": ["K3", "17", "5"]}, "3 markers"),
        ({"marker": ["K3"]}, "did you mean"),
    ],
)
def test_wrong_prompts_are_named(labels, message):
    with pytest.raises(ValueError, match=message.replace("(", "\\(")) as caught:
        SPACE.encode(labels)
    assert str(caught.value).count("\n") == 0


def test_a_prompt_outside_a_restricted_space_is_refused_but_a_record_is_cut_down():
    space = chexpert_label_space(("Edema", "Cardiomegaly"), age=False)
    with pytest.raises(ValueError, match="'Fracture' is not known to this model"):
        space.encode({"Fracture": 1})
    ids = encode_records([record(markers=("K3", "17"))], space)
    np.testing.assert_array_equal(ids, [[2, 3, 1, 1]])
    assert labels_of(record(), space) == {
        "Cardiomegaly": "positive",
        "Edema": "negative",
        "view": "AP",
        "sex": "Male",
    }


@given(
    st.lists(st.integers(0, 3), min_size=14, max_size=14),
    st.sampled_from(["AP", "PA", "LL", "RL", ""]),
    st.sampled_from(["Male", "Female", ""]),
    st.one_of(st.none(), st.integers(1, 120)),
    st.booleans(),
)
def test_labels_of_describes_the_record(findings, view, sex, age, frontal):
    row = record(findings=tuple(findings), view=view, sex=sex, age=age, frontal=frontal)
    names = SPACE.describe(labels_of(row))
    np.testing.assert_array_equal(encode_records([row], SPACE)[0], SPACE.encode(labels_of(row)))
    assert names[:14] == [f"{n}: {STATES[s]}" for n, s in zip(FINDINGS, findings, strict=True)]
    assert names[14] == f"View: {view or ('unknown' if frontal else 'lateral')}"
    assert names[15] == f"Sex: {sex or 'unknown'}"
    assert (names[16] == "Age: unknown") == (age is None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"findings": ("Edemma",)}, "did you mean 'Edema'"),
        ({"findings": ("Edema", "Edema")}, "twice"),
        ({"age_bin": 0}, "age_bin is 0"),
        ({"num_markers": 2}, "marker_vocabulary is empty"),
        ({"num_markers": 2, "marker_vocabulary": (("A",),)}, "1 lists for 2"),
    ],
)
def test_impossible_spaces_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        chexpert_label_space(**arguments)


def test_one_vocabulary_serves_all_marker_slots():
    space = chexpert_label_space((), 2, ("A", "B"), view=False, sex=False, age=False)
    assert space.sizes == (4, 4)


def test_marker_vocabulary_collects_codes_by_position():
    rows = [record(markers=("K3", "17")), record(markers=("A1", "17")), record()]
    assert marker_vocabulary(rows) == (("A1", "K3"), ("17",))


@pytest.mark.parametrize(
    "value", [1, 1.0, "1", "1.0", "Positive", True, np.int64(1), np.float32(1)]
)
def test_state_of_positive(value):
    assert state_of(value) == 2


def test_no_records_give_no_rows():
    assert encode_records([], SPACE).shape == (0, 19)


CLASSES = LabelSpace((Slot("Digit", ("3", "9")), Slot("Hair colour", ("red", "Red", "unknown"))))


def test_class_slots_stand_beside_no_chest_slot():
    assert CLASSES.classes == CLASSES.slots
    assert CLASSES.findings == ()
    assert SPACE.classes == ()
    assert CLASSES.encode({"digit": 9, "hair_colour": "Red"}).tolist() == [2, 2]
    assert CLASSES.describe({"Digit": "3", "Hair colour": "RED"}) == [
        "Digit: 3",
        "Hair colour: red",
    ]


def test_a_class_left_out_is_unknown_where_training_had_such_else_the_null():
    assert CLASSES.encode({}).tolist() == [0, 3]
    assert CLASSES.encode({"Digit": None, "Hair colour": "unknown"}).tolist() == [0, 3]
    assert CLASSES.describe({}) == ["Digit: null", "Hair colour: unknown"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"Digit": 8}, r"Digit has no value '8'; expected one of '3', '9'\."),
        ({"Hair color": "red"}, r"'Hair color' is not known .*did you mean 'Hair colour'"),
        ({"caption": "red"}, r"'caption' is not known to this model; expected one of 'Digit'"),
        ({"Edema": "positive"}, r"'Edema' is not known to this model; expected one of 'Digit'"),
    ],
)
def test_a_wrong_class_is_named_with_what_was_expected(labels, words):
    with pytest.raises(ValueError, match=words):
        CLASSES.encode(labels)


def test_an_ignored_finding_is_its_slots_null():
    findings = [0] * 14
    findings[FINDINGS.index("Edema")] = IGNORED
    record = Record("p", "1", "1", "AP", "Male", 60, True, tuple(findings))
    labels = labels_of(record)
    assert labels["Edema"] == "ignored"
    column = FINDINGS.index("Edema")
    assert encode_records([record], SPACE)[0, column] == SPACE.encode(labels)[column] == 0
    assert state_of("ignored") == IGNORED
