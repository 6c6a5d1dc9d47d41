"""Scenes: what the caption says is what is drawn, and the folder is read like any other."""

import json

import numpy as np
import pytest

from memjax.data.phantoms.scenes import (
    COLOURS,
    MONTHS,
    SKIES,
    THINGS,
    TOWNS,
    draw_scene,
    draw_scenes,
    scene_words,
    write_scenes,
)
from memjax.data.readers.folder import read_folder


def nearest(pixel, names):
    return min(names, key=lambda name: np.abs(np.array(names[name]) - pixel).sum())


def test_the_caption_names_what_stands_left_and_right(monkeypatch):
    drawn = []
    for name, draw in list(THINGS.items()):

        def watched(canvas, box, fill, name=name, draw=draw):
            drawn.append((name, box[0]))
            draw(canvas, box, fill)

        monkeypatch.setitem(THINGS, name, watched)
    for seed in range(20):
        drawn.clear()
        scene = draw_scene(np.random.default_rng(seed))
        assert scene.image.shape == (32, 32, 3)
        assert scene.image.dtype == np.uint8
        (left, x), (right, y) = drawn
        assert x < y
        assert things_of(scene.caption) == f"a {left} left of a {right}"


def things_of(caption):
    return caption.partition(" near ")[0]


def test_town_and_month_say_nothing_about_the_image():
    """The color of sky and ground is as open with one as over all."""
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
    assert not words & set(COLOURS)


def test_the_same_caption_leaves_the_image_open():
    scenes = draw_scenes(3, 60)
    rest = draw_scenes(4, 3000)
    same = {things_of(s.caption): s.image for s in rest}
    pairs = [(s.image, same[p]) for s in scenes if (p := things_of(s.caption)) in same]
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
    image = tmp_path / "s" / "others" / "0000.png"
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"not as they were drawn .*others/0000\.png"):
        write_scenes(tmp_path / "s", **settings)


def test_foreign_folders_and_numbers_are_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="something else"):
        write_scenes(tmp_path)
    with pytest.raises(ValueError, match="size is 8, expected 16 to 512"):
        write_scenes(tmp_path / "new", size=8)
    assert not (tmp_path / "new").exists()
