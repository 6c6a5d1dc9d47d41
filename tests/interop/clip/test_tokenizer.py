"""Prompts → ids and words, in both file layouts, against a byte-pair encoder written out here."""

import json

import numpy as np
import pytest

from memjax.interop.clip.tiny_tokenizer import WORDS, split_word, tiny_tokenizer, word_merges
from memjax.interop.clip.tokenizer import load_tokenizer

TEXTS = ["a cat", "", "A  Red\tCIRCLE on zebras!", "x" * 100, "Ünï 🙂 12", "<|endoftext|> dog"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def test_rows_begin_end_and_are_padded(tokenizer):
    ids, cut = tokenizer.encode(TEXTS)
    start, end = len(tokenizer) - 2, len(tokenizer) - 1
    assert ids.shape == (len(TEXTS), 77)
    assert ids.dtype == np.int32
    assert (ids[:, 0] == start).all()
    np.testing.assert_array_equal(ids[1], [start, *[end] * 76])
    assert ids[3, -1] == end
    assert ids[3, -2] != end
    np.testing.assert_array_equal(cut, [0, 0, 0, 25, 0, 0])
    lengths = tokenizer.lengths(ids)
    np.testing.assert_array_equal(lengths[[0, 1, 3, 5]], [4, 2, 77, 2])  # the last by its first end
    assert [tokenizer.words(text).index("EOS") + 1 for text in TEXTS[:5]] == lengths[:5].tolist()


def test_pieces_are_those_of_byte_pair_encoding(tokenizer):
    ranks = {pair: rank for rank, pair in enumerate(word_merges(WORDS))}
    text = "zebras on photos"
    expected = [piece.removesuffix("</w>") for w in text.split() for piece in split_word(w, ranks)]
    assert tokenizer.words(text)[1 : 1 + len(expected)] == expected
    assert len(expected) > 3  # words that are not in the list fall apart


def test_every_listed_word_is_one_token(tokenizer):
    for word in WORDS:
        assert tokenizer.words(word)[:3] == ["BOS", word, "EOS"]


def test_words_name_every_position(tokenizer):
    assert tokenizer.words("A photo of THE cat!")[:9] == [
        *("BOS", "a", "photo", "of", "the", "cat", "!", "EOS", "PAD")
    ]
    assert tokenizer.words("") == ["BOS", "EOS", *["PAD"] * 75]
    assert tokenizer.words("🙂")[1:5] == ["<f0>", "<9f>", "<99>", "<82>"]
    long = tokenizer.words("y" * 100)
    assert (len(long), long[-1], long.count("y")) == (77, "EOS", 75)


def test_padding_of_stable_diffusion_2_is_told_from_the_text():
    tokenizer = tiny_tokenizer(pad_token="!")
    ids, _ = tokenizer.encode(["a !"])
    assert list(ids[0, 4:]) == [tokenizer.special_ids["pad_token_id"]] * 73
    assert tokenizer.words("a !")[:5] == ["BOS", "a", "!", "EOS", "PAD"]


def test_no_texts_and_a_bare_text(tokenizer):
    assert tokenizer.encode([]).ids.shape == (0, 77)
    with pytest.raises(ValueError, match=r"write \[text\]"):
        tokenizer.encode("a cat")


@pytest.mark.parametrize("layout", ["one file", "two files"])
@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_both_layouts_give_the_same(tmp_path, layout, pad):
    tokenizer = tiny_tokenizer(pad_token=pad)
    tokenizer.save(tmp_path)
    for name in ("vocab.json", "merges.txt") if layout == "one file" else ("tokenizer.json",):
        (tmp_path / name).unlink()
    again = load_tokenizer(tmp_path)
    np.testing.assert_array_equal(again.encode(TEXTS).ids, tokenizer.encode(TEXTS).ids)
    assert [again.words(text) for text in TEXTS] == [tokenizer.words(text) for text in TEXTS]
    assert len(again) == len(tokenizer)


def test_older_files(tmp_path):
    """Special tokens in a file of their own, as objects; no length; merges as texts."""
    tokenizer = tiny_tokenizer(pad_token="!")
    tokenizer.save(tmp_path)
    (tmp_path / "vocab.json").unlink()
    one = json.loads((tmp_path / "tokenizer.json").read_text())
    one["model"]["merges"] = [" ".join(pair) for pair in one["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(one))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    special = {"pad_token": {"content": "!", "lstrip": False}, "bos_token": "<|startoftext|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    again = load_tokenizer(tmp_path)
    assert again.max_length == 77
    np.testing.assert_array_equal(again.encode(TEXTS).ids, tokenizer.encode(TEXTS).ids)


PADS_WITH_END = {"pad_token": "<|endoftext|>", "model_max_length": 77}
PADS_WITH_ZERO = {"pad_token": "!", "eos_token": {"content": "<|endoftext|>", "normalized": True}}
LISTED = {"0": {"content": "!", "normalized": False, "special": True}}


def write_older(folder, config, special=None):
    """A folder as older libraries write it: its vocabulary in two files."""
    tiny_tokenizer().save(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if special is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


@pytest.mark.parametrize(
    ("config", "special", "pad", "mark"),
    [
        # As Stable Diffusion 2 was published: the two files differ.
        (PADS_WITH_END, PADS_WITH_ZERO, "!", "!"),
        (PADS_WITH_END, None, "<|endoftext|>", "!</w>"),
        # As saved since: the first file lists the added tokens, and counts alone.
        ({**PADS_WITH_END, "added_tokens_decoder": {}}, PADS_WITH_ZERO, "<|endoftext|>", "!</w>"),
        ({**PADS_WITH_END, "added_tokens_decoder": LISTED}, None, "<|endoftext|>", "!"),
        ({**PADS_WITH_END, "pad_token": "!", "added_tokens_decoder": LISTED}, None, "!", "!"),
    ],
)
def test_special_tokens_are_those_of_transformers(tmp_path, config, special, pad, mark):
    vocab = tiny_tokenizer()._parts.vocab
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    expected = [start, vocab["a</w>"], vocab["cat</w>"], vocab[mark], end, *[vocab[pad]] * 72]
    tokenizer = load_tokenizer(write_older(tmp_path / "older", config, special))
    np.testing.assert_array_equal(tokenizer.encode(["a cat!"]).ids[0], expected)
    assert tokenizer.special_ids["pad_token_id"] == vocab[pad]
    tokenizer.save(tmp_path / "copy")
    saved = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert saved["pad_token"] == pad
    again = load_tokenizer(tmp_path / "copy")
    np.testing.assert_array_equal(again.encode(["a cat!"]).ids[0], expected)


def test_the_one_file_lists_added_tokens_beside_the_two(tmp_path):
    """``"!"`` is one although it no longer pads."""
    tiny_tokenizer(pad_token="!").save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(PADS_WITH_END))
    end = len(tiny_tokenizer()) - 1
    row = load_tokenizer(tmp_path).encode(["a!"]).ids[0]
    np.testing.assert_array_equal(row[2:], [0, *[end] * 74])


def test_special_tokens_without_a_name_are_not_split(tmp_path):
    first = len(tiny_tokenizer())
    special = {"additional_special_tokens": ["<dog>"], "pad_token": "[PAD]"}
    tokenizer = load_tokenizer(write_older(tmp_path / "older", {}, special))
    assert list(tokenizer.encode(["<dog>"]).ids[0, 1:4]) == [first + 1, first - 1, first]
    tokenizer.save(tmp_path / "copy")
    again = load_tokenizer(tmp_path / "copy")
    assert list(again.encode(["<dog>"]).ids[0, 1:4]) == [first + 1, first - 1, first]


@pytest.mark.parametrize("place", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_keep_their_ids(tmp_path, place):
    tokenizer = tiny_tokenizer()
    tokenizer.save(tmp_path)
    first = len(tokenizer)
    added = {"<new-dog>": first, "<new-cat>": first + 1}
    if place == "added_tokens.json":
        (tmp_path / place).write_text(json.dumps(added))
    else:
        decoder = {str(number): {"content": text} for text, number in added.items()}
        (tmp_path / place).write_text(json.dumps({"added_tokens_decoder": decoder}))
    again = load_tokenizer(tmp_path)
    assert list(again.encode(["a <new-cat>"]).ids[0, 2:4]) == [first + 1, first - 1]
    assert again.words("a <new-cat>")[2] == "<new-cat>"
    again.save(tmp_path / "copy")
    third = load_tokenizer(tmp_path / "copy")
    np.testing.assert_array_equal(
        third.encode(["<new-dog> <new-cat>"]).ids, again.encode(["<new-dog> <new-cat>"]).ids
    )


@pytest.mark.parametrize(
    ("file", "settings", "name"),
    [
        ("tokenizer_config.json", {"padding_side": "left"}, "padding_side='left'"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side='left'"),
        ("tokenizer_config.json", {"split_special_tokens": True}, "split_special_tokens=True"),
        ("tokenizer.json", {"padding": {"direction": "Left"}}, "padding_side='left'"),
        ("tokenizer.json", {"truncation": {"direction": "Left"}}, "truncation_side='left'"),
    ],
)
def test_settings_that_transformers_obeys_are_not_passed_over(tmp_path, file, settings, name):
    tiny_tokenizer().save(tmp_path)
    found = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(found | settings))
    with pytest.raises(ValueError, match=f"has {name}, expected"):
        load_tokenizer(tmp_path)


def test_the_folder_above_names_the_one_below(tmp_path):
    tiny_tokenizer().save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match=r"its tokenizer is in .*/tokenizer: give that"):
        load_tokenizer(tmp_path)


def test_prompts_that_are_no_whole_text(tokenizer):
    with pytest.raises(ValueError, match=r"has half of a character at place 3 .* cut through") as e:
        tokenizer.encode(["a cat", "a \ud83d"])
    str(e.value).encode()
    with pytest.raises(ValueError, match="has half of a character"):
        tokenizer.words("\udc00")
    with pytest.raises(ValueError, match="A prompt is 3, expected a text"):
        tokenizer.encode([3])
