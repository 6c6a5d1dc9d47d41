"""Memorization Index: written out in float64, its null, and its order on planted copies."""

import numpy as np
import pytest

from memjax.data.phantoms.patients import Patient
from memjax.evaluate.distribution.frechet import fd
from memjax.evaluate.similarity.memorization_index import fit_index, pixel_layers


def films(start, patients, each=2, size=16):
    """Films in [-1, 1] of phantom patients, and who they are of."""
    out, owner = [], []
    for number in range(start, start + patients):
        patient = Patient(7, number)
        for visit in range(each):
            out.append(patient.film(visit, size=size).pixels)
            owner.append(f"patient{number}")
    return np.stack(out)[..., None].astype(np.float32) / 127.5 - 1, np.asarray(owner)


@pytest.fixture(scope="module")
def data():
    train, owner = films(0, 120)
    held, _ = films(1000, 100, 1)
    made, _ = films(2000, 200, 1)
    # A generator that has not the variety of films: grey, and grainy.
    grain = 0.1 * np.random.default_rng(0).standard_normal(made.shape)
    made = 0.7 * made + 0.3 * made.mean(axis=0) + grain.astype(np.float32)
    return train, owner, held, made.astype(np.float32)


def reference(layers, owner, queries, shrinkage):
    """The index by loops over images, in float64."""

    def white(rows, fitted):
        mean = fitted.mean(0)
        covariance = np.cov(fitted.T)
        width = len(covariance)
        shrunk = covariance + shrinkage * np.trace(covariance) / width * np.eye(width)
        values, vectors = np.linalg.eigh(shrunk)
        out = (rows - mean) @ (vectors @ np.diag(values**-0.5) @ vectors.T)
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    def s(of, fitted):
        parts = []
        for rows, base in zip(of, fitted, strict=True):
            cosine = white(rows, base) @ white(base, base).T
            parts.append(np.maximum(cosine.max(1), 1e-6))
        return np.prod(parts, axis=0) ** (1 / len(parts))

    number = {name: i for i, name in enumerate(sorted(set(owner)))}
    fold = np.asarray([number[name] % 10 for name in owner])
    null = np.concatenate(
        [s([a[fold == k] for a in layers], [a[fold != k] for a in layers]) for k in range(10)]
    )
    return (s(queries, layers) - null.mean()) / null.std()


def test_it_is_the_formula_written_out(data):
    train, owner, held, _ = data
    layers = [a.astype(np.float64) for a in pixel_layers(train)]
    queries = [a.astype(np.float64) for a in pixel_layers(held[:20])]
    found = fit_index(layers, owner, shrinkage=0.3)(queries)
    assert found.index == pytest.approx(reference(layers, owner, queries, 0.3), abs=2e-4)
    assert np.array_equal(found.novelty, -np.tanh(found.index))


def test_copies_stand_out_and_other_patients_are_the_null(data):
    train, owner, held, _ = data
    index = fit_index(pixel_layers(train), owner)
    copies = index(pixel_layers(train[:40]))
    assert copies.similarity == pytest.approx(np.ones(40), abs=1e-5)
    assert copies.nearest.tolist() == list(range(40))
    clean = index(pixel_layers(held)).index
    assert abs(clean.mean()) < 0.25  # three standard errors
    assert copies.index.min() > np.percentile(clean, 95)


def test_more_planted_copies_raise_the_index_while_the_frechet_distance_improves(data):
    train, owner, held, made = data
    index = fit_index(pixel_layers(train), owner)
    rng = np.random.default_rng(1)
    mean, distance = [], []
    for share in (0.0, 0.1, 0.3, 0.5):
        mixed = made.copy()
        count = int(share * len(made))
        rows = rng.choice(len(train), count, replace=False)
        noise = 0.02 * rng.standard_normal((count, *made.shape[1:]))
        mixed[:count] = train[rows] + noise.astype(np.float32)
        mean.append(index(pixel_layers(mixed)).index.mean())
        distance.append(fd(pixel_layers(mixed)[1], pixel_layers(held)[1]))
    assert np.all(np.diff(mean) > 0.1), mean
    assert np.all(np.diff(distance) < 0), distance  # copies look like progress


def test_two_films_of_a_patient_do_not_make_the_null(data):
    train, owner, *_ = data
    own = fit_index(pixel_layers(train), owner)
    alone = fit_index(pixel_layers(train), np.arange(len(train)))
    assert own.mean < alone.mean  # follow-up films are alike


@pytest.mark.parametrize(
    ("rows", "patients", "words"),
    [
        ([], [], "expected at least one layer"),
        ([np.eye(4)], [0, 1, 2], r"shapes \[\(4, 4\)\] for 3 patients"),
        ([np.eye(4)], [0, 0, 1, 1], "2 patients are no background, expected at least 10"),
        ([np.zeros((12, 2))], list(range(12)), "equally near"),
    ],
)
def test_what_does_not_fit_is_refused(rows, patients, words):
    with pytest.raises(ValueError, match=words):
        fit_index(rows, patients)


def test_other_layers_than_in_training_are_refused(data):
    train, owner, *_ = data
    index = fit_index(pixel_layers(train), owner)
    with pytest.raises(ValueError, match="take the layers that the index was fitted on"):
        index(pixel_layers(train, (4, 8)))
