"""One HTML page that shows each prompt with its words shaded by how much they drive the copying."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from memjax.explain.words import Word
from memjax.report.pages.base import page_environment

_DEEPEST = 0.8  # opacity of the darkest shade: dark text stays readable on it
_LISTED = 5
_PULL = "the magnitude ‖ε(c) − ε(∅)‖"
_MEASURES = {  # of memjax.explain.ATTRIBUTIONS
    "grad_norm": f"the length of the gradient of {_PULL} in the word's tokens (Wen et al. 2024, "
    "Eq. 4)",
    "grad_x_input": f"the gradient of {_PULL} in the word's tokens, times the tokens themselves",
    "integrated": f"the gradient of {_PULL} on the way from nothing to the word's tokens, times "
    "the tokens themselves",
}


class Explained(NamedTuple):
    """One prompt of the page.

    Attributes:
        name: Its id.
        caption: Its text in normal form C, or None for a prompt of labels.
        words: Its words, with spans where the caption is known.
        shares: Share of the weight in the words, BOS, EOS and padding.
        tokens_cut: How many tokens were cut off the caption's end.
    """

    name: str
    caption: str | None
    words: Sequence[Word]
    shares: Mapping[str, float]
    tokens_cut: int = 0


class Segment(NamedTuple):
    """A stretch of the shown text: shaded by ``alpha`` in [0, 0.8], or ``cut`` off."""

    text: str
    alpha: float = 0.0
    share: float | None = None
    cut: bool = False


def render_token_page(
    prompts: Sequence[Explained],
    *,
    title: str,
    attribution: str = "grad_norm",
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Returns the page; every text is escaped, and nothing outside it is loaded.

    Args:
        prompts: In the order shown.
        title: Heading.
        attribution: How the weights were made; one of :data:`memjax.explain.ATTRIBUTIONS`.
        facts: What made it, name → text or number.
    """
    entries = [
        {
            "name": _visible(p.name),
            "segments": segments(p),
            "top": top_words(p),
            "shares": p.shares,
            "tokens_cut": p.tokens_cut,
            "is_text": p.caption is not None,
        }
        for p in prompts
    ]
    shown = {name: _visible(v) if isinstance(v, str) else v for name, v in (facts or {}).items()}
    return (
        page_environment()
        .get_template("token_page.html.j2")
        .render(
            prompts=entries,
            title=_visible(title),
            measure=_MEASURES[attribution],
            facts=shown,
        )
    )


def top_words(prompt: Explained, most: int = _LISTED) -> list[tuple[str, float]]:
    """Returns the words of most weight, with their share of the words' total."""
    total = sum(w.weight for w in prompt.words) or 1.0
    order = sorted(prompt.words, key=lambda w: -w.weight)[:most]
    return [(_short(_visible(w.text)), w.weight / total) for w in order]


def segments(prompt: Explained) -> list[Segment]:
    """Cuts the shown text into shaded words and what stands between them.

    A shade is relative to the heaviest word of the same prompt.
    """
    top = max((w.weight for w in prompt.words), default=0.0) or 1.0
    total = sum(w.weight for w in prompt.words) or 1.0

    def shaded(word: Word) -> Segment:
        return Segment(
            _visible(word.text), round(_DEEPEST * word.weight / top, 3), word.weight / total
        )

    caption = prompt.caption
    if caption is None or any(w.span is None for w in prompt.words):
        return [shaded(word) for word in prompt.words]
    found, at = [], 0
    for word in prompt.words:
        start, end = word.span or (at, at)
        if start > at:
            found.append(Segment(_visible(caption[at:start])))
        found.append(shaded(word))
        at = end
    if caption[at:]:
        found.append(Segment(_visible(caption[at:]), cut=bool(prompt.tokens_cut)))
    return found


def _short(text: str, width: int = 32) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _visible(text: str) -> str:
    """Shows control signs, and those that turn the direction of text, as a box."""
    return "".join(
        "␣" if c in "\t\n" else "□" if unicodedata.category(c) == "Cc" or c in _TURNING else c
        for c in text
    )


_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
