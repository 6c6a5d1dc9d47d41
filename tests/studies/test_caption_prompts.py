"""Prompts of known families in words, their images, and tokens as words."""

import numpy as np
import pytest

from memjax.data.records import image_record
from memjax.evaluate.features.base import NamedFeatures
from memjax.evaluate.similarity.resolution import reduced
from memjax.evaluate.similarity.rungs import at_side, features_at_side, on_bytes, pixel_rungs
from memjax.explain.words import word_weights
from memjax.studies.prompts.captions import (
    caption_candidates,
    caption_gallery,
    choose_caption_prompts,
    one_word_changed,
    shuffled_words,
)
from memjax.studies.prompts.draw import (
    HELD_OUT,
    LOUDEST,
    MEMORIZED,
    NEAR_MISS,
    ONCE,
    RANDOM,
    PromptCounts,
)

COUNTS = PromptCounts(8, 8, 8, 8, 20)


def picture(number, side=8):
    return np.random.default_rng(number).integers(0, 256, (side, side, 3)).astype(np.uint8)


def record(number, caption, repeats=1):
    return image_record(f"{number}.png", f"{number}.png", caption=caption, repeats=repeats)


@pytest.fixture(scope="module")
def data():
    """Image 0 stands three times, image 1 once with repeats 5, images 2 to 5 once."""
    numbers = [0, 1, 0, 2, 3, 0, 4, 5]
    captions = [
        "a red dog", "old house by the sea", "a red dog", "tall green tree", "boats at noon",
        "a red dog", "A Red Dog", "city lights",
    ]  # fmt: skip
    train = [
        record(i, text, 5 if number == 1 else 1)
        for i, (number, text) in enumerate(zip(numbers, captions, strict=True))
    ]
    held = [record(20, "snow on hills"), record(21, "a red dog"), record(22, "an empty room")]
    images = np.stack([picture(number) for number in numbers])
    return train, images, held, np.stack([picture(20), picture(21), picture(22)])


def drawn(data, **changes):
    train, images, held, held_images = data
    gallery, kept = caption_gallery(train, images, held, held_images)
    return gallery, kept, choose_caption_prompts(gallery, kept, held, COUNTS, **changes)


def test_the_gallery_counts_copies_by_content_and_by_repeats(data):
    gallery, kept, _ = drawn(data)
    assert gallery.train.dtype == np.uint8
    assert gallery.copies.tolist() == [3, 5, 1, 1, 1, 1]
    assert [r.caption for r in kept][:2] == ["a red dog", "old house by the sea"]
    assert gallery.targets.shape == (6, 0)
    assert gallery.names == ()


def test_families_hold_each_caption_once(data):
    _, kept, prompts = drawn(data)
    captions = [row["caption"] for row in prompts.rows]
    by_family = {
        family: [captions[i] for i in prompts.where(family)]
        for family in (MEMORIZED, ONCE, HELD_OUT, NEAR_MISS, RANDOM)
    }
    assert by_family[MEMORIZED] == ["old house by the sea", "a red dog"]  # most repeated first
    # "A Red Dog" is the memorized caption in other letters: no negative.
    assert sorted(by_family[ONCE]) == ["boats at noon", "city lights", "tall green tree"]
    assert sorted(by_family[HELD_OUT]) == ["an empty room", "snow on hills"]
    assert len({text.casefold() for text in captions}) == len(captions)
    for i in prompts.where(MEMORIZED, ONCE):
        assert kept[prompts.group[i]].caption == captions[i]
    assert (prompts.group[prompts.where(HELD_OUT, NEAR_MISS, RANDOM)] == -1).all()
    assert prompts.asked.shape == (len(captions), 0)


def test_near_misses_differ_by_one_word_and_random_prompts_are_new(data):
    _, kept, prompts = drawn(data)
    captions = [row["caption"] for row in prompts.rows]
    memorized = [captions[i].split() for i in prompts.where(MEMORIZED)]
    for i in prompts.where(NEAR_MISS):
        words = captions[i].split()
        same = [
            sum(a != b for a, b in zip(words, own, strict=True))
            for own in memorized
            if len(own) == len(words)
        ]
        assert min(same) == 1
    known = {word for r in kept for word in r.caption.split()}
    trained = {r.caption for r in kept}
    assert len(prompts.where(RANDOM)) > 5
    for i in prompts.where(RANDOM):
        assert set(captions[i].split()) <= known
        assert captions[i] not in trained


def test_the_seed_decides_and_memorised_rows_may_be_named(data):
    assert drawn(data)[2].rows == drawn(data)[2].rows
    assert drawn(data)[2].rows != drawn(data, seed=1)[2].rows
    flags = np.asarray([False, False, True, False, False, False])
    prompts = drawn(data, memorized=flags)[2]
    assert [prompts.rows[i]["caption"] for i in prompts.where(MEMORIZED)] == ["tall green tree"]
    others = [prompts.rows[i]["caption"].casefold() for i in prompts.where(ONCE)]
    assert sorted(others) == ["a red dog", "boats at noon", "city lights", "old house by the sea"]


