import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from memjax.data.images import CorruptImageError
from memjax.data.pipeline import ImageFiles, make_batches
from memjax.data.readers.chexpert import read_chexpert
from memjax.data.records import Batch
from tests.commands import PATIENCE

NUM = 23
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 4, 4, 1), dtype=np.uint8)
LABELS = np.arange(NUM * 3, dtype=np.int32).reshape(NUM, 3)


def take(num, **options) -> list[Batch]:
    options = {"batch_size": 8, "seed": 3, **options}
    stream = make_batches(options.pop("images", IMAGES), LABELS, **options)
    return [next(stream) for _ in range(num)]


def rows(batches):
    return np.concatenate([batch.row for batch in batches])


def jitter(image, rng):
    return image + rng.normal(size=image.shape).astype(np.float32)


def assert_same(a: Batch, b: Batch):
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_batch_is_the_rows_it_names():
    for batch in take(4):
        assert batch.image.dtype == np.float32
        assert batch.labels.dtype == batch.row.dtype == np.int32
        np.testing.assert_array_equal(batch.labels, LABELS[batch.row])
        np.testing.assert_allclose(
            batch.image, IMAGES[batch.row].astype(np.float64) / 127.5 - 1, atol=1e-6
        )


def test_an_epoch_holds_every_row_once_in_a_new_order():
    order = rows(take(NUM, batch_size=2))  # two epochs
    first, second = order[:NUM], order[NUM:]
    assert sorted(first) == sorted(second) == list(range(NUM))
    assert (first != second).any()
    assert (first != np.arange(NUM)).any()
    assert (rows(take(4, seed=4)) != rows(take(4))).any()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 2, 7])
def test_order_and_draws_depend_on_seed_and_step_alone(count, start):
    whole = take(12, augment=jitter)  # four epochs
    parts = [
        take(4, augment=jitter, start_step=start, positions=places)
        for places in np.arange(8).reshape(count, -1)
    ]
    for step in range(4):
        shards = [part[step] for part in parts]
        assert all(len(shard.row) == 8 // count for shard in shards)
        joined = Batch(*(np.concatenate(leaves) for leaves in zip(*shards, strict=True)))
        assert_same(joined, whole[start + step])


def test_repeats_plant_duplicates():
    repeats = np.ones(NUM, np.int64)
    repeats[4], repeats[5] = 6, 0
    order = rows(take(14, batch_size=4, repeats=repeats))[: 2 * repeats.sum()]
    np.testing.assert_array_equal(np.bincount(order, minlength=NUM), 2 * repeats)


def test_weights_set_the_rate():
    weights = np.ones(NUM)
    weights[4] = 10.0
    order = rows(take(200, batch_size=32, weights=weights))
    expected = 10 / (NUM + 9)
    sigma = np.sqrt(expected * (1 - expected) / len(order))
    assert abs((order == 4).mean() - expected) < 4 * sigma
    resumed = rows(take(3, batch_size=32, weights=weights, start_step=50))
    np.testing.assert_array_equal(resumed, order[50 * 32 : 53 * 32])
    # Each epoch draws anew.
    assert (order[:NUM] != order[NUM : 2 * NUM]).any()


def test_augmentation_differs_between_epochs_and_not_between_runs():
    batches = take(6, augment=jitter)
    again = take(6, augment=jitter)
    for a, b in zip(batches, again, strict=True):
        assert_same(a, b)
    seen = {}
    for batch in batches:
        for row, image in zip(batch.row, batch.image, strict=True):
            if row in seen:
                assert (image != seen[row]).any()
            seen[row] = image


@pytest.fixture
def files(phantom_root, tmp_path):
    """Records of which the third is corrupt."""
    records = read_chexpert(phantom_root)[0][:NUM]
    bad = tmp_path / "broken.jpg"
    bad.write_bytes(b"\xff\xd8broken")
    records[3] = records[3]._replace(path=str(bad))
    return records


def test_files_give_what_memory_gives(phantom_root):
    records = read_chexpert(phantom_root)[0][:NUM]
    source = ImageFiles(records, size=16)
    memory = np.stack([source[n] for n in range(NUM)])
    for a, b in zip(take(4, images=source), take(4, images=memory), strict=True):
        assert_same(a, b)


def test_a_corrupt_file_stops_the_stream_by_name(files):
    with pytest.raises(CorruptImageError, match=r"broken\.jpg cannot be decoded"):
        take(4, images=ImageFiles(files, size=16))


def test_a_corrupt_file_is_replaced_by_the_next_row_and_said(files, caplog):
    with caplog.at_level(logging.WARNING, "memjax.data"):
        source = ImageFiles(files, size=16)
        batches = take(6, images=source, on_corrupt="skip")
    assert caplog.text.count("broken.jpg cannot be decoded (not an image)") == 1
    assert list(source.corrupt) == [3]
    order, clean = rows(batches), rows(take(6))
    np.testing.assert_array_equal(order, np.where(clean == 3, 4, clean))
    for batch in batches:
        np.testing.assert_array_equal(batch.labels, LABELS[batch.row])


def test_a_folder_of_corrupt_files_ends(tmp_path, files):
    (tmp_path / "broken.jpg").write_bytes(b"")
    bad = [record._replace(path=str(tmp_path / "broken.jpg")) for record in files]
    with pytest.raises(CorruptImageError, match="No image of the data set"):
        take(1, images=ImageFiles(bad, size=16), on_corrupt="skip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"positions": [7, 8]}, r"positions are \[7, 8\]"),
        ({"positions": [-1]}, r"positions are \[-1\]"),
        ({"positions": []}, r"positions are \[\]"),
        ({"start_step": -1}, "start_step is -1"),
        ({"images": IMAGES[:5]}, "5 images for 23 rows"),
        ({"images": IMAGES.astype(np.float32)}, "images are float32"),
        ({"repeats": np.ones(3, int)}, "repeats has 3 entries"),
        ({"weights": np.ones(NUM), "repeats": np.ones(NUM, int)}, "Both repeats and weights"),
        ({"weights": np.zeros(NUM)}, "All sampling weights are zero"),
        ({"on_corrupt": "ignore"}, "on_corrupt is 'ignore'"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        take(1, **options)


WORKERS = """
import sys
import numpy as np
from memjax.data.readers.chexpert import read_chexpert
from memjax.data.pipeline import ImageFiles, make_batches

if __name__ == "__main__":
    records = read_chexpert(sys.argv[1])[0]
    labels = np.zeros((len(records), 1), np.int32)
    source = ImageFiles(records, size=16)
    for workers in (0, 2):
        stream = make_batches(source, labels, batch_size=8, seed=1, start_step=3,
                              num_workers=workers)
        batches = [next(stream) for _ in range(4)]
        if workers == 0:
            expected = batches
        assert all((a.row == b.row).all() for a, b in zip(batches, expected, strict=True))
        assert all((a.image == b.image).all() for a, b in zip(batches, expected, strict=True))
    print("same")
"""


@pytest.mark.slow
def test_worker_processes_change_nothing(phantom_root, tmp_path):
    """In a plain script, where nobody parsed absl's flags."""
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, str(script), str(phantom_root)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=False,
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]
