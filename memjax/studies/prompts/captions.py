"""Captioned images as an audit's gallery, and prompts of known families in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from memjax.data.duplication import content_groups, first_of_group
from memjax.data.records import Record
from memjax.studies.prompts.classes import NONE
from memjax.studies.prompts.draw import (
    HELD_OUT,
    LOUDEST,
    MEMORIZED,
    NEAR_MISS,
    ONCE,
    RANDOM,
    Candidates,
    Gallery,
    PromptCounts,
    Prompts,
    candidates,
)


def caption_gallery(
    train: Sequence[Record],
    train_images: UInt8[np.ndarray, "n h w c"],
    held: Sequence[Record],
    held_images: UInt8[np.ndarray, "m h w c"],
) -> tuple[Gallery, list[Record]]:
    """Returns real images without exact duplicates, and the record that stands for each row.

    An image's copies are its files with the same pixels, each counted as often as its record's
    ``repeats`` says. Images stay bytes; there are no classes.
    """
    groups = content_groups(train_images)
    first = first_of_group(groups)
    repeats = np.asarray([record.repeats for record in train])
    gallery = Gallery(
        train=train_images[first],
        copies=np.bincount(groups, weights=repeats).astype(np.int64)[groups[first]],
        patients=np.asarray([train[i].patient for i in first]),
        held_out=held_images,
        held_patients=np.asarray([record.patient for record in held]),
        targets=_nothing(len(first)),
        held_targets=_nothing(len(held)),
        strata=np.full(len(first), NONE),
        held_strata=np.full(len(held), NONE),
        names=(),
    )
    return gallery, [train[i] for i in first]


def _nothing(rows: int) -> Int[np.ndarray, "n 0"]:
    return np.zeros((rows, 0), np.int32)


def caption_candidates(
    gallery: Gallery,
    kept: Sequence[Record],
    held: Sequence[Record],
    *,
    most: int,
    seed: int = 0,
) -> Candidates:
    """Returns the different captions; see :func:`memjax.studies.prompts.draw.candidates`."""

    def row_of(image: int, held_out: bool) -> dict[str, Any]:
        return {"caption": (held if held_out else kept)[image].caption}

    own, others = ([record.caption.casefold() for record in of] for of in (kept, held))
    return candidates(own, others, gallery.copies, row_of, most=most, seed=seed)


def choose_caption_prompts(
    gallery: Gallery,
    kept: Sequence[Record],
    held: Sequence[Record],
    counts: PromptCounts,
    *,
    memorized: Shaped[np.ndarray, " n"] | None = None,
    seed: int = 0,
    loudest: Sequence[int] = (),
) -> Prompts:
    """Draws the audit's prompts: captions of repeated, of once trained and of held-out images.

    Args:
        gallery: Of :func:`caption_gallery`.
        kept: The record of each gallery row.
        held: Held-out records.
        counts: Most prompts of each family; the memorized ones are the most repeated.
        memorized: Which gallery rows are memorized; None: those that are repeated.
        seed: Decides the draw of the others.
        loudest: Gallery rows whose captions have the highest scores, in their order.

    .. note:: No caption is taken twice: where a held-out image has the very caption of a repeated
        one, its prompt is the memorized prompt and no negative. A near miss has one word exchanged
        for a word of another caption; a random prompt's words are those of another caption,
        shuffled, or whole words of several captions.
    """
    rng = np.random.default_rng([seed, 83])
    known = gallery.copies >= counts.repeats if memorized is None else np.asarray(memorized, bool)
    order = np.flatnonzero(known)
    order = order[np.argsort(-gallery.copies[order], kind="stable")]
    taken: set[str] = set()
    captions = [record.caption for record in kept]
    own = _fresh(order.tolist(), captions, taken, counts.memorized)
    single = _fresh(rng.permutation(np.flatnonzero(~known)).tolist(), captions, taken, counts.once)
    others = [record.caption for record in held]
    strange = _fresh(rng.permutation(len(held)).tolist(), others, taken, counts.held_out)
    top = list(loudest)[: counts.loudest]
    loud = _fresh(top, captions, taken, len(top))
    taken |= {text.casefold() for text in captions}
    asked = [captions[i] for i in own]
    near = [one_word_changed(text, captions, rng) for text in asked[: counts.near_miss]]
    mixed = [shuffled_words(captions, rng, i) for i in range(counts.random)]
    families = {
        MEMORIZED: (asked, own),
        ONCE: ([captions[i] for i in single], single),
        HELD_OUT: ([others[i] for i in strange], None),
        NEAR_MISS: ([near[i] for i in _fresh(range(len(near)), near, taken, len(near))], None),
        RANDOM: ([mixed[i] for i in _fresh(range(len(mixed)), mixed, taken, len(mixed))], None),
        LOUDEST: ([captions[i] for i in loud], loud),
    }
    return prompts_of(families, [captions[i] for i in top])


def prompts_of(
    families: dict[str, tuple[list[str], list[int] | None]], loud: Sequence[str] = ()
) -> Prompts:
    """Returns prompts from captions by family, with the gallery rows of their own images.

    Args:
        families: Name → captions and gallery rows; None where there are none.
        loud: The captions of the highest scores.
    """
    rows: list[dict[str, Any]] = []
    group: list[int] = []
    for name, (captions, own) in families.items():
        group += own if own is not None else [-1] * len(captions)
        for caption in captions:
            rows.append({"id": f"{name}-{len(rows):03d}", "family": name, "caption": caption})
    return Prompts(
        rows,
        np.asarray([row["family"] for row in rows]),
        np.asarray(group, np.int64),
        _nothing(len(rows)),
        np.full(len(rows), NONE),
        np.ones(len(rows)),
        np.isin([row["caption"].casefold() for row in rows], [text.casefold() for text in loud]),
    )


def _fresh(order: Sequence[int], captions: Sequence[str], taken: set[str], most: int) -> list[int]:
    """The first rows whose caption is not taken yet; they take theirs. Sorted but for the first."""
    rows: list[int] = []
    for row in order:
        if len(rows) == most:
            break
        text = captions[row].casefold()
        if text and text not in taken:
            taken.add(text)
            rows.append(int(row))
    return rows


def one_word_changed(caption: str, pool: Sequence[str], rng: np.random.Generator) -> str:
    """Returns a caption with one word exchanged for a word of other captions that it lacks.

    Args:
        caption: The prompt.
        pool: Captions whose words may take its place.
        rng: Decides which word, and what takes its place.
    """
    words = caption.split()
    lacking = sorted({word for text in pool for word in text.split()} - set(words))
    if not words or not lacking:
        return caption
    words[int(rng.integers(len(words)))] = lacking[int(rng.integers(len(lacking)))]
    return " ".join(words)


def shuffled_words(pool: Sequence[str], rng: np.random.Generator, number: int) -> str:
    """Returns words in an order of their own: even ``number``: of one caption; odd: of several.

    Args:
        pool: Captions.
        rng: Decides the draw.
        number: Which of the two kinds.
    """
    words = pool[int(rng.integers(len(pool)))].split()
    if number % 2:
        every = [word for text in pool for word in text.split()]
        return " ".join(every[int(i)] for i in rng.integers(len(every), size=len(words)))
    return " ".join(words[int(i)] for i in rng.permutation(len(words)))
