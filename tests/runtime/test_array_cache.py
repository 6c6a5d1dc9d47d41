"""A cache that is taken up where it was left, trusted only by its seals, and made anew if stale."""

import json
import logging
import resource
import signal

import numpy as np
import pytest

from memjax.runtime.array_cache import cached_array

NUM, SHAPE = 23, (3, 2)
VALUES = np.random.default_rng(0).normal(size=(NUM, *SHAPE)).astype(np.float32)


class Counting:
    """Computes the values and remembers what it was asked for; may stop in the middle."""

    def __init__(self, stop_at=None):
        self.asked, self.stop_at = [], stop_at

    def __call__(self, start, stop):
        if self.stop_at is not None and start >= self.stop_at:
            raise KeyboardInterrupt
        self.asked.append((start, stop))
        return VALUES[start:stop]


def build(folder, compute, **changes):
    settings = {"num": NUM, "item_shape": SHAPE, "dtype": "float32", "block": 5}
    settings |= {"fingerprint": {"model": "a"}} | changes
    return cached_array(folder, "x", compute, **settings)


def test_it_is_computed_once(tmp_path):
    first = Counting()
    seen = []
    array = build(tmp_path, first, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(array, VALUES)
    assert first.asked == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    assert seen == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    again = Counting()
    np.testing.assert_array_equal(build(tmp_path, again), VALUES)
    assert again.asked == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.jsonl", "x.npy"]


@pytest.mark.parametrize("block", [5, 7])
def test_a_stopped_one_goes_on(tmp_path, block):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Counting(stop_at=10))
    assert not (tmp_path / "x.npy").exists()
    rest = Counting()
    np.testing.assert_array_equal(build(tmp_path, rest, block=block), VALUES)
    assert rest.asked[0][0] == 10


def test_a_line_cut_short_is_not_believed(tmp_path):
    build(tmp_path, Counting())
    journal = tmp_path / "x.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:3]) + "\n" + lines[3][:-2])
    rest = Counting()
    np.testing.assert_array_equal(build(tmp_path, rest), VALUES)
    assert rest.asked[0] == (10, 15)


def test_a_flipped_bit_is_found_and_mended(tmp_path, caplog):
    build(tmp_path, Counting())
    file = tmp_path / "x.npy"
    content = bytearray(file.read_bytes())
    content[-(NUM - 12) * 24] ^= 1  # in item 12
    file.write_bytes(content)
    mended = Counting()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(build(tmp_path, mended), VALUES)
    assert mended.asked == [(10, 15), (15, 20), (20, 23)]
    assert "damaged from item 10 on" in caplog.text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fingerprint": {"model": "b"}}, "model"),
        ({"dtype": "float16"}, "dtype"),
        ({"num": 20}, "shape"),
    ],
)
def test_another_fingerprint_makes_it_anew(tmp_path, caplog, changes, named):
    build(tmp_path, Counting())
    anew = Counting()
    with caplog.at_level(logging.WARNING):
        array = build(tmp_path, anew, **changes)
    assert anew.asked[0] == (0, 5)
    assert f"made for another {named}" in caplog.text
    np.testing.assert_array_equal(array, VALUES[: len(array)].astype(array.dtype))


def test_a_lost_or_shortened_file_is_made_anew(tmp_path):
    build(tmp_path, Counting())
    file = tmp_path / "x.npy"
    for spoil in (file.unlink, lambda: file.write_bytes(file.read_bytes()[:100])):
        spoil()
        anew = Counting()
        np.testing.assert_array_equal(build(tmp_path, anew), VALUES)
        assert anew.asked[0] == (0, 5)


def test_what_cannot_be_stored_is_refused(tmp_path):
    huge = VALUES.copy()
    huge[7] = 1e6
    with pytest.raises(ValueError, match="item 7 holds a number that float16 cannot"):
        build(tmp_path, lambda a, b: huge[a:b], dtype="float16")
    with pytest.raises(ValueError, match=r"shape \(5, 3\), expected \(5, 3, 2\)"):
        build(tmp_path, lambda a, b: VALUES[a:b, :, 0])
    header = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert header["shape"] == [NUM, *SHAPE]


DAMAGE = {
    "a seal of no numbers": ("x.jsonl", lambda data: data.replace(b"[0, 5", b"[null, 5")),
    "nesting": ("x.jsonl", lambda data: data + b"[" * 20_000),
    "bytes that are no text": ("x.jsonl", lambda data: b"\x80" + data),
    "a head that is no Python": ("x.npy", lambda data: data.replace(b"'shape': (", b"'shape': [")),
    "a head cut off": ("x.npy", lambda data: data.replace(b"}", b" ", 1)),
    "the other order of bytes": ("x.npy", lambda data: data.replace(b"<f4", b">f4")),
    "zeros": ("x.npy", lambda data: bytes(len(data))),
    "a cut": ("x.npy", lambda data: data[:-9]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_any_kind_is_made_good(tmp_path, damage):
    build(tmp_path, Counting())
    name, change = DAMAGE[damage]
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(change(before))
    assert (tmp_path / name).read_bytes() != before
    np.testing.assert_array_equal(build(tmp_path, Counting()), VALUES)
    again = Counting()
    np.testing.assert_array_equal(build(tmp_path, again), VALUES)
    assert again.asked == []


def test_a_disk_too_small_is_said_before_anything_is_computed(tmp_path):
    """Memory-mapped, a disk that fills up would end the process without a word."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    computed = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            cached_array(
                tmp_path,
                "x",
                lambda start, stop: computed.append(start),
                num=100,
                item_shape=(1000,),
                dtype="float32",
                fingerprint={},
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(tmp_path / "x.partial.npy")
    assert not computed
    assert not list(tmp_path.iterdir())
