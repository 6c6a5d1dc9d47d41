"""Cached moments and embeddings are what the networks say, and batches are what they name."""

import numpy as np
import pytest
from latent_sets import full_moments, latent_set, tiny_base, write_set

from memjax.data.images import load_image, to_unit
from memjax.data.readers.folder import read_folder
from memjax.data.records import image_record
from memjax.training import latents as module
from memjax.training.latents import FOLDER, distinct_captions, latent_batches, make_latents


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return latent_set(tmp_path_factory.mktemp("set"), flip=True)


def test_moments_are_the_autoencoders_and_the_second_copy_is_flipped(drawn):
    images = to_unit(np.stack([load_image(r.path, 16, 3) for r in drawn.records]))
    assert drawn.latents.moments.shape == (2, 8, 8, 8, 8)
    # Batches of three, padded, against one of eight: float32 sums in another order.
    np.testing.assert_allclose(
        drawn.latents.moments[0], full_moments(drawn.base, images), atol=2e-5
    )
    np.testing.assert_allclose(
        drawn.latents.moments[1], full_moments(drawn.base, images[:, :, ::-1]), atol=2e-5
    )
    assert np.abs(drawn.latents.moments[0] - drawn.latents.moments[1]).max() > 0.1


def test_embeddings_are_the_text_encoders_and_the_null_caption_comes_first(drawn):
    texts = drawn.latents.captions.texts
    assert texts[0] == ""
    assert texts[1:] == [record.caption for record in drawn.records]
    ids = drawn.base.tokenizer.encode(texts).ids
    hidden = drawn.base.text.apply({"params": drawn.base.text_params}, ids).hidden
    np.testing.assert_allclose(drawn.latents.embeddings, hidden, atol=2e-5)


def test_captions_are_numbered_once():
    records = [
        image_record("a", "a", caption="one", captions=("one", "two", "three")),
        image_record("b", "b", caption="two"),
        image_record("c", "c", classes=(("Digit", "9"),)),
    ]
    captions = distinct_captions(records)
    assert captions.texts == ["", "one", "two", "three", "digit 9"]
    assert captions.of_row.tolist() == [[1, 2, 3], [2, 2, 2], [4, 4, 4]]
    assert captions.counts.tolist() == [3, 1, 1]


def test_caches_are_read_again_until_the_images_change(tmp_path, monkeypatch, caplog):
    records, _, _ = read_folder(write_set(tmp_path / "data"))
    base, settings = tiny_base(), {"square": "crop", "flip": False, "dtype": "float16"}

    def make(records):
        return make_latents(tmp_path, records, base, size=16, batch_size=4, **settings)[0]

    first = make(records)
    assert first.moments.dtype == first.embeddings.dtype == np.float16
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / FOLDER).iterdir()}
    monkeypatch.setattr(module, "encode_moments", None)
    np.testing.assert_array_equal(make(records).moments, first.moments)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / FOLDER).iterdir()} == files
    monkeypatch.undo()
    swapped = make([records[1], records[0], *records[2:]])
    np.testing.assert_array_equal(swapped.moments[0, 0], first.moments[0, 1])
    monkeypatch.setattr(module, "READING", 1)  # as files were read before
    with caplog.at_level("WARNING"):
        make([records[1], records[0], *records[2:]])
    assert "moments.npy was made for another reading: it is made anew." in caplog.text


@pytest.mark.parametrize(
    ("size", "dtype", "said"),
    [(15, "float16", "data.size is 15"), (16, "int8", "cache_dtype is 'int8'")],
)
def test_what_does_not_fit_is_refused(tmp_path, size, dtype, said):
    records, _, _ = read_folder(write_set(tmp_path / "data"))
    with pytest.raises(ValueError, match=said):
        make_latents(
            tmp_path, records, tiny_base(), size=size, square="crop", flip=False, dtype=dtype,
            batch_size=4,
        )  # fmt: skip


def take(drawn, num, start=0, **options):
    options = {"batch_size": 6, "seed": 1, **options}
    stream = latent_batches(drawn.latents, drawn.planted, **options)(start)
    return [next(stream) for _ in range(num)]


def test_a_batch_is_what_it_names(drawn):
    flipped = 0
    for batch in take(drawn, 10):
        assert batch.labels.tolist() == [[1], [2], [3], [4], [5], [6]]
        np.testing.assert_array_equal(batch.table[0], drawn.latents.embeddings[0])
        for place, row in enumerate(batch.row):
            copies = drawn.latents.moments[:, row]
            same = [np.array_equal(batch.moments[place], copy) for copy in copies]
            assert sum(same) == 1
            flipped += same[1]
            caption = drawn.latents.captions.of_row[row, 0]
            np.testing.assert_array_equal(batch.table[place + 1], drawn.latents.embeddings[caption])
    assert 15 < flipped < 45  # of 60, half expected


def test_rows_follow_the_plan_and_any_step_can_be_entered(drawn):
    epoch = int(drawn.planted.repeats.sum())
    rows = np.concatenate([batch.row for batch in take(drawn, epoch, batch_size=1)])
    np.testing.assert_array_equal(np.bincount(rows, minlength=8), drawn.planted.repeats)
    whole, late = take(drawn, 9), take(drawn, 4, start=5)
    for one, two in zip(whole[5:], late, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("first", [False, False]), ("duplicated", [True, False]), ("all", [True, True])],
)
def test_which_of_several_captions(drawn, choice, expected):
    of_row = np.tile(np.array([1, 2, 3], np.int32), (8, 1))
    captions = drawn.latents.captions._replace(of_row=of_row, counts=np.full(8, 3, np.int32))
    several = drawn._replace(latents=drawn.latents._replace(captions=captions))
    seen = {True: set(), False: set()}
    table = drawn.latents.embeddings
    for batch in take(several, 20, captions=choice):
        for place, row in enumerate(batch.row):
            found = [n for n in (1, 2, 3) if np.array_equal(batch.table[place + 1], table[n])]
            seen[bool(drawn.planted.duplicated[row])].update(found)
    assert [seen[True] == {1, 2, 3}, seen[False] == {1, 2, 3}] == expected
    for texts, drawn_anew in zip(seen.values(), expected, strict=True):
        assert drawn_anew or texts == {1}


def test_an_unknown_choice_of_captions_is_refused(drawn):
    with pytest.raises(ValueError, match="captions is 'any'"):
        take(drawn, 1, captions="any")
