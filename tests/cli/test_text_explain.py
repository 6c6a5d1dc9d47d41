"""``memjax explain`` and ``memjax sample`` on a model that reads text."""

import numpy as np
import pytest
from PIL import Image

from tests.commands import memjax, read_rows, write_prompts

CAPTIONS = ("a cat on a mat", "<script>alert('x')</script> 😀 שלום", "word " * 90)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    rows = [{"caption": c, "note": i} for i, c in enumerate(CAPTIONS)]
    return write_prompts(tmp_path_factory.mktemp("prompts") / "text.jsonl", *rows)


@pytest.fixture(scope="module")
def explained(text_model, prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("explain") / "out"
    flags = ("--generations=1", "--num_steps=2", "--every=1")
    done = memjax(
        "explain", f"--model={text_model}", f"--prompts={prompts}", f"--out={out}", *flags
    )
    assert done.code == 0, done.err
    return out, done, read_rows(out / "tokens.jsonl")


def test_every_token_has_its_place_kind_and_weight(explained):
    _, _, rows = explained
    for row, caption in zip(rows, CAPTIONS, strict=True):
        assert row["caption"] == caption
        assert len(row["tokens"]) == 77
        assert row["tokens"][0]["token"] == "BOS"
        assert all(t["weight"] >= 0 for t in row["tokens"])
        assert max(t["weight"] for t in row["tokens"]) > 0
        assert sum(row["shares"].values()) == pytest.approx(1.0)
    kinds = [t["kind"] for t in rows[0]["tokens"]]
    assert kinds[0] == "special"
    assert kinds.count("special") == 2
    assert kinds[-1] == "padding"
    assert "padding" not in [t["kind"] for t in rows[2]["tokens"]]


def test_words_are_those_of_the_caption_and_hold_their_tokens(explained):
    row = explained[2][0]
    assert [w["word"] for w in row["words"]] == CAPTIONS[0].split()
    for word in row["words"]:
        parts = [row["tokens"][i]["weight"] for i in word["tokens"]]
        assert word["weight"] == pytest.approx(np.linalg.norm(parts))
    named = [i for w in row["words"] for i in w["tokens"]]
    assert named == [i for i, t in enumerate(row["tokens"]) if t["kind"] == "word"]


def test_what_was_cut_is_counted(explained):
    _, done, rows = explained
    assert [row["tokens_cut"] > 0 for row in rows] == [False, False, True]
    assert "1 of 3 captions are longer" in done.out


def test_the_page_shows_the_words_and_runs_nothing(explained):
    out, _, rows = explained
    text = (out / "words.html").read_text()
    assert "<script" not in text
    assert "&lt;" in text
    assert ">cat</span>" in text
    assert "שלום" in text
    assert "tokens cut off" in text
    for row in rows:
        with Image.open(out / row["picture"]) as picture:
            assert min(picture.size) > 50


@pytest.mark.slow
def test_the_weights_do_not_depend_on_the_batch(explained, text_model, prompts, tmp_path):
    flags = ("--generations=1", "--num_steps=2", "--every=1", "--chunk=2")
    done = memjax(
        "explain", f"--model={text_model}", f"--prompts={prompts}", f"--out={tmp_path}", *flags
    )
    assert done.code == 0, done.err
    for row, other in zip(read_rows(tmp_path / "tokens.jsonl"), explained[2], strict=True):
        ours, theirs = ([t["weight"] for t in r["tokens"]] for r in (row, other))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6 * max(theirs))


@pytest.mark.thorough
@pytest.mark.slow
def test_recomputing_and_bfloat16_give_nearly_the_same_weights(
    explained, text_model, prompts, tmp_path, monkeypatch
):
    """As where memory is short: blocks are recomputed, and the network computes in bfloat16."""
    import memjax.runtime.batching as micro_batch

    flags = ("--generations=1", "--num_steps=2", "--every=1")
    arguments = ("explain", f"--model={text_model}", f"--prompts={prompts}", *flags)
    monkeypatch.setattr(micro_batch, "free_bytes", lambda: 1)
    for name, extra, tolerance in (("remat", (), 1e-3), ("narrow", ("--dtype=bfloat16",), 0.2)):
        done = memjax(*arguments, f"--out={tmp_path / name}", *extra)
        assert done.code == 0, done.err
        for row, other in zip(
            read_rows(tmp_path / name / "tokens.jsonl"), explained[2], strict=True
        ):
            ours, theirs = ([t["weight"] for t in r["tokens"]] for r in (row, other))
            assert np.linalg.norm(np.subtract(ours, theirs)) < tolerance * np.linalg.norm(theirs)


