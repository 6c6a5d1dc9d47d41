"""Scenes: what the caption says is what is drawn, and the folder is read like any other."""

import json

import numpy as np
import pytest

from memjax.data.captioned_folder import read_folder
from memjax.data.scenes import COLOURS, GROUNDS, SKIES, draw_scenes, scene_words, write_scenes


def nearest(pixel, names):
    return min(names, key=lambda name: np.abs(np.array(names[name]) - pixel).sum())


def test_the_caption_names_sky_and_ground():
    hits = 0
    for scene in draw_scenes(1, 60):
        assert scene.image.shape == (32, 32, 3)
        assert scene.image.dtype == np.uint8
        sky, ground = np.median(scene.image[:3], axis=(0, 1)), np.median(scene.image[30:], (0, 1))
        hits += nearest(sky, SKIES) in scene.caption and nearest(ground, GROUNDS) in scene.caption
    # A cloud or a shade may mislead this crude reading now and then.
    assert hits >= 54


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
    same = {s.caption: s.image for s in rest}
    pairs = [(s.image, same[s.caption]) for s in scenes if s.caption in same]
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
