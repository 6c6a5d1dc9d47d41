"""Extraction on a perfect memorizer: what is planted is found, and the training images say what."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Bundle
from memjax.data.records import image_record
from memjax.evaluate.similarity.cliques import Clique
from memjax.evaluate.similarity.copy_rules import SimilarityResult
from memjax.models.empirical import EmpiricalDenoiser
from memjax.report.pages.extract import extract_files, printed
from memjax.runs.model import Model
from memjax.sampling import SamplingOptions
from memjax.studies.extraction import ExtractOptions, extract, study
from memjax.studies.extraction.real import made_real
from memjax.studies.extraction.study import COPY, NOT_A_COPY, NOT_COMPARED, generations_of
from memjax.studies.prompts.captions import caption_gallery
from memjax.studies.store import Store

SIZE, TRAIN, HELD = 8, 120, 60
OPTIONS = ExtractOptions(generations=20, least=8, chunk=2)
SAMPLING = SamplingOptions(num_steps=10, guidance_scale=1.0)


def pictures(seed, n):
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 1), np.uint8)
    return coarse.repeat(2, axis=1).repeat(2, axis=2)


TRAINING, ATTRACTOR, HELD_OUT = pictures(0, TRAIN), pictures(1, 1), pictures(2, HELD)
ROWS = [
    {"id": "memorized", "caption": "one training picture", "mask": [3]},
    {"id": "ordinary", "caption": "any of forty", "mask": list(range(10, 50))},
    {"id": "spurious", "caption": "a picture nobody trained on", "mask": [TRAIN]},
    {"id": "again", "caption": "another training picture", "mask": [60]},
]


def masks(rows):
    out = np.zeros((len(rows), TRAIN + 1), bool)
    for at, row in enumerate(rows):
        out[at, row["mask"]] = True
    return jnp.asarray(out)


@pytest.fixture(scope="module")
def model():
    spec = ScheduleSpec("cosine", 100)
    known = np.concatenate([TRAINING, ATTRACTOR]).astype(np.float32) / 127.5 - 1
    bundle = Bundle(
        eps_fn=EmpiricalDenoiser(spec),
        params=jnp.asarray(known),
        schedule=spec.build(),
        sample_shape=(SIZE, SIZE, 1),
        encode=masks,
        null_cond=jnp.ones((1, TRAIN + 1), bool),
        decode=lambda states: states,
        describe=lambda row: [],
        info={},
    )
    return Model(Path("oracle"), "oracle", {}, bundle, None, {}, None)


@pytest.fixture(scope="module")
def real():
    train = [image_record(f"train/{i}.png", f"p{i}") for i in range(TRAIN)]
    twice = [*train, image_record("train/again.png", "again")]  # the fourth stands twice
    held = [image_record(f"held/{i}.png", f"h{i}") for i in range(HELD)]
    images = np.concatenate([TRAINING, TRAINING[3:4]])
    gallery, kept = caption_gallery(twice, images, held, HELD_OUT)
    return made_real(gallery, kept, held, {"source": "a test"})


@pytest.fixture(scope="module")
def found(model, real):
    return extract(model, ROWS, SAMPLING, OPTIONS, real)


def test_what_is_planted_is_found_and_training_images_say_what_it_is(found):
    told = [(ROWS[f.prompt]["id"], f.verdict, f.nearest) for f in found.found]
    assert [(name, verdict) for name, verdict, _ in told] == [
        ("memorized", COPY),
        ("spurious", NOT_A_COPY),
        ("again", COPY),
    ]
    assert [row for _, verdict, row in told if verdict == COPY] == [3, 60]
    memorized = found.found[0]
    assert memorized.clique.members == tuple(range(20))
    assert memorized.clique.spread < 1e-3
    assert memorized.calibrated < 1e-3
    assert memorized.copies == 1
    assert memorized.exact == 20
    assert found.found[1].calibrated > 1
    assert found.copied.tolist()[0] == 1
    assert found.largest.tolist()[0] == 20
    assert found.largest[1] < 8


def test_near_repeats_in_training_do_not_hide_a_copy(real):
    """Generations of one film may each be nearest to another export of it."""
    rows, yes = np.array([3, 3, 100, 100, 101, 101]), np.ones(6, bool)
    near = SimilarityResult(
        np.zeros(6), rows, np.full(6, 0.1), np.full(6, 0.9), yes, ~yes, ~yes, float("nan")
    )
    images = np.repeat(TRAINING[3:4], 6, axis=0)
    one = study._found(0, Clique(tuple(range(6)), 0, 0.0, True), images, near, real)
    assert (one.verdict, one.copies, one.nearest) == (COPY, 1.0, 3)


def test_the_figures_count_what_was_found(found):
    s = found.summary
    assert (s["num_prompts"], s["num_prompts_found"], s["num_cliques"]) == (4, 3, 3)
    assert (s["num_confirmed"], s["num_false"], s["num_exact"]) == (2, 1, 2)
    assert s["precision"] == pytest.approx(2 / 3)
    assert s["precision_low"] == pytest.approx(0.0943, abs=1e-3)  # Clopper and Pearson
    assert (s["num_repeated"], s["num_repeated_extracted"], s["num_training_images"]) == (1, 1, 2)
    # The ordinary prompt copies too, another image each time: no clique, and it is said.
    assert (s["num_prompts_copying"], s["num_prompts_missed"]) == (3, 1)
    assert printed(s) == [
        "2 of 4 prompts give a training image back.",
        "2 of 3 images that keep coming back are training images (67\N{NO-BREAK SPACE}%, "
        "9–99\N{NO-BREAK SPACE}%): 1 are none, such as a template or an attractor of the model's "
        "own.",
        "1 prompts whose images mostly copy a training image have no clique of it: make more "
        "generations, lower --least, or raise --threshold (see the table of thresholds).",
        "1 of 1 training images that stand more than once were extracted.",
    ]
    assert s["background"]["of"] == HELD
    own = next(row for row in s["thresholds"] if row["threshold"] == OPTIONS.threshold)
    assert own["num_prompts"] == 3


def test_without_training_images_nothing_is_compared(model, found):
    alone = extract(model, ROWS, SAMPLING, OPTIONS)
    assert [f.clique for f in alone.found] == [f.clique for f in found.found]
    assert {f.verdict for f in alone.found} == {NOT_COMPARED}
    assert "num_confirmed" not in alone.summary
    files = extract_files(alone, None, title="oracle", made_by={})
    assert b"Nothing was compared with training images" in files["index.html"]


def test_no_clique_no_wall_and_the_page_claims_nothing(model, real):
    quiet = extract(model, ROWS[1:2], SAMPLING, OPTIONS, real)
    files = extract_files(quiet, real, title="<oracle>", made_by={})
    assert set(files) == {"index.html", "extracted.csv", "extract.json"}
    page = files["index.html"].decode()
    assert "Nothing keeps coming back from 1 prompts." in page
    assert "no proof that nothing is memorized" in page
    assert "&lt;oracle&gt;" in page


def test_a_stopped_extraction_goes_on_and_more_generations_change_no_earlier_one(
    model, tmp_path, monkeypatch
):
    import memjax.studies.study as study

    whole = generations_of(model, ROWS, SAMPLING, OPTIONS)
    assert whole.shape == (4, 20, SIZE, SIZE, 1)
    sampled, calls = study._part, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sampled(*args)

    store = Store(tmp_path / "parts", {"job": 1})
    store.start()
    monkeypatch.setattr(study, "_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        generations_of(model, ROWS, SAMPLING, OPTIONS, store)
    again = generations_of(model, ROWS, SAMPLING, OPTIONS, store)
    assert len(calls) == 3 + 2  # two slices of noise, two chunks of prompts; two were done
    assert np.array_equal(again, whole)
    more = ExtractOptions(generations=24, least=8, chunk=2)
    assert np.array_equal(generations_of(model, ROWS, SAMPLING, more)[:, :20], whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 0.0}, "--threshold=0.0, expected a distance above 0"),
        ({"threshold": float("nan")}, "--threshold=nan"),
        ({"least": 33}, "--least=33 generations of --generations=32"),
        ({"least": 1}, "--least=1"),
    ],
)
def test_what_could_find_nothing_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        ExtractOptions(**change)


def test_no_prompt_is_refused(model):
    with pytest.raises(ValueError, match="there is no prompt"):
        extract(model, [], SAMPLING, OPTIONS)
