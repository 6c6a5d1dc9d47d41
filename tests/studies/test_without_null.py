"""What an audit measures of a model without a null condition, and what it says it left out."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from memjax.detectors import DETECTORS, Detection
from memjax.evaluate.similarity.copy_rules import copy_report
from memjax.runs.null import null_condition, with_null
from memjax.runs.options import MAGNITUDE, AuditOptions
from memjax.sampling import SamplingOptions
from memjax.studies.prompts.draw import SAMPLE
from memjax.studies.run import Audit
from memjax.studies.samples import sample_noise, sample_options, sample_results, sample_rows
from memjax.studies.signal import signal_of
from memjax.studies.study import Observation
from memjax.studies.survey import returned_images
from memjax.studies.without_null import null_notes, served_options, unguided

# What needs least comes first.
FREE = ["update_norm", "denoising_confidence", "trajectory_decomposition"]


class FakeBundle(SimpleNamespace):
    def _replace(self, **changes):
        return FakeBundle(**{**vars(self), **changes})


class FakeModel(SimpleNamespace):
    def _replace(self, **changes):
        return FakeModel(**{**vars(self), **changes})


def model(cond_dropout, null=None):
    bundle = FakeBundle(null_cond=null, eps_fn=object(), info={}, sample_shape=(4, 4, 1))
    config = {"train": {"cond_dropout": cond_dropout}}
    return FakeModel(bundle=bundle, config=config, run=object(), name="run")


def test_a_model_with_a_null_condition_is_asked_everything():
    asked = AuditOptions()
    options, left_out = served_options(asked, model(0.1, null=np.zeros((1, 2))), 8)
    assert options is asked
    assert left_out is None


def test_without_a_null_condition_what_needs_none_is_measured_and_the_rest_named():
    options, found = served_options(AuditOptions(), model(0.0), 8)
    assert list(options.parsed_detectors()) == [MAGNITUDE, *FREE]
    assert options.arms == ("embedding_noise", "random_condition_change")
    assert found.detectors == (MAGNITUDE,)
    assert found.mitigations == ("embedding_optimization", "embedding_first_step")
    assert found.explanations == ("token_significance",)
    assert found.instead == tuple(FREE)  # two of the arms asked for are served
    assert found.sentence.count(".") == found.sentence.count("train.cond_dropout") + 1
    for word in ("noise magnitude", "token significance", "--null=random_labels", "--companion="):
        assert word in found.sentence


def test_what_was_asked_for_and_is_served_needs_no_stand_in():
    asked = AuditOptions(detectors=("update_norm", "sharpness"), arms=("embedding_first_step",))
    options, found = served_options(asked, model(0.0), 8)
    assert options.detectors == asked.detectors
    assert found.detectors == (MAGNITUDE, "sharpness")
    assert options.arms == found.instead == ("embedding_noise", "random_condition_change")
    assert served_options(AuditOptions(arms=()), model(0.0), 8)[0].arms == ()


def test_every_detector_is_either_measured_or_needs_what_is_not_there():
    asked = AuditOptions(detectors=tuple(DETECTORS))
    _, found = served_options(asked, model(0.0), 8)
    assert set(found.detectors) == {n for n, of in DETECTORS.items() if "eps_uncond" in of.needs}


def test_a_model_without_conditions_has_no_prompts_to_mitigate():
    options, found = served_options(AuditOptions(), model(1.0), 48)
    assert options.arms == ()
    assert found.mitigations == AuditOptions().arms
    assert "48 images from 48 seeds" in found.sentence
    assert "train.cond_dropout below 1" in found.sentence


def test_guidance_that_does_not_take_place_is_said():
    asked, bare = SamplingOptions(guidance_scale=3.0), model(0.0)
    assert unguided(asked, bare).guidance_scale == 1.0
    assert unguided(asked, model(0.1, null=np.zeros((1, 2)))) is asked
    _, found = served_options(AuditOptions(), bare, 8)
    assert "guidance scale 3 is not used" in " ".join(null_notes(bare, asked, found))
    assert "guidance" not in " ".join(null_notes(bare, SamplingOptions(guidance_scale=1.0), found))


def test_a_substitute_for_what_has_no_conditions_is_refused():
    with pytest.raises(ValueError, match=r"--null=random_labels.*without conditions.*leave --null"):
        null_condition(model(1.0), "random_labels")
    with pytest.raises(ValueError, match=r"--companion must be given"):
        null_condition(model(0.0), "companion")
    with pytest.raises(ValueError, match=r"--companion=x is read with --null=companion alone"):
        null_condition(model(0.0), "trained", companion="x")
    bare = model(0.0)
    assert with_null(bare) is bare


def test_the_noise_of_a_seed_does_not_depend_on_how_many_there_are():
    few, many = sample_noise((4, 4, 1), 3, 5), sample_noise((4, 4, 1), 7, 5)
    assert many.shape == (7, 1, 4, 4, 1)
    np.testing.assert_array_equal(few, many[:3])
    assert len({np.asarray(row).tobytes() for row in many}) == 7
    assert not np.array_equal(sample_noise((4, 4, 1), 3, 6), few)


def test_as_many_images_as_before_are_made_at_a_time():
    options = sample_options(AuditOptions(generations=4, chunk=8))
    assert (options.generations, options.chunk) == (1, 32)


@pytest.fixture(scope="module")
def sampled():
    """Twelve images: 3 copies of row 0 (repeated), 1 of row 5 and 8 of nothing."""
    draw = jax.random.uniform(jax.random.key(0), (60, 4, 4, 1), minval=-1.0)
    real = np.asarray(draw)
    train, held = real[:30], real[30:48]
    images = np.concatenate([train[[0, 0, 0, 5]] + 1e-4, real[48:56]])
    gallery = SimpleNamespace(
        train=train,
        copies=np.asarray([9, 4] + [1] * 28),
        targets=np.zeros((30, 3)),
    )
    background = copy_report(held, train, n=20)
    likeness = copy_report(images, train, background=background, n=20)
    signals = np.linspace(1.0, 0.0, 12)[:, None, None] * np.ones((12, 1, 2))
    seen = Observation(
        Detection({"update_norm": signals, "trajectory_decomposition": -signals}, None, 24, 16),
        images[:, None],
        likeness,
        {},
        np.full((12, 1), np.nan),
    )
    nothing = np.zeros(0, np.int64)
    prompts = sample_rows(12, gallery)
    memorized = np.zeros(12, bool)
    audit = Audit(seen, background, memorized, "", np.zeros((0, 0)), [], nothing, prompts.strata)
    options = AuditOptions(detectors=("update_norm", "trajectory_decomposition"), generations=1)
    return sample_results(audit, prompts, gallery, None, options), audit, prompts, options


def test_samples_say_which_rows_came_back_and_how_many_are_repeated(sampled):
    samples = sampled[0]["samples"]
    assert samples["num"] == 12
    assert samples["num_copied"] == 4
    assert samples["num_returned"] == 2
    audit, prompts = sampled[1:3]
    patients = np.arange(30).astype(str)
    gallery = SimpleNamespace(copies=np.asarray([9, 4] + [1] * 28), patients=patients)
    back = returned_images(audit, prompts, gallery, [f"{i}.png" for i in range(30)])
    assert [(b.row, b.image, b.copies, b.samples) for b in back] == [
        (0, "0.png", 9, 3),
        (5, "5.png", 1, 1),
    ]
    assert samples["num_copied_of_repeated"] == 3
    assert (samples["num_returned_repeated"], samples["num_repeated"]) == (1, 2)
    similarity = sampled[0]["similarity"]
    assert similarity["copy_rate_sample"] == pytest.approx(4 / 12)
    assert similarity["copy_rate_sample_low"] < 4 / 12 < similarity["copy_rate_sample_high"]


def test_detectors_are_measured_on_copies_where_no_prompt_is_known(sampled):
    results, audit, prompts, options = sampled
    rows = {row["name"]: row for row in results["detectors"]["rows"]}
    assert rows["update_norm"]["auc_copied"] == 1.0  # the copies come first
    assert rows["trajectory_decomposition"]["auc_copied"] == 0.0
    assert results["detectors"]["left_out"] == [{"name": MAGNITUDE, "needs": ["eps_uncond"]}]
    assert results["detection"]["signal"]["name"] == "update_norm"
    signal = signal_of(audit.before.detection, options)
    assert signal.title == "update norm"
    assert not signal.is_magnitude
    np.testing.assert_allclose(signal.scores, np.linspace(1.0, 0.0, 12))
    assert prompts.family.tolist() == [SAMPLE] * 12
    assert signal_of(None, options) is None
