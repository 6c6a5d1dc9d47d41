"""The words on what came back where nobody knows what was repeated."""

import pytest

from memjax.report.pages.audit_survey import wall_caption
from memjax.report.pages.audit_text import verdict
from memjax.report.pages.base import missing_fields, render_html


def group(num, back, rate):
    share = back / num
    ends = {"came_back_low": max(share - 0.2, 0.0), "came_back_high": min(share + 0.2, 1.0)}
    return {"num": num, "num_came_back": back, "came_back": share, "copy_rate": rate, **ends}


@pytest.fixture
def results():
    """Made-up results of 300 films of which nothing is known to be repeated."""
    image = {"row": 4, "image": "images/4.png", "patient": "12", "copies": 1, "samples": 7}
    image |= {"prompts": 2, "distance": 0.4, "prompt": "loudest-001", "generation": 0}
    arm = {"name": "embedding_first_step", "copy_rate_before": 0.8, "copy_rate_after": 0.1}
    return {
        "detection": {"default": "first_k", "generations": 4},
        "similarity": {"copy_rate_memorized": None, "copy_rate_background": 0.02},
        "came_back": {
            "leads": True,
            "groups": {
                "loudest": group(8, 6, 0.8),
                "once": group(16, 1, 0.06),
                "held_out": group(16, 0, 0.0),
            },
        },
        "survey": {
            "num_training": 290, "num_scored": 290, "num_held_out": 60, "num_flagged": 12,
            "threshold": 3.0, "threshold_rms": 0.1, "target_fpr": 0.05, "flagged": 12 / 290,
            "flagged_low": 0.02, "flagged_high": 0.07, "known_repeats": None,
        },
        "returned": {"num": 5, "num_patients": 4, "images": [image]},
        "mitigation": {
            "method": "embedding_first_step", "copy_rate_before": 0.8, "copy_rate_after": 0.1,
            "label_agreement_before": 0.9, "label_agreement_after": 0.7,
            "arms": [arm, {**arm, "name": "embedding_noise", "copy_rate_after": 0.5}],
        },
        "data": {"name": "chest X-rays", "unit": "films", "num_images": 300, "num_repeated": 0},
    }  # fmt: skip


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_three_questions_are_answered_first_and_nothing_is_called_not_measured(results):
    found = verdict(results)
    assert found.level == "repaired"
    assert plain(found.headline) == (
        "This model copies training images: 6 of the 8 training prompts that pull hardest came "
        "back; the repair cuts copies from 80 % to 10 %."
    )
    questions, texts = zip(*found.answers, strict=True)
    assert questions == ("Does it copy?", "Whose images came back?", "What can be done?")
    assert plain(texts[0]) == (
        "So many prompts brought a training image back (at least half of 4 images copy one): of "
        "the 8 training prompts that pull hardest, 6 (range 55–95 %); of 16 training prompts drawn "
        "at random, 1 (range 0–26 %); of 16 prompts it never saw, 0 (range 0–20 %). By the same "
        "rule, 2 % of films it never saw count as copies."
    )
    assert texts[1].startswith("5 training images of 4 patients came back")
    assert "--mitigations=embedding_first_step" in texts[2]
    assert "80 % before, 10 % after" in plain(texts[2])
    assert [tile.figure for tile in found.tiles] == ["6 of 8", "1 of 16", "0 of 16", "10\xa0%"]
    page = render_html(results, {})
    assert "not measured" not in page.split("Where this came from")[0]
    assert "images/4.png" in page
    assert not [name for name in missing_fields(results) if "memorized" in name]


def test_the_command_runs_on_what_stands_beside_the_report(results):
    what = "memjax mitigate --model=MODEL --prompts=prompts/flagged.jsonl --mitigations=embedding_"
    assert what in verdict(results).answers[2][1]
    results["survey"]["num_flagged"] = 0
    results["provenance"] = {"null": "companion"}
    answer = verdict(results).answers[2][1]
    assert "--model=MODEL --null=companion --companion=MODEL --prompts=FILE.jsonl" in answer


def test_all_prompts_were_scored_or_so_many(results):
    said = " ".join(verdict(results).sentences)
    assert "All 290 different training prompts were scored" in said
    assert "12 of them" in said
    assert "95 % of 60 prompts it never saw" in plain(said)
    results["survey"] |= {"num_training": 12345}
    assert "290 of 12,345 training prompts" in " ".join(verdict(results).sentences)
    results["survey"] |= {"threshold": None, "num_held_out": 2}
    said = " ".join(verdict(results).sentences)
    assert "with 2 prompts it never saw there is nothing to fit a threshold on" in said


def test_known_repeats_stand_beside_the_flags(results):
    known = {"num": 8, "num_flagged": 7, "recall": 0.875, "recall_low": 0.5, "recall_high": 1.0}
    known |= {"precision": 0.5, "precision_low": 0.2, "precision_high": 0.8}
    results["survey"]["known_repeats"] = known
    said = plain(" ".join(verdict(results).sentences))
    assert "8 training prompts have images known to be repeated" in said
    assert "7 of them are flagged (88 %, range 50–100 %)" in said
    assert "50 % (range 20–80 %) of all flagged prompts" in said
    near = {"num": 5, "num_flagged": 2, "recall": 0.4, "recall_low": 0.1, "recall_high": 0.8}
    results["survey"]["near_duplicates"] = near
    said = plain(" ".join(verdict(results).sentences))
    assert "5 training prompts have images with a near duplicate" in said
    assert "2 of them flagged (40 %, range 10–80 %)" in said
    results["survey"]["known_repeats"] = {**known, "num": 1, "num_flagged": 0}
    said = " ".join(verdict(results).sentences)
    assert "1 training prompt has an image known to be repeated" in said
    assert "it is not flagged" in said


def test_where_little_came_back_that_is_said_with_its_numbers(results):
    results["came_back"]["groups"]["loudest"] = group(8, 0, 0.0)
    results["returned"] = {"num": 0, "num_patients": 0, "images": []}
    results["mitigation"] = {"copy_rate_before": None, "copy_rate_after": None, "arms": []}
    found = verdict(results)
    assert found.level == "clear"
    assert found.headline.startswith("No training image was copied: 0 of the 8 training prompts ")
    assert found.answers[1][1] == "No training image came back in all that was asked."


def test_without_scores_the_random_sample_leads(results):
    del results["came_back"]["groups"]["loudest"], results["survey"]
    found = verdict(results)
    assert "1 of 16 training prompts drawn at random came back" in found.headline


def test_the_wall_says_whose_prompts_it_shows(results):
    assert set(wall_caption(results, ["wall", "roc"])) == {"wall"}
    results["came_back"]["leads"] = False
    assert wall_caption(results, ["wall", "roc"]) == {}
