"""Prompts of class labels: no condition twice, and no negative that training knows by a copy."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from memjax.data.duplication import duplicate_weights
from memjax.data.labels.of_data import class_slots
from memjax.data.records import LabelSpace, image_record
from memjax.runs.defaults import default_config
from memjax.studies.gallery import _with_repeats, read_images
from memjax.studies.prompts.draw import (
    HELD_OUT,
    MEMORIZED,
    ONCE,
    PromptCounts,
    choose_prompts,
    label_candidates,
    make_gallery,
)


def digit(number, value, stroke):
    return image_record(f"p{number}", f"p{number}", classes=[("Digit", value), ("Stroke", stroke)])


@pytest.fixture(scope="module")
def prompts():
    """Three copies of the only 9, twelve other digits in four conditions; other 9s held out."""
    train = [digit(0, "9", "thick")] * 3
    train += [digit(i, "35"[i % 2], ("thin", "thick")[i // 6]) for i in range(12)]
    held = [digit(100, "9", "thick"), digit(101, "9", "thin"), digit(102, "8", "thin")]
    held += [digit(103, "3", "thin"), digit(104, "7", "thick"), digit(105, "7", "thick")]
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (21, 4, 4, 1)).astype(np.uint8)
    pictures[1] = pictures[2] = pictures[0]
    space = LabelSpace(class_slots([*train, *held]))
    gallery, kept = make_gallery(train, pictures[:15], held, pictures[15:])
    counts = PromptCounts(memorized=1, once=10, held_out=10)
    return gallery, choose_prompts(gallery, kept, held, space, counts)


def test_columns_are_named_in_the_gallery(prompts):
    gallery, chosen = prompts
    assert gallery.names == ("Digit: 3", "Digit: 5", "Digit: 9", "Stroke: thick", "Stroke: thin")
    assert gallery.targets.shape == (13, 5)
    assert chosen.asked[0].tolist() == [-1, -1, 1, 1, -1]


def labels(chosen, family):
    rows = [chosen.rows[i]["labels"] for i in chosen.where(family)]
    return sorted((row["Digit"], row["Stroke"]) for row in rows)


def test_no_condition_is_asked_twice(prompts):
    _, chosen = prompts
    assert labels(chosen, MEMORIZED) == [("9", "thick")]
    assert labels(chosen, ONCE) == [("3", "thick"), ("3", "thin"), ("5", "thick"), ("5", "thin")]
    everything = [row["labels"] for row in chosen.rows]
    assert len({str(row) for row in everything}) == len(everything)


def test_a_class_known_by_copies_alone_gives_no_held_out_prompt(prompts):
    _, chosen = prompts
    assert labels(chosen, HELD_OUT) == [("7", "thick"), ("8", "thin")]


def test_conditions_are_candidates_once_with_how_many_images_share_them(prompts):
    gallery, _ = prompts
    train = [digit(0, "9", "thick")]
    train += [digit(i, "35"[i % 2], ("thin", "thick")[i // 6]) for i in range(12)]
    held = [digit(101, "9", "thin"), digit(103, "3", "thin")]
    space = LabelSpace(class_slots([*train, *held]))
    found = label_candidates(gallery, train, held, space, most=50)
    assert found.trained == found.total == 5
    assert found.images.tolist() == [1, 3, 3, 3, 3, 0]
    assert found.copies.tolist() == [3, 1, 1, 1, 1, 0]
    assert found.rows[-1]["labels"] == {"Digit": "9", "Stroke": "thin"}


def test_rows_that_training_draws_more_often_count_as_copies():
    """What ``data.duplicate_fraction`` draws 40 times as often is repeated, as an audit sees it."""
    rows = [digit(i, "3", "thin") for i in range(20)]
    data = {"duplicate_fraction": 0.1, "duplicate_factor": 40.0}
    found = [r.repeats for r in _with_repeats(rows, {"seed": 3, "data": data})]
    assert found == duplicate_weights(3, 20, 0.1, 40.0).astype(int).tolist()
    assert sorted(found)[-3:] == [1, 40, 40]
    plain = {"duplicate_fraction": 0.0, "duplicate_factor": 40.0}
    rows = [r._replace(repeats=7) for r in rows]  # of the data set: labels do not train by it
    assert {r.repeats for r in _with_repeats(rows, {"seed": 3, "data": plain})} == {1}


def test_another_seed_of_the_audit_holds_out_what_training_held_out(tmp_path):
    """The run's own seed decides the split; by another, training images would be held out."""
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        place = tmp_path / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place)
    config = default_config()
    config["data"] |= {"kind": "folder", "root": str(tmp_path), "held_out_fraction": 0.3, "size": 8}

    def paths(run, *seed):
        _, kept, held = read_images(run, *seed)
        return [r.path for r in kept], [r.path for r in held]

    run = SimpleNamespace(config=config, path=tmp_path)
    assert paths(run) == paths(run, 5)
    assert paths(run) != paths(SimpleNamespace(config={**config, "seed": 5}, path=tmp_path))
