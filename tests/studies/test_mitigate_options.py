"""What ``memjax mitigate`` takes its numbers from: flags, the run, or the published setting."""

from types import SimpleNamespace

import pytest

from memjax.runs.options import EMBEDDING, FIRST_STEP, NOISE, AuditOptions
from memjax.studies.mitigation.options import baseline_arms, make_setting, parse_targets

OPTIONS = AuditOptions(protect=("findings",), num_iters=20, learning_rate=0.1)
FOREIGN, OWN = SimpleNamespace(pipeline=object()), SimpleNamespace(pipeline=None)


def setting(model, **given):
    flags = dict.fromkeys(("method", "steps", "weight_decay", "protect"))
    return make_setting(model, OPTIONS, **{**flags, **given})


def targets(**given):
    names = ("target", "target_rms", "targets", "targets_rms")
    return parse_targets(**{**dict.fromkeys(names), **given}, dim=16384)


def test_foreign_models_take_the_published_setting():
    found = setting(FOREIGN)
    assert (found.method, found.steps) == (FIRST_STEP, (0,))
    assert (found.num_iters, found.learning_rate, found.weight_decay) == (10, 0.05, 0.01)
    assert found.protect == ()
    assert "one norm over all" in str(found.words()["beside_the_published_code"])


def test_a_run_of_labels_keeps_its_own_setting():
    found = setting(OWN)
    assert (found.method, found.steps) == (EMBEDDING, OPTIONS.mitigate_steps)
    assert (found.num_iters, found.learning_rate, found.weight_decay) == (20, 0.1, 0.0)
    assert found.protect == ("findings",)


def test_flags_have_the_last_word():
    assert setting(FOREIGN, steps=(3, 9)).steps == (3, 9)
    assert setting(FOREIGN, steps=(3, 9)).method == EMBEDDING
    assert setting(OWN, method=FIRST_STEP).steps == (0,)
    assert setting(FOREIGN, weight_decay=0.0).weight_decay == 0.0
    assert not setting(OWN, method=NOISE).optimizes
    assert setting(OWN, method=FIRST_STEP, protect=["sex"]).protect == ("sex",)
    assert setting(OWN, protect=[]).protect == ()
    with pytest.raises(ValueError, match=r"--steps=3 with --method=embedding_first_step"):
        setting(OWN, method=FIRST_STEP, steps=(3,))


def test_raw_targets_are_measured_by_the_latents_size():
    found = targets(targets=["5", "3", "3", "0"])
    assert [t.given for t in found] == [5.0, 3.0, 0.0]  # none twice
    assert [t.rms for t in found] == [5 / 128, 3 / 128, 0.0]
    assert [t.arm.title for t in found] == ["target 5", "target 3", "repaired, all updates"]
    assert [t.rms for t in targets(targets_rms=["0.02"])] == [0.02]
    assert targets(targets_rms=["0.02"])[0].arm.title == "target RMS 0.02"
    assert targets(target=3.0)[0].rms == 3 / 128
    assert targets() == []


def test_baselines_are_arms_by_strength():
    arms = baseline_arms(["random_word", "embedding_noise"], (1, 4), 0.5)
    assert [a.key for a in arms] == ["random_word-1", "random_word-4", "embedding_noise-0.5"]
    assert arms[1].title == "random word, 4"
    assert len(baseline_arms(["all"], (2,), 0.1)) == 5
    with pytest.raises(ValueError, match="'luck', expected names out of random_word"):
        baseline_arms(["luck"], (1,), 0.5)
