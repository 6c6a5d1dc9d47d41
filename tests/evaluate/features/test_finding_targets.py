"""Columns of the judge: findings, classes one against the rest, words of captions."""

import numpy as np

from memjax.data.records import FINDINGS, IGNORED, UNCERTAIN, UNMENTIONED, Record, image_record
from memjax.evaluate.features.finding_classifier import (
    asked_findings,
    finding_targets,
    lend_rare,
    target_names,
)


def film(**states):
    findings = [states.get(name.replace(" ", ""), 0) for name in FINDINGS]
    return Record("p", "1", "1", "AP", "Male", 60, True, tuple(findings))


def test_a_radiograph_has_the_findings():
    records = [film(Edema=2, Fracture=1, Pneumonia=UNCERTAIN, Cardiomegaly=IGNORED)]
    names = target_names(records)
    assert names == FINDINGS
    columns = [FINDINGS.index(n) for n in ("Edema", "Fracture", "Pneumonia", "Cardiomegaly")]
    assert finding_targets(records, names)[0, columns].tolist() == [1, 0, -1, -1]
    assert asked_findings(records, names)[0, columns].tolist() == [1, 0, -1, -1]
    blank = FINDINGS.index("Lung Lesion")
    assert finding_targets(records)[0, blank] == 0
    assert asked_findings(records)[0, blank] == -1


def test_a_class_is_one_against_the_rest_and_only_it_is_asked_for():
    records = [
        image_record("a", "a", classes=[("Digit", "10"), ("Stroke", "thin")]),
        image_record("b", "b", classes=[("Digit", "9")]),
    ]
    names = target_names(records)
    assert names == ("Digit: 9", "Digit: 10", "Stroke: thin")
    assert finding_targets(records, names).tolist() == [[0, 1, 1], [1, 0, -1]]
    assert asked_findings(records, names).tolist() == [[-1, 1, 1], [1, -1, -1]]


def test_a_captions_telling_words():
    captions = ["a dog runs"] * 3 + ["a cat runs"] * 3 + ["a bird runs"]
    records = [image_record(str(i), str(i), caption=text) for i, text in enumerate(captions)]
    names = target_names(records)
    assert names == ("Word: cat", "Word: dog", "Word: bird")  # "a" is short, "runs" stands in all
    assert finding_targets(records, names)[[0, 3, 6]].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert asked_findings(records, names)[0].tolist() == [-1, 1, -1]


def test_no_records_of_a_radiographs_kind_still_have_findings():
    assert target_names([film()]) == FINDINGS
    assert finding_targets([], FINDINGS).shape == (0, 14)
    assert film().findings == UNMENTIONED


def test_what_training_hardly_shows_is_lent_from_the_held_out_images():
    rng = np.random.default_rng(0)
    images, held = rng.normal(size=(30, 2, 2, 1)), rng.normal(size=(40, 2, 2, 1))
    targets = np.zeros((30, 2), int)
    targets[:10, 0], targets[10, 1] = 1, 1
    held_targets = np.zeros((40, 2), int)
    held_targets[:20, 0], held_targets[20:36, 1] = 1, 1
    out = lend_rare(images, targets, held, held_targets)
    assert [len(part) for part in out] == [38, 38, 32, 32]
    np.testing.assert_array_equal(out[0][30:], held[20:36:2])
    assert out[1][30:, 1].all()
    assert out[3].sum(axis=0).tolist() == [20, 8]
    held_targets[20:, 1] = 0
    held_targets[20:35, 1] = 1  # fifteen are too few to share
    same = lend_rare(images, targets, held, held_targets)
    assert all(a is b for a, b in zip(same, (images, targets, held, held_targets), strict=True))
