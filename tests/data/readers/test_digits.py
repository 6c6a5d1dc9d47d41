"""Digits: one 9 many times, others kept back, and a hand that can be asked for."""

from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from memjax.data.images import CorruptImageError, load_image
from memjax.data.readers.digits import SLANTS, STROKES, ink, read_digits, slant


def label(record, name="Digit"):
    return dict(record.classes)[name]


def test_one_nine_stands_a_hundred_times_and_other_nines_are_held_out():
    train, held = read_digits(seed=3)
    nines = [r for r in train if label(r) == "9"]
    assert len(nines) == 100
    assert len({r.path for r in nines}) == 1
    others = Counter(r.path for r in train if label(r) != "9")
    assert set(others.values()) == {1}
    assert Counter(label(r) for r in held) == dict.fromkeys("0123456789", 40)
    assert not {r.path for r in train} & {r.path for r in held}
    counts = Counter(label(r) for r in train)
    targets = load_digits().target
    assert all(counts[str(d)] == (targets == d).sum() - 40 for d in range(9))


def test_what_is_held_out_does_not_depend_on_the_classes_used():
    whole, few = read_digits(seed=1)[1], read_digits(seed=1, classes=(9, 3), most=5)[1]
    assert {r.path for r in few} == {r.path for r in whole if label(r) in "39"}
    assert Counter(label(r) for r in read_digits(classes=(3, 9), most=5)[0]) == {"3": 5, "9": 100}
    assert read_digits(seed=1)[1] != read_digits(seed=2)[1]


def test_no_class_need_be_repeated():
    train, _ = read_digits(duplicated_class=-1, classes=(1, 9))
    assert set(Counter(r.path for r in train).values()) == {1}


def test_images_are_scikit_learns():
    train, _ = read_digits()
    bunch = load_digits()
    for record in train[::200]:
        number = int(record.path.rpartition("/")[2])
        assert label(record) == str(bunch.target[number])
        shown = load_image(record.path, 8)[..., 0] / 255 * 16
        np.testing.assert_allclose(shown, bunch.images[number], atol=0.04)  # half a gray level
    assert load_image(train[0].path, 16).shape == (16, 16, 1)
    with pytest.raises(CorruptImageError, match=r"digits://scikit-learn/1797 cannot be decoded"):
        load_image("digits://scikit-learn/1797", 8)


def test_ink_and_slant_are_what_they_say():
    empty, full = np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 255, np.uint8)
    np.testing.assert_array_equal([ink(empty)[0], ink(full)[0]], [0.0, 1.0])
    upright = np.zeros((8, 8), np.uint8)
    upright[:, 3] = 200
    leaning = np.eye(8, dtype=np.uint8)[::-1] * 200  # top right to bottom left
    np.testing.assert_allclose(
        slant(np.stack([upright, leaning, leaning[:, ::-1]])), [0, 1, -1], atol=1e-12
    )


def test_styles_are_thirds():
    train, held = read_digits(duplicated_class=-1)
    for name, values in (("Stroke", STROKES), ("Slant", SLANTS)):
        counts = Counter(label(r, name) for r in [*train, *held])
        assert set(counts) == set(values)
        assert all(abs(n - 599) <= 40 for n in counts.values())  # ink has few levels: ties
    bare, _ = read_digits(style=False)
    assert {name for r in bare for name, _ in r.classes} == {"Digit"}
