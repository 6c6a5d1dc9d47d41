"""The page of shaded words: everything is escaped, shades follow weights, nothing is loaded."""

import re
from html.parser import HTMLParser

import pytest

from memjax.explain.words import Word
from memjax.report.pages.tokens import Explained, render_token_page, segments, top_words

HOSTILE = "<script>alert('x')</script> {{ 7 * 7 }} \u202eback \x1b[0m &amp;"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.styles, self.inside = [], [], [], False
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        style = dict(attrs).get("style", "")
        self.inside = tag == "span" and "rgba" in style
        if self.inside:
            self.styles.append(style)
            self.words.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.said += data
        if self.inside:
            self.words[-1] += data


def prompt(caption="a cat", words=None, **changes):
    words = words or [Word("a", 1.0, (1,), (0, 1)), Word("cat", 4.0, (2,), (2, 5))]
    shares = {"words": 0.5, "BOS": 0.1, "EOS": 0.1, "padding": 0.3}
    return Explained(
        **{"name": "p", "caption": caption, "words": words, "shares": shares} | changes
    )


def test_the_heaviest_word_has_the_deepest_shade():
    page = Page(render_token_page([prompt()], title="t"))
    assert page.words == ["a", "cat"]
    shades = [float(re.search(r"([\d.]+)\)", style)[1]) for style in page.styles]
    assert shades == [0.2, 0.8]


def test_the_caption_stands_as_it_was_written():
    words = [Word("cat", 4.0, (2,), (2, 5))]
    assert [s.text for s in segments(prompt("A cat!", words))] == ["A ", "cat", "!"]


def test_what_was_cut_off_is_struck_out_and_counted():
    text = render_token_page([prompt("a cat sat", tokens_cut=3)], title="t")
    assert '<del title="cut off"> sat</del>' in text
    assert "3 tokens cut off" in text
    assert "<del title" not in render_token_page([prompt("a cat sat")], title="t")


def test_labels_are_listed_as_words():
    words = [Word("View: AP", 1.0, (1,)), Word("Edema: positive", 0.0, (2,))]
    page = Page(render_token_page([prompt(None, words)], title="t"))
    assert page.words == ["View: AP", "Edema: positive"]


def test_specials_stand_beside_the_words():
    said = Page(render_token_page([prompt()], title="t")).said
    for name in ("BOS", "EOS", "padding"):
        assert name in said


@pytest.mark.parametrize("caption", [HOSTILE, "x" * 5000, "שלום <b>", "\x00\x07"])
def test_hostile_captions_are_text(caption):
    words = [Word(caption, 1.0, (1,), (0, len(caption)))]
    shown = [prompt(caption, words, name=caption)]
    text = render_token_page(shown, title=caption, facts={"model": caption})
    page = Page(text)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert ("7 * 7" in text) == ("7 * 7" in caption)
    assert not {"\u202e", "\x1b", "\x00", "\x07"} & set(text)
    assert not re.search(r'(src|href)="', text)
    assert "default-src 'none'" in text


def test_the_page_says_what_the_weights_are():
    from memjax.explain import ATTRIBUTIONS

    said = {Page(render_token_page([], title="t", attribution=a)).said for a in ATTRIBUTIONS}
    assert len(said) == len(ATTRIBUTIONS)


def test_no_word_and_no_weight_are_shown_without_complaint():
    empty = Explained("n", "", [], {"words": 0.0})
    flat = prompt(words=[Word("a", 0.0, (1,), (0, 1))])
    assert Page(render_token_page([empty, flat], title="t")).words == ["a"]
    assert top_words(empty) == []


def test_many_prompts_keep_their_order_and_the_page_stays_small():
    text = render_token_page([prompt(name=f"p{i}") for i in range(500)], title="t")
    names = re.findall(r"<h2><bdi>(p\d+)</bdi></h2>", text)
    assert names == [f"p{i}" for i in range(500)]
    assert len(text) < 1_000_000