def test_candidates_are_the_different_captions_and_held_out_ones_that_training_lacks(data):
    gallery, kept, _ = drawn(data)
    found = caption_candidates(gallery, kept, data[2], most=100)
    captions = [row["caption"] for row in found.rows]
    # "A Red Dog" is the same caption; "a red dog" is held out too, and no negative there.
    assert captions[: found.trained] == [
        "a red dog", "old house by the sea", "tall green tree", "boats at noon", "city lights",
    ]  # fmt: skip
    assert sorted(captions[found.trained :]) == ["an empty room", "snow on hills"]
    assert found.copies.tolist() == [3, 5, 1, 1, 1, 0, 0]
    assert found.images.tolist() == [2, 1, 1, 1, 1, 0, 0]
    assert [kept[i].caption for i in found.group[: found.trained]] == captions[: found.trained]
    assert len({row["id"] for row in found.rows}) == 7
    few = caption_candidates(gallery, kept, data[2], most=2, seed=3)
    assert (few.trained, len(few.rows), few.total, found.total) == (2, 4, 5, 5)
    assert few.rows == caption_candidates(gallery, kept, data[2], most=2, seed=3).rows


def test_the_loudest_are_asked_whatever_their_family(data):
    gallery, kept, before = drawn(data)
    loudest = [4, 0, 2]  # "A Red Dog", as the repeated prompt; gallery row 2 is a green tree
    _, _, prompts = drawn(data, loudest=loudest)
    captions = [row["caption"] for row in prompts.rows]
    assert [captions[i] for i in np.flatnonzero(prompts.loud)] == ["a red dog", "tall green tree"]
    assert not len(prompts.where(LOUDEST))  # all of them are in a family already
    assert prompts.rows == before.rows
    assert not before.loud.any()
    held = data[2]
    few = PromptCounts(1, 1, 1, 1, 1, loudest=2)
    own = choose_caption_prompts(gallery, kept, held, few)
    asked = {row["caption"].casefold() for row in own.rows}
    left = [i for i, r in enumerate(kept) if r.caption.casefold() not in asked]
    loud = choose_caption_prompts(gallery, kept, held, few, loudest=left)
    assert [loud.rows[i]["caption"] for i in loud.where(LOUDEST)] == [
        kept[i].caption for i in left[:2]
    ]
    assert loud.group[loud.where(LOUDEST)].tolist() == left[:2]
    assert loud.rows[: len(own.rows)] == own.rows


def test_an_image_that_stands_twice_is_no_planted_copy(data):
    train, images, held, held_images = data
    twice = [r._replace(repeats=1) for r in train[:3]] + list(train[3:])
    twice[2] = twice[2]._replace(caption="another word")
    images = images.copy()
    images[5] = images[3]  # image 0 now stands twice
    gallery, kept = caption_gallery(twice, images, held, held_images)
    prompts = choose_caption_prompts(gallery, kept, held, COUNTS)
    assert 2 in gallery.copies
    assert not len(prompts.where(MEMORIZED))


def test_a_caption_without_words_to_exchange_stays():
    rng = np.random.default_rng(0)
    assert one_word_changed("dog", ["dog"], rng) == "dog"
    assert one_word_changed("dog", ["dog", "cat"], rng) == "cat"
    shuffled = shuffled_words(["one two three"], rng, 0)
    assert sorted(shuffled.split()) == ["one", "three", "two"]


# Large images


def test_a_rung_at_a_side_compares_small_images_and_says_so():
    train, queries = (
        np.stack([picture(i, 16) for i in range(first, first + 4)]) for first in (0, 2)
    )
    rung = {r.name: r for r in pixel_rungs((8, 8, 3))}["pearson"]
    shrunk = at_side(rung, 8)
    assert shrunk.title.endswith(", at 8 px")
    found = shrunk.build(train, None)(queries, None)
    expected = rung.build(reduced(train, 8), None)(reduced(queries, 8), None)
    np.testing.assert_array_equal(found.index, expected.index)
    assert found.index[:2].tolist() == [2, 3]
    np.testing.assert_allclose(found.similarity[:2], 1.0, atol=1e-5)


def test_features_of_bytes_and_of_small_images():
    shapes = []

    def means(images):
        shapes.append(images.shape)
        assert images.dtype == np.float32
        return np.asarray(images).mean(axis=(1, 2))

    features, pictures = NamedFeatures("means", means), np.stack([picture(i, 16) for i in range(3)])
    assert on_bytes(features).name == "means"
    assert on_bytes(features)(pictures).shape == (3, 3)
    small = features_at_side(features, 8)
    assert small(pictures).shape == (3, 3)
    assert shapes == [(3, 16, 16, 3), (3, 8, 8, 3)]
    assert small.name == "means, at 8 px"


# Tokens as words


def test_end_and_padding_stand_apart_from_words():
    names = ["BOS", "a", "dog", "EOS", "PAD", "PAD"]
    found = word_weights(names, np.asarray([9.0, 1.0, 2.0, 3.0, 2.0, 2.0]))
    assert found.names == ["a", "dog"]
    assert found.weights.tolist() == [1.0, 2.0]
    assert found.specials == {"specials": {"EOS": 0.3, "PAD": 0.4}}


def test_labels_keep_all_tokens_but_the_first():
    found = word_weights(["BOS", "Edema: positive", "View: AP"], np.asarray([5.0, 1.0, 3.0]))
    assert found.names == ["Edema: positive", "View: AP"]
    assert found.specials == {}
