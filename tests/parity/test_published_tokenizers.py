"""Ids of hundreds of prompts against transformers' own tokenizer: the real CLIP vocabulary with
the small files that published models have beside it."""

import itertools
import json

import numpy as np
import pytest

from memjax.interop.clip.tokenizer import load_tokenizer
from tests.parity.clip_vocabulary import write_vocabulary

transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

_WRITTEN = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
_TYPED = {"__type": "AddedToken"}
START, END = "<|startoftext|>", "<|endoftext|>"
LONG = {"bos_token": {"content": START} | _WRITTEN, "eos_token": {"content": END} | _WRITTEN}
LONG |= {"unk_token": LONG["eos_token"]}
SHORT = {"bos_token": START, "eos_token": END, "unk_token": END}
# tokenizer_config.json of 2022: every published model's, but for its name.
CONFIG = {
    "add_prefix_space": False,
    **{name: _TYPED | value for name, value in LONG.items()},
    "do_lower_case": True,
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": END,
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
}


def _decoder(*extra: tuple[str, dict], special: bool = True) -> dict:
    """``added_tokens_decoder`` as transformers writes it since 2023."""
    found = {
        "49406": {"content": START, **_WRITTEN, "special": special},
        "49407": {"content": END, **_WRITTEN, "normalized": False, "special": special},
    }
    return {**dict(extra), **found}


_MARK = {"content": "!", **_WRITTEN, "normalized": False, "special": True}
_NEW = {"content": "<cat-toy>", **_WRITTEN, "special": False}
_LATER = {"clean_up_tokenization_spaces": True, "do_lower_case": True, "errors": "replace"}
_LATER |= {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **SHORT}

PUBLISHED = {
    "CompVis/stable-diffusion-v1-4": {
        "tokenizer_config": CONFIG | {"name_or_path": "openai/clip-vit-large-patch14"},
        "special_tokens_map": LONG | {"pad_token": END},
    },
    "runwayml/stable-diffusion-v1-5": {
        "tokenizer_config": CONFIG | {"name_or_path": "openai/clip-vit-large-patch14"},
        "special_tokens_map": LONG | {"pad_token": END},
    },
    "stabilityai/stable-diffusion-2-1": {
        "tokenizer_config": CONFIG
        | {"name_or_path": "hf-models/stable-diffusion-v2-768x768/tokenizer"},
        "special_tokens_map": LONG | {"pad_token": "!"},
    },
    "stabilityai/stable-diffusion-2-1-base": {
        "tokenizer_config": CONFIG
        | {"name_or_path": "hf-models/stable-diffusion-v2-base/tokenizer"},
        "special_tokens_map": LONG | {"pad_token": "!"},
    },
    # Fine-tunes: of 1.5 without the second file; 2.x as saved again later (sd-turbo); with a
    # decoder, the map and added_tokens.json (sdxl_dpo_turbo); a material model of 1.5;
    # a textual inversion before and after added_tokens_decoder.
    "AdamOswald/Tardis-fusion": {"tokenizer_config": CONFIG},
    "saved again with '!' listed": {
        "tokenizer_config": _LATER
        | {"pad_token": "!", "added_tokens_decoder": _decoder(("0", _MARK))},
        "special_tokens_map": LONG | {"pad_token": _MARK | {"special": None}},
    },
    "tokenizer_2 of a turbo fine-tune": {
        "tokenizer_config": _LATER
        | {"pad_token": "!", "additional_special_tokens": []}
        | {"added_tokens_decoder": _decoder(("0", _MARK), special=False)},
        "special_tokens_map": SHORT | {"pad_token": "!"},
        "added_tokens": {"!": 0, END: 49407, START: 49406},
    },
    "Joey-Jang/StableMaterials": {
        "tokenizer_config": _LATER | {"pad_token": END, "added_tokens_decoder": _decoder()},
        "special_tokens_map": LONG
        | dict.fromkeys(("eos_token", "pad_token"), {"content": END} | _WRITTEN)
        | {"unk_token": {"content": END} | _WRITTEN | {"normalized": False}},
    },
    "textual inversion of 2.1": {
        "tokenizer_config": CONFIG,
        "special_tokens_map": LONG | {"pad_token": "!"},
        "added_tokens": {"<cat-toy>": 49408},
    },
    "textual inversion saved later": {
        "tokenizer_config": _LATER
        | {"pad_token": END, "added_tokens_decoder": _decoder(("49408", _NEW))},
        "special_tokens_map": LONG | {"pad_token": END},
        "added_tokens": {"<cat-toy>": 49408},
    },
}

