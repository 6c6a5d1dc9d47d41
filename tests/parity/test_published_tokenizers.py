"""Ids of hundreds of prompts against transformers' own tokenizer: the real CLIP vocabulary with
the small files that published models have beside it."""

import itertools

import numpy as np
import pytest

from memjax.interop.clip.tokenizer import load_tokenizer
from tests.parity.published_tokenizers import END, PUBLISHED, START, write, write_vocabulary

transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

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


def _theirs(folder) -> np.ndarray:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    options = {"padding": "max_length", "max_length": 77, "truncation": True}
    return np.asarray(tokenizer(PROMPTS, **options)["input_ids"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_prompt_gets_other_ids(tmp_path, vocabulary, name):
    assert len(PROMPTS) > 500
    folder = tmp_path / "tokenizer"
    write(folder, vocabulary, name)
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
    write(tmp_path / "tokenizer", vocabulary, name)
    assert load_tokenizer(tmp_path / "tokenizer").encode(["a cat!"]).ids[0].tolist() == ids
