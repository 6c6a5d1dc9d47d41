"""Pieces become words: joined where they belong together, found in the caption they come from."""

import math

import pytest

from memjax.explain.words import PADDING, SPECIAL, WORD, normal, shares, token_weights, words_of


def tokens_of(*pieces, pads=0):
    names = ["BOS", *pieces, "EOS", *["PAD"] * pads]
    return token_weights(names, [float(i + 1) for i in range(len(names))], text=True)


def texts(caption, *pieces):
    return [word.text for word in words_of(tokens_of(*pieces), caption)]


def test_kinds_tell_words_from_start_end_and_padding():
    tokens = tokens_of("a", "cat", "a", pads=2)
    assert [t.kind for t in tokens] == [SPECIAL, WORD, WORD, WORD, SPECIAL, PADDING, PADDING]
    assert [t.token for t in tokens].count("a") == 2  # a list: words repeat
    labels = token_weights(["BOS", "Edema: positive", "EOS"], [1.0, 2.0, 3.0], text=False)
    assert [t.kind for t in labels] == [SPECIAL, WORD, WORD]  # a label may be called anything


def test_names_and_weights_must_agree_in_number():
    with pytest.raises(ValueError, match="2 names and 1 weights"):
        token_weights(["BOS", "a"], [1.0], text=True)


def test_shares_add_up_and_keep_start_end_and_padding_apart():
    found = shares(tokens_of("a", "b", pads=2))  # weights 1..6
    assert found == pytest.approx(
        {"words": 5 / 21, "BOS": 1 / 21, "EOS": 4 / 21, "padding": 11 / 21}
    )
    assert shares(token_weights(["BOS", "a"], [0.0, 0.0], text=True))["words"] == 0.0


@pytest.mark.parametrize(
    ("caption", "pieces", "words"),
    [
        ("A Cat on the Mat.", ["a", "cat", "on", "the", "mat", "."], "A|Cat|on|the|Mat|."),
        ("Podcasting", ["pod", "casting"], "Podcasting"),
        ("Disney's best", ["disney", "'s", "best"], "Disney's|best"),
        ("don't 'quote'", ["don", "'t", "'", "quote", "'"], "don't|'|quote|'"),
        ("well-known - yes", ["well", "-", "known", "-", "yes"], "well-known|-|yes"),
        ("ab12cd", ["ab", "1", "2", "cd"], "ab12cd"),
        ("<b>hi</b>", ["<", "b", ">", "hi", "</", "b", ">"], "<|b|>|hi|</|b|>"),
        ("a\n\tb   c", ["a", "b", "c"], "a|b|c"),
        ("猫と犬", ["猫", "と", "犬"], "猫|と|犬"),
        ("שלום עולם", ["ש", "לום", "עולם"], "שלום|עולם"),
        ("hi 😀!", ["hi", "<f0 9f>", "<98 80>", "!"], "hi|😀|!"),
        ("👩‍🚀", ["<f0 9f 91>", "<a9>", "\u200d", "<f0 9f>", "<9a 80>"], "👩‍🚀"),
        ("É", ["é"], "É"),
    ],
)
def test_pieces_are_joined_into_the_words_that_were_written(caption, pieces, words):
    assert texts(normal(caption), *pieces) == words.split("|")


def test_a_words_weight_is_the_length_of_its_joint_gradient():
    word, other = words_of(tokens_of("pod", "cast", "one"), "podcast one")
    assert (word.weight, word.tokens, word.span) == (math.hypot(2, 3), (1, 2), (0, 7))
    assert (other.weight, other.tokens, other.span) == (4.0, (3,), (8, 11))


def test_a_caption_that_was_cut_gives_the_words_that_were_read():
    assert texts("one two three", "one", "tw") == ["one", "tw"]


def test_pieces_that_spell_something_else_stay_apart():
    words = words_of(tokens_of("sks", "dog"), "<my-concept> dog")
    assert [w.text for w in words] == ["sks", "dog"]
    assert all(w.span is None for w in words)


def test_labels_are_words_as_they_are():
    tokens = token_weights(["BOS", "View: AP", "Marker 1: K3"], [3.0, 2.0, 1.0], text=False)
    assert [w.text for w in words_of(tokens)] == ["View: AP", "Marker 1: K3"]


def test_what_a_real_tokenizer_gives_is_found_in_hostile_captions():
    from memjax.interop.clip.tiny_tokenizer import WORDS, tiny_tokenizer

    tokenizer = tiny_tokenizer(WORDS, pad_token="!")
    for caption in (
        "a photo of a cat",
        "<script>alert('x')</script> & \"quotes\"",
        "naïve café 😀😀 👨‍👩‍👧 zürich",
        "שלום مرحبا 价格 $5",
        "\u202eevil\u202c \x1b[31mred\x00",
        "tab\tand\nline\u2028end ",
        "x" * 300,
        "e\u0301 \u1e9b\u0323 ﬁ",
    ):
        text = normal(caption)
        names = tokenizer.words(caption)
        tokens = token_weights(names, [1.0] * len(names), text=True)
        words = words_of(tokens, text)
        assert all(w.span is not None for w in words), caption
        shown = "".join(w.text for w in words)
        read = "".join(text.split())
        assert "".join(shown.split()) == read[: len("".join(shown.split()))]
        if "EOS" in names[:-1]:  # nothing was cut: every sign is in a word
            assert "".join(shown.split()) == read