_BASES = (
    *("a cat!", "The no limits business woman podcast", "portrait of ANN GRAHAM LOTZ, 8k, f/1.8"),
    *("Mothers influence on her young hippo", "an x-ray: 3.5cm nodule (RUL), no effusion"),
    *("you're, don't, her's", "'s 't 're 've 'm 'll 'd", "(((masterpiece))), [best:0.8] {a|b}"),
    *(
        "👨‍👩‍👧‍👦 family 🏳️‍🌈 🇩🇪 ❤️",
        "café déjà vu",
        "cafe\u0301 de\u0301ja\u0300 vu",
        "ﬁne ﬀ ｆｕｌｌ ①",
    ),
    *(
        "&amp; &lt;b&gt; &quot;hi&quot; &#39; &eacute; <br/>",
        "שלום עולם",
        "مرحبا بالعالم",
        "قطة 12٣",
    ),
    *("\u202eright to left\u202c", "日本語のプロンプト、猫", "한국어 한국어", "नमस्ते दुनिया"),
    *("ไทย ภาษา", "İstanbul ISTANBUL ı ß ẞ ǅ", "Ωμέγα ΣΑΣ", "Ünï🙂12", "𝒻𝒶𝓃𝒸𝓎 𝕋𝕖𝕩𝕥"),
    *("a\x00b", "a\x07b\x1b[31m", "a\u200bb\u200d\ufeffc"),
    *(
        "a\tb\nc\r\nd\x0b\x0ce",
        "a\u00a0b\u2003c\u3000d\u2028e\u2029f\u0085g",
        " lead  and trail ",
        "",
    ),
    *(" ", "\n", "!", "!!", "a ! b!c", "!!! <cat-toy>!", "<cat-toy> <CAT-TOY> a<cat-toy>b"),
    *(
        END,
        START,
        f"{END} cat",
        f"a{START}b{END}c",
        "<|ENDOFTEXT|> <|Startoftext|>",
        "<|endoftext|",
    ),
    *("cat " * 120, "word, " * 74, "a" * 300, "🙂" * 80, "1" * 100, "http://a.b/c?d=e&f=g#h"),
)
_WAYS = (
    *(str, str.upper, str.title, "{}!".format, " {}\u3000".format, "<cat-toy> {}".format),
    *("\u201c{}\u201d \u2014 \u2026".format, "{0} <|endoftext|> {0}".format),
)


def _drawn(count: int) -> list[str]:
    """Texts of characters from the whole of Unicode, each from few blocks, and spaces."""
    rng = np.random.default_rng(0)
    blocks = [(0x20, 0x7F), (0, 0x100), (0x300, 0x600), (0x2000, 0x2700), (0x1F300, 0x1FB00)]
    blocks += [(0x600, 0x1000), (0x3000, 0xD7FF), (0xE000, 0x10000), (0x10000, 0x30000)]
    texts = []
    for _ in range(count):
        chosen = [blocks[k] for k in rng.integers(len(blocks), size=2)]
        points = np.concatenate([rng.integers(*block, size=12) for block in chosen])
        texts.append(
            " ".join("".join(map(chr, part)) for part in rng.permutation(points).reshape(6, 4))
        )
    return texts


PROMPTS = [way(text) for way, text in itertools.product(_WAYS, _BASES)]
PROMPTS = list(dict.fromkeys([*PROMPTS, *_drawn(200)]))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "tokenizer"
    write_vocabulary(folder)
    return folder


def _write(folder, vocabulary, name: str) -> None:
    folder.mkdir()
    for file in vocabulary.iterdir():
        (folder / file.name).symlink_to(file)
    for file, value in PUBLISHED[name].items():
        (folder / f"{file}.json").write_text(json.dumps(value))


def _theirs(folder) -> np.ndarray:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    options = {"padding": "max_length", "max_length": 77, "truncation": True}
    return np.asarray(tokenizer(PROMPTS, **options)["input_ids"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_prompt_gets_other_ids(tmp_path, vocabulary, name):
    assert len(PROMPTS) > 500
    folder = tmp_path / "tokenizer"
    _write(folder, vocabulary, name)
    ours, expected = load_tokenizer(folder), _theirs(folder)
    rows = (ours.encode(PROMPTS).ids != expected).any(axis=1)
    differing = [text for text, differs in zip(PROMPTS, rows, strict=True) if differs]
    assert differing == []
    ours.save(tmp_path / "copy")
    np.testing.assert_array_equal(_theirs(tmp_path / "copy"), expected)
    copied = load_tokenizer(tmp_path / "copy").encode(PROMPTS).ids
    np.testing.assert_array_equal(copied, expected)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        # Measured with transformers 4.46.3 and 5.24.0, slow and fast.
        ("stabilityai/stable-diffusion-2-1", [49406, 320, 2368, 0, 49407, *[0] * 72]),
        ("CompVis/stable-diffusion-v1-4", [49406, 320, 2368, 256, *[49407] * 73]),
    ],
)
def test_ids_of_a_prompt(tmp_path, vocabulary, name, ids):
    _write(tmp_path / "tokenizer", vocabulary, name)
    assert load_tokenizer(tmp_path / "tokenizer").encode(["a cat!"]).ids[0].tolist() == ids
