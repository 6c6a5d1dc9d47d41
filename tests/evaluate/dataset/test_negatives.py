import numpy as np
import pytest

from memjax.data.dataset import load_images
from memjax.data.phantoms.folder import write_phantoms
from memjax.data.readers.chexpert import read_chexpert
from memjax.data.records import chexpert_label_space
from memjax.evaluate.dataset.negatives import LEAST, look_negative
from memjax.evaluate.dataset.survey import Looked, survey
from memjax.report.pages.dataset import data_files


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    write_phantoms(root, size=64, num_images=60, num_held_out=5, num_duplicated=1, copies=2)
    records, problems = read_chexpert(root, "train", frontal_only=False)
    return records, problems, load_images(records, size=64, channels=1)


@pytest.mark.parametrize("inverted", [0, 1, 7, 20])
def test_the_inverted_films_are_named_and_no_other(phantoms, inverted):
    images = phantoms[2].copy()
    rows = np.sort(np.random.default_rng(inverted).permutation(len(images))[:inverted])
    images[rows] = 255 - images[rows]
    np.testing.assert_array_equal(look_negative(images), rows)


def test_unlike_images_have_no_negatives(phantoms):
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 48, 3), dtype=np.uint8)
    assert not len(look_negative(noise))
    assert not len(look_negative(np.zeros((50, 40, 40, 1), np.uint8)))
    assert not len(look_negative(phantoms[2][: LEAST - 1]))


def test_the_page_shows_negatives_bits_and_what_was_not_read(phantoms):
    records, problems, images = phantoms
    images = images.copy()
    images[3] = 255 - images[3]
    problems.decoded("8", ())
    problems.decoded("12", ("stretched (12 bits in a 16-bit file)",))
    problems.pass_over(".md", "<README>.md")
    looked = Looked(images, records, ["train"] * len(records), [*range(len(records))], len(records))
    labels = np.zeros((len(records), chexpert_label_space().num_tokens), np.int32)
    result = survey(records, [], labels, chexpert_label_space(), problems, looked)
    said = " ".join(result["stand_out"])
    assert "1 looks like a negative of the others among the 68 images looked at" in said
    assert "Bits a channel that the files use: 1 of 8, 1 of 12." in said
    assert "Beside the images, these were not read: 1 .md (such as <README>.md)." in said
    files = data_files(result, images, records, title="data", made_by={})
    assert "Look like negatives of the others" in files["data.html"]
    assert "&lt;README&gt;.md" in files["data.html"]
    assert files["reading.csv"].splitlines()[:5] == [
        "what,kind,count,examples",
        "bits a channel,8,1,",
        "bits a channel,12,1,",
        "read,stretched (12 bits in a 16-bit file),1,",
        "not read,.md,1,<README>.md",
    ]
