"""Scenes: what the caption says is what is drawn, and the folder is read like any other."""

import json

import numpy as np
import pytest

from memjax.data.captioned_folder import read_folder
from memjax.data.scenes import (
    COLOURS,
    MONTHS,
    SKIES,
    TOWNS,
    draw_scenes,
    scene_words,
    write_scenes,
)


def nearest(pixel, names):
    return min(names, key=lambda name: np.abs(np.array(names[name]) - pixel).sum())


def test_the_caption_names_the_colours_of_both_things():
    """Each is found in its half, where no other picture's caption has it by chance."""
    scenes = draw_scenes(1, 60)
    shown = np.zeros((2, len(scenes), len(COLOURS)))
    for i, scene in enumerate(scenes):
        assert scene.image.shape == (32, 32, 3)
        assert scene.image.dtype == np.uint8
        for half, pixels in enumerate(np.split(scene.image.astype(int), 2, axis=1)):
            for k, colour in enumerate(COLOURS.values()):
                near = np.abs(pixels - np.array(colour)).sum(-1) < 90  # 2.5 sigma of a shade
                shown[half, i, k] = near.sum()
    named = [
        [list(COLOURS).index(part.split()[-2]) for part in caption_parts(scene.caption)]
        for scene in scenes
    ]
    own = [shown[half, i, k] for i, pair in enumerate(named) for half, k in enumerate(pair)]
    # White may be a cloud and yellow the sky; in the median picture neither is there unless named.
    assert np.mean(np.array(own) >= 12) > 0.95
    others = np.median(shown, axis=1)
    assert (others < 12).all()


def caption_parts(caption):
    left, _, rest = caption.partition(" left of ")
    return left, rest.partition(" near ")[0]


def test_town_and_month_say_nothing_about_the_picture():
    """The colour of sky and ground is as open with one as over all."""
    scenes = draw_scenes(5, 1500)
    sky = np.array([np.median(s.image[:3], axis=(0, 1)) for s in scenes])
    kinds = np.array([list(SKIES).index(nearest(pixel, SKIES)) for pixel in sky])
    assert set(kinds) == set(range(len(SKIES)))
    for at in (-1, -3):
        words = np.array([s.caption.split()[at] for s in scenes])
        assert set(words) == set(MONTHS if at == -1 else TOWNS)
        share = [
            np.bincount(kinds[words == w], minlength=6).max() / sum(words == w) for w in set(words)
        ]
        assert np.mean(share) < (0.3 if at == -1 else 0.45)


def test_scenes_depend_on_the_seed_and_captions_differ():
    first, again, other = draw_scenes(1, 40), draw_scenes(1, 40), draw_scenes(2, 40)
    assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
    assert len({scene.caption for scene in first}) == 40
    assert {s.caption for s in first} != {s.caption for s in other}
    words = set(scene_words())
    assert {word for scene in first for word in scene.caption.split()} <= words
    assert set(COLOURS) < words


def test_the_same_caption_leaves_the_picture_open():
    scenes = draw_scenes(3, 60)
    rest = draw_scenes(4, 3000)
    same = {caption_parts(s.caption): s.image for s in rest}
    pairs = [(s.image, same[p]) for s in scenes if (p := caption_parts(s.caption)) in same]
    assert pairs
    for one, two in pairs:
        assert np.abs(one.astype(int) - two).mean() > 5


def test_the_folder_says_repeats_and_holds_out(tmp_path):
    settings = {"num_images": 9, "num_duplicated": 2, "num_held_out": 4, "repeats": 7}
    write_scenes(tmp_path / "s", **settings)
    train, held, problems = read_folder(tmp_path / "s")
    assert not problems
    assert [r.repeats for r in train] == [7, 7] + [1] * 9
    assert len(held) == 4
    before = (tmp_path / "s" / "metadata.jsonl").stat().st_mtime_ns
    write_scenes(tmp_path / "s", **settings)
    assert (tmp_path / "s" / "metadata.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="other settings"):
        write_scenes(tmp_path / "s", **{**settings, "repeats": 8})


def test_foreign_folders_and_numbers_are_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="something else"):
        write_scenes(tmp_path)
    with pytest.raises(ValueError, match="size is 8, expected 16 to 512"):
        write_scenes(tmp_path / "new", size=8)
    assert not (tmp_path / "new").exists()
