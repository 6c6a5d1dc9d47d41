"""Where each figure stands in the report, what one sees on it, and what that means."""

import base64
from collections.abc import Mapping
from typing import NamedTuple

from memjax.report.files import FOLDER, Table, file_names
from memjax.report.wording import Wording

_PIXELS_PER_CSS_PIXEL = 2  # the figures are drawn at 200 dots an inch


class Section(NamedTuple):
    """A figure's heading; ``caption``: what one sees; ``meaning``: what to make of it.

    ``{unit}``, ``{stranger}`` and ``{label}`` are filled in from the data's :class:`Wording`.
    """

    title: str
    caption: str
    meaning: str = ""


# Order here = order in the report. A key "tokens/anything" belongs to section "tokens".
SECTIONS: Mapping[str, Section] = {
    "wall": Section(
        "What it gave back, seen with one's own eyes",
        "Each column is one memorized prompt, the most similar pair first. Top: the image the "
        "model made. Middle: the training image closest to it. Bottom: where the two differ; "
        "black means no difference. An orange frame and the word COPY mark a copy.",
        "A black bottom image under a made-up {one} says that the model gave back a training "
        "{one} instead of making a new one.",
    ),
    "pairs": Section(
        "What it copied",
        "Top: an image the model made. Middle: the training image closest to it. Bottom: where "
        "the two differ; black means no difference. An orange frame marks a copy. The number is "
        "the distance to the closest training image, relative to the neighboring ones: at 1 or "
        "below, the image counts as a copy.",
    ),
    "wall_others": Section(
        "The same for other prompts",
        "Prompts whose image was not repeated in training, the most similar pair first.",
        "The closest training image should show {stranger}, and the bottom images should be "
        "bright.",
    ),
    "pairs_other": Section(
        "What other prompts give",
        "The same comparison for prompts whose image was not repeated in training. The closest "
        "training image should show {stranger}.",
    ),
    "similarity": Section(
        "What counts as a copy",
        "Distance of each image to its closest training image. Left of the dotted line it "
        "counts as a copy. Bar height is the share of the group's images.",
        "The {unit} that were never trained on show how often the rule is wrong by chance.",
    ),
    "scatter": Section(
        "Does the warning signal go along with likeness?",
        "Each mark is one generated image. The further right, the harder the prompt pulled "
        "while it was made; the higher, the more it is like its nearest training image. Color "
        "and shape give the kind of prompt. The small bars at the edges count each kind; above "
        "the dashed line an image counts as a copy.",
        "If the marks climb from lower left to upper right, a strong pull warns of a copy without "
        "looking at the training images. Spearman's number says how well the two orders agree: "
        "1 fully, 0 not at all.",
    ),
    "families": Section(
        "What the warning is compared with",
        "How well the signal tells memorized prompts from each kind of other prompt. A mark is "
        "the measured value, the line through it its 95 % range; the dotted line is a coin toss.",
        "Prompts that are nearly the same as a memorized one are the hardest to tell apart. A "
        "figure without its comparison says little.",
    ),
    "before_after": Section(
        "Before and after the repair",
        "The same starting noise without the repair and with it. Orange frames mark copies.",
        "A good repair no longer gives the training image but still shows what was asked for.",
    ),
    "paired": Section(
        "Likeness before and after, prompt by prompt",
        "Circles: likeness to the nearest training image before the repair. Squares, or the "
        "right ends of the lines: after it.",
        "The repair works where likeness falls below the copy line. A small p says that so many "
        "falls are hardly chance.",
    ),
    "arms": Section(
        "The repairs side by side",
        "One row a repair. Marks are measured values, lines through them 95 % ranges.",
        "A good repair stands far left on copies and far right on showing what was asked for.",
    ),
    "magnitude": Section(
        "The warning signal while an image is made",
        "How strongly the prompt pulls at each step, from pure noise (left) to the finished "
        "image (right). Lines are medians, bands hold the middle 80 % of prompts.",
        "The further apart the lines, the easier memorized prompts are to notice.",
    ),
    "roc": Section(
        "How reliable the warning is",
        "Each curve shows how many memorized prompts are found (up) for how many false alarms "
        "(right).",
        "The further a curve reaches into the top left corner, the better the signal separates "
        "memorized prompts from others.",
    ),
    "tokens": Section(
        "Which words bring the copy back",
        "How much each part of the prompt pulls the image towards the copy.",
        "Long bars at details that identify one image, such as a burned-in marker, show what to "
        "remove before training.",
    ),
}
MORE = "more"


class PageImage(NamedTuple):
    """One figure as the template needs it; ``data`` is the path of its CSV file or ""."""

    title: str
    subtitle: str
    caption: str
    meaning: str
    source: str
    width: int
    data: str


def placed(
    figures: Mapping[str, bytes],
    captions: Mapping[str, str],
    tables: Mapping[str, Table],
    words: Wording,
) -> dict[str, list[PageImage]]:
    """Section → its images as data URIs, in the report's order; unknown keys under "more"."""
    home: dict[str, list[PageImage]] = {name: [] for name in (*SECTIONS, MORE)}
    names = file_names(dict.fromkeys([*figures, *tables]))
    for key, png in figures.items():
        name, _, rest = key.partition("/")
        known = name in SECTIONS
        section = SECTIONS[name] if known else Section(key.replace("_", " ").capitalize(), "")
        caption, meaning = fill(section.caption, words), fill(section.meaning, words)
        if key in captions:
            caption, meaning = captions[key], ""
        home[name if known else MORE].append(
            PageImage(
                section.title,
                rest if known else "",
                caption,
                meaning,
                data_uri(png),
                width_of(png),
                f"{FOLDER}/{names[key]}.csv" if key in tables else "",
            )
        )
    return home


def fill(text: str, words: Wording) -> str:
    """Puts the data's words into a caption."""
    return text.format(**words._asdict(), one=words.unit.removesuffix("s"))


def data_uri(png: bytes) -> str:
    """Returns an image as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def width_of(png: bytes) -> int:
    """Returns the CSS pixels a figure is shown at."""
    return int.from_bytes(png[16:20], "big") // _PIXELS_PER_CSS_PIXEL
