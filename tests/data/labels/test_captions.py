import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax.data.labels.captions import caption_of, labels_from_caption
from memjax.data.labels.space import IGNORED, LabelSpace, Slot, chexpert_label_space
from memjax.data.records import Record, image_record, labels_of

SPACE = chexpert_label_space(num_markers=2, marker_vocabulary=(("K3", "Q7"), ("17", "42")))
FINDINGS = (0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 3, 0, 0, 0)
ROW = Record("p", "1", "1", "AP", "Male", 63, True, FINDINGS, ("K3", "17"))


def test_caption_by_hand():
    assert caption_of(ROW) == (
        "Frontal AP view, male, age 60-64: cardiomegaly, no edema, pleural effusion (uncertain); "
        "markers K3 17"
    )
    assert caption_of(ROW._replace(caption="as written")) == "as written"


def test_unknown_is_left_out():
    bare = Record("p", "1", "1", "", "", None, False, (0,) * 14)
    assert caption_of(bare) == "Lateral view"


@given(
    st.lists(st.integers(0, 3), min_size=14, max_size=14),
    st.sampled_from(["AP", "PA", "LL", "RL", ""]),
    st.sampled_from(["Male", "Female", ""]),
    st.one_of(st.none(), st.integers(1, 120)),
    st.sampled_from([(), ("Q7", "42")]),
    st.booleans(),
)
def test_a_caption_reads_back_to_the_same_ids(findings, view, sex, age, markers, frontal):
    row = ROW._replace(
        findings=tuple(findings), view=view, sex=sex, age=age, markers=markers, frontal=frontal
    )
    read = SPACE.encode(labels_from_caption(caption_of(row)))
    np.testing.assert_array_equal(read, SPACE.encode(labels_of(row)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Frontal AP view, male: cardiomegally", "did you mean 'Cardiomegaly'"),
        ("Frontal AP view, femal", "did you mean 'female'"),
        ("Frontal XY view", "'Frontal XY view' is not understood"),
        ("AP view; stamps K3", "is not understood"),
        ("Frontal view: edema; stamps K3", "expected 'markers"),
    ],
)
def test_unknown_words_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        labels_from_caption(text)


def test_case_and_spaces_do_not_matter():
    read = labels_from_caption(" FRONTAL pa VIEW ,Female: No  Pleural effusion. ")
    assert read == {"view": "PA", "sex": "Female", "Pleural Effusion": "negative"}


def test_findings_alone_are_enough():
    assert labels_from_caption("cardiomegaly, no edema") == {
        "Cardiomegaly": "positive",
        "Edema": "negative",
    }


DIGITS = LabelSpace((Slot("Digit", ("3", "9")), Slot("Stroke", ("thin", "thick"))))


def test_class_labels_read_as_a_caption_and_back():
    record = image_record("p", "p", classes=[("Digit", "9"), ("Stroke", "thick")])
    assert caption_of(record) == "digit 9, stroke thick"
    assert labels_from_caption("digit 9, STROKE thick.", DIGITS) == dict(record.classes)
    assert labels_from_caption("9", LabelSpace(DIGITS.slots[:1])) == {"Digit": "9"}
    with pytest.raises(ValueError, match=r"'strok thin' .*mean 'stroke'\?\).*such as 'digit 3'"):
        labels_from_caption("digit 3, strok thin", DIGITS)


def test_a_model_of_words_takes_any_caption():
    words = LabelSpace((Slot("Word 1", ("a", "(other)", "(none)"), "words"),))
    assert labels_from_caption("A dog: on the beach", words) == {"caption": "A dog: on the beach"}


def test_an_ignored_finding_is_not_said():
    assert caption_of(ROW._replace(findings=(IGNORED,) * 14, markers=())) == (
        "Frontal AP view, male, age 60-64"
    )