# sample


@pytest.fixture(scope="module")
def pictures(text_model, prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "out"
    flags = ("--generations=2", "--num_steps=2")
    done = memjax("sample", f"--model={text_model}", f"--prompts={prompts}", f"--out={out}", *flags)
    assert done.code == 0, done.err
    return out


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_images_are_decoded_to_full_size_and_laid_out(pictures):
    rows = read_rows(pictures / "prompts.jsonl")
    assert [len(row["images"]) for row in rows] == [2, 2, 2]
    assert [row["note"] for row in rows] == [0, 1, 2]
    assert {read(pictures / name).shape for row in rows for name in row["images"]} == {(16, 16, 3)}
    assert read(pictures / "grid.png").shape == (3 * 18 - 2, 2 * 18 - 2, 3)
    assert rows[2]["tokens_cut"] > 0
    assert rows[0]["provenance"]["sampling"]["num_steps"] == 2


def test_images_do_not_depend_on_the_batch(pictures, text_model, prompts, tmp_path):
    flags = ("--generations=2", "--num_steps=2", "--chunk=2")
    done = memjax(
        "sample", f"--model={text_model}", f"--prompts={prompts}", f"--out={tmp_path}", *flags
    )
    assert done.code == 0, done.err
    for row in read_rows(tmp_path / "prompts.jsonl"):
        for name in row["images"]:
            ours, theirs = (read(folder / name).astype(int) for folder in (tmp_path, pictures))
            assert np.abs(ours - theirs).max() <= 1  # a rounding at the edge of two gray levels


@pytest.mark.slow
def test_the_guidance_scale_and_the_noise_decide_the_images(
    pictures, text_model, prompts, tmp_path
):
    arguments = ("sample", f"--model={text_model}", f"--prompts={prompts}", "--num_steps=2")
    changes = {
        "scale": ("--generations=2", "--guidance_scale=1"),
        "seed": ("--generations=2", "--seed=1"),
    }
    for name, flags in changes.items():
        assert memjax(*arguments, f"--out={tmp_path / name}", *flags).code == 0
        assert (read(tmp_path / name / "grid.png") != read(pictures / "grid.png")).any()
    noise = np.zeros((1, 8, 8, 4), np.float32)
    np.save(tmp_path / "noise.npy", noise)
    flags = ("--generations=1", f"--initial_noise={tmp_path / 'noise.npy'}", "--guidance_scale=0")
    assert memjax(*arguments, f"--out={tmp_path / 'same'}", *flags).code == 0
    rows = read_rows(tmp_path / "same" / "prompts.jsonl")
    first, *others = (read(tmp_path / "same" / row["images"][0]).astype(int) for row in rows)
    for other in others:  # unconditional images from one noise are one image
        assert np.abs(other - first).max() <= 1


def test_a_large_grid_is_shown_smaller():
    from memjax.cli.sample_run import ImageGrid

    grid, whole = ImageGrid(4, 2, pixels=8 * 100), ImageGrid(4, 2, pixels=8 * 1024)
    image = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    for _ in range(4):
        grid.add(image)
        whole.add(image)
    assert {p.shape for p in grid._images} == {(10, 10, 3)}
    assert {p.shape for p in whole._images} == {(32, 32, 3)}


def test_many_prompts_stand_side_by_side(tmp_path):
    from memjax.cli.sample_run import ImageGrid

    assert ImageGrid(12, 4).columns == 4
    assert ImageGrid(400, 4).columns == 40
    grid = ImageGrid(100, 1)
    for _ in range(100):
        grid.add(np.zeros((1, 8, 8, 1), np.uint8))
    grid.write(tmp_path / "g.png")
    assert read(tmp_path / "g.png").shape == (98, 98)
