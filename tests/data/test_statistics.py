import numpy as np
import pytest

from memjax.data import statistics
from memjax.data.labels.space import BLANK, FINDINGS, IGNORED, NEGATIVE, POSITIVE, UNCERTAIN
from memjax.data.records import Record


def record(patient="p1", study="s1", *, view="AP", sex="Male", age=60, frontal=True, classes=(),
           **states):  # fmt: skip
    findings = tuple(states.get(name.replace(" ", "_"), BLANK) for name in FINDINGS)
    return Record(
        f"{patient}/{study}.jpg", patient, study, view, sex, age, frontal, findings, classes=classes
    )


RECORDS = [
    record("p1", "s1", Edema=POSITIVE, Pneumonia=POSITIVE),
    record("p1", "s2", Edema=POSITIVE, age=None, view="", sex=""),
    record("p2", "s1", Edema=NEGATIVE, Fracture=UNCERTAIN, age=81, sex="Female"),
    record("p3", "s1", Edema=IGNORED, view="", frontal=False, age=9),
    record("p4", "s1"),
]
EDEMA, PNEUMONIA = FINDINGS.index("Edema"), FINDINGS.index("Pneumonia")


def test_rows_patients_and_studies():
    found = statistics.totals(RECORDS)
    assert found == (5, 4, 5, 4, 2)
    assert statistics.totals([]) == (0, 0, 0, 0, 0)


def test_every_row_is_counted_once_per_finding():
    counts = statistics.finding_counts(RECORDS)
    assert counts.shape == (14, 5)
    assert (counts.sum(1) == len(RECORDS)).all()
    edema = statistics.balance(counts)["Edema"]
    assert edema == {"blank": 1, "negative": 1, "positive": 2, "uncertain": 0, "ignored": 1}
    assert not statistics.finding_counts([]).any()


def test_findings_that_stand_together():
    counts = statistics.cooccurrence(RECORDS)
    assert counts[EDEMA, EDEMA] == 2
    assert counts[EDEMA, PNEUMONIA] == counts[PNEUMONIA, EDEMA] == 1
    assert counts.sum() == 5
    np.testing.assert_array_equal(counts, counts.T)


def test_ages_have_no_gaps_and_unknown_comes_last():
    ages = statistics.age_counts(RECORDS, width=20)
    assert ages == {"0–19": 1, "20–39": 0, "40–59": 0, "60–79": 2, "80–99": 1, "unknown": 1}
    assert list(ages)[-1] == "unknown"
    assert statistics.age_counts([]) == {}
    with pytest.raises(ValueError, match="width is 0"):
        statistics.age_counts(RECORDS, 0)


def test_sex_and_view():
    assert statistics.sex_counts(RECORDS) == {"Male": 3, "unknown": 1, "Female": 1}
    assert statistics.view_counts(RECORDS) == {"AP": 3, "unknown": 1, "lateral": 1}


def test_classes():
    rows = [record(classes=(("Digit", digit),)) for digit in "3913"]
    assert statistics.class_counts(rows) == {"Digit": {"1": 1, "3": 2, "9": 1}}
    assert statistics.condition_of(rows[1]) == "Digit 9"
    assert statistics.class_counts(RECORDS) == {}


def test_patients_of_a_condition_not_rows():
    counts = statistics.patients_per_condition([*RECORDS, record("p1", "s9", Edema=POSITIVE)])
    assert counts["Edema"] == 1
    assert counts["Edema, Pneumonia"] == 1
    assert counts["nothing named"] == 1
    assert counts["Fracture (uncertain)"] == 1
    shared = statistics.patients_per_condition([record("p1"), record("p2"), record("p3", Edema=2)])
    assert list(shared.items()) == [("Edema", 1), ("nothing named", 2)]


def test_who_shares_a_whole_condition():
    labels = np.array([[1, 2], [1, 2], [1, 3], [1, 2]], np.int32)
    shared = statistics.shared_by(labels, ["a", "a", "b", "c"])
    assert shared.tolist() == [2, 2, 1, 2]
