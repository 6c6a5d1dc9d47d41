"""AUC with "copied" as the label, and several families of negatives."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from memjax.evaluate.statistics.roc import detection_summary
from memjax.studies.validation_scores import copied_summary, family_summary


def _mixed(seed=0, prompts=20, per_prompt=6):
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), per_prompt)
    copied = rng.random(len(prompt)) < np.repeat(rng.random(prompts), per_prompt)
    return rng.normal(size=len(prompt)) + 1.2 * copied, copied, prompt


def test_auc_equals_scikit_learn_although_prompts_hold_both_labels():
    scores, copied, prompt = _mixed()
    found = copied_summary(scores, copied, prompt)
    assert found["auc_copied"] == pytest.approx(roc_auc_score(copied, scores))
    assert found["auc_copied_low"] < found["auc_copied"] < found["auc_copied_high"]
    assert found["tpr_low"] <= found["tpr_at_1pct_fpr"] <= found["tpr_high"]
    assert (found["num_copied"], found["num_pictures"]) == (copied.sum(), 120)
    assert found["dropped_replicates"] == 0
    json.dumps(found)


def test_interval_equals_resampled_prompts():
    """The weights' quantiles against rows really repeated, prompt by prompt."""
    scores, copied, prompt = _mixed(1)
    rng, drawn = np.random.default_rng(5), []
    for _ in range(600):
        rows = np.concatenate([np.flatnonzero(prompt == p) for p in rng.integers(0, 20, 20)])
        drawn.append(roc_auc_score(copied[rows], scores[rows]))
    found = copied_summary(scores, copied, prompt)
    want = np.percentile(drawn, [2.5, 97.5])
    # the standard error of a 2.5 % quantile of 600 draws is about a tenth of the interval
    width = want[1] - want[0]
    np.testing.assert_allclose(
        [found["auc_copied_low"], found["auc_copied_high"]], want, atol=0.15 * width
    )


def test_replicates_with_one_label_are_dropped_and_counted():
    """Prompt 0 of 4 holds all the copies: (3/4)⁴ = 31.6 % of the draws miss it."""
    prompt = np.repeat(np.arange(4), 5)
    found = copied_summary(np.arange(20.0), prompt == 0, prompt, n=4000)
    # plus 1/256 of draws that hold it four times; binomial standard deviation 0.7 %
    assert found["dropped_replicates"] / 4000 == pytest.approx(0.316 + 1 / 256, abs=0.03)
    assert found["auc_copied"] == 0.0


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_gives_none(label):
    found = copied_summary([1.0, 2, 3], [label] * 3, n=50)
    assert found["auc_copied"] is None
    assert found["tpr_high"] is None
    assert found["num_copied"] == 3 * label
    assert found["dropped_replicates"] == 50


def _families(seed=2):
    rng = np.random.default_rng(seed)
    family = np.repeat(["memorized", "once", "near_miss"], [15, 25, 20])
    scores = rng.normal(size=60) + np.repeat([2.0, 0.0, 1.0], [15, 25, 20])
    return scores, family == "memorized", family


def test_each_family_stands_alone_and_all_together():
    scores, memorized, family = _families()
    names = {"near_miss": "Near misses", "once": "Trained once"}
    rows = family_summary(scores, memorized, family, names, n=200)
    assert [r["name"] for r in rows] == ["near_miss", "once", "all"]
    assert [r["title"] for r in rows] == ["Near misses", "Trained once", "All together"]
    assert [r["num"] for r in rows] == [20, 25, 45]
    for row in rows[:2]:
        keep = memorized | (family == row["name"])
        want = detection_summary(scores[keep], memorized[keep], np.flatnonzero(keep), n=200)
        assert {k: row[k] for k in want if k != "num_other"} == {
            k: v for k, v in want.items() if k != "num_other"
        }
    assert rows[2]["auc"] == pytest.approx(roc_auc_score(memorized, scores))
    weighted = (20 * rows[0]["auc"] + 25 * rows[1]["auc"]) / 45
    assert rows[2]["auc"] == pytest.approx(weighted)
    assert rows[0]["auc"] < rows[1]["auc"]


def test_a_family_left_out_of_names_is_left_out_of_all():
    rows = family_summary(*_families(), {"once": "Once"}, n=50)
    assert rows[1]["num"] == 25
    assert [r["name"] for r in family_summary(*_families(), n=50)] == ["near_miss", "once", "all"]


def test_errors_name_the_value():
    scores, memorized, family = _families()
    with pytest.raises(ValueError, match="'random'"):
        family_summary(scores, memorized, family, {"random": "Random"})
    with pytest.raises(ValueError, match="3 families were given for 60"):
        family_summary(scores, memorized, family[:3])
    with pytest.raises(ValueError, match="score 0 is not finite"):
        copied_summary([np.inf, 1], [True, False])
    with pytest.raises(ValueError, match=r"\(2,\) and labels \(3,\)"):
        copied_summary([1, 2], [True, False, True])
