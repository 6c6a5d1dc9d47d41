"""What a report of a text model says: CLIP scores instead of a classifier, encoder tokens apart."""

import re

from memjax.report.charts.dot_plot import clip_panel
from memjax.report.pages.audit_text import verdict
from memjax.report.pages.base import render_html

REPAIR = {
    "method": "embedding_first_step",
    "copy_rate_before": 0.8,
    "copy_rate_after": 0.1,
    "label_agreement_before": None,
    "label_agreement_after": None,
    "clip_before": 0.312,
    "clip_before_low": 0.301,
    "clip_before_high": 0.322,
    "clip_after": 0.287,
    "arms": [
        {
            "name": "embedding_first_step",
            "copy_rate_after": 0.1,
            "clip_after": 0.287,
            "clip_after_low": 0.28,
            "clip_after_high": 0.29,
        }
    ],
}
RESULTS = {
    "data": {
        "num_images": 260,
        "num_distinct": 100,
        "num_repeated": 8,
        "repeats": 20,
        "name": "captioned images",
        "unit": "images",
        "foreign": "a <b>model</b>",
    },
    "similarity": {"copy_rate_memorized": 0.8, "copy_rate_other": 0.0},
    "mitigation": REPAIR,
    "explain": {
        "prompts": [
            {
                "id": "memorized-000",
                "caption": "a dog",
                "tokens": [{"token": "dog", "share": 0.75}, {"token": "a", "share": 0.25}],
                "specials": {"EOS": 0.3, "PAD": 0.42},
            }
        ]
    },
}


def test_sentences_name_the_model_and_the_scores():
    found = verdict(RESULTS)
    assert found.sentences[0] == (
        "The image generator a <b>model</b> was asked for images by their captions and compared "
        "with 100 different captioned images of its training data, 8 of them repeated 20 times "
        "each."
    )
    assert (
        "and the CLIP score of images and prompts as asked from 0.312 to 0.287."
        in found.answers[1][1]
    )


def test_without_weights_what_images_show_is_not_measured():
    bare = {k: v for k, v in REPAIR.items() if not k.startswith("clip")}
    said = verdict({**RESULTS, "mitigation": bare}).answers[1][1]
    assert "whether what was asked for is still shown was not measured." in said
    assert clip_panel({**bare, "arms": []}) == {}


def test_the_page_shows_scores_in_the_place_of_labels_and_special_tokens_apart():
    page = render_html(RESULTS, {})
    text = " ".join(re.sub("<[^>]+>", " ", page).split())
    assert "CLIP score" in text
    assert "Label agreement" not in text.split("Words used here")[0]
    assert "0.31 (0.30–0.32)" in text
    assert re.search(r"dog \( ?75.% ?\) a \( ?25.% ?\) 30.%, 42.%", text)
    assert "<b>model</b>" not in page


def test_scores_are_a_panel_of_no_repair_and_each_repair():
    panel = clip_panel(REPAIR)["CLIP score with the prompt as asked"]
    assert list(panel) == ["no repair", "embedding first step"]
    assert panel["embedding first step"][0].low == 0.28


def test_labels_keep_their_column():
    labels = {**REPAIR, "label_agreement_before": 0.9, "label_agreement_after": 0.7}
    labels = {k: v for k, v in labels.items() if not k.startswith("clip")}
    data = {"name": "chest X-rays", "unit": "films"}
    page = render_html({**RESULTS, "data": data, "mitigation": labels}, {})
    assert "Finding agreement" in page
    assert "CLIP score" not in page
