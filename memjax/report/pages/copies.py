"""The page, the table and the wall that show which generated images copy a training image."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup, escape

from memjax.data.images import load_image
from memjax.report.charts.image_grid import pairs_wall
from memjax.report.files import csv_text
from memjax.report.pages.base import page_environment
from memjax.report.pages.dataset import data_uri
from memjax.report.wording import decimal, number
from memjax.runtime.json import dumps, text_bytes, to_plain
from memjax.studies.copies import Copies
from memjax.studies.copies.reading import ReadImages

PAGE, WALL, TABLE, SUMMARY = "index.html", "wall.png", "copies.csv", "copies.json"
SHOWN, SHOWN_WITHOUT_COPIES = 24, 8
_SIDE = 192  # pixels of a shown image
_LISTED = 20  # training images in the page; copies.json has all
_HELD_OUT = "held-out images"


class Pair(NamedTuple):
    """A generated image beside its nearest training image, as they are shown."""

    generated: str
    training: str
    images: tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s 3"]]
    calibrated: float
    is_copy: bool
    mirrored: bool
    note: str


def copies_files(found: Copies, *, title: str, made_by: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns everything ``memjax copies`` writes: file name → bytes.

    Args:
        found: What :func:`memjax.studies.copies.copies` found.
        title: Heading of the page.
        made_by: Versions, seed and what was asked for.
    """
    pairs = shown_pairs(found)
    summary = to_plain({**found.summary, "training_images": training_rows(found)}, digits=6)
    whole = {**summary, "made_by": to_plain(made_by)}
    text = dumps(whole, indent=2, sort_keys=True)
    return {
        WALL: wall(pairs),
        TABLE: text_bytes(csv_text(table(found), TABLE)),
        SUMMARY: text_bytes(f"{text}\n"),
        PAGE: text_bytes(page(summary, pairs, title=title, made_by=to_plain(made_by))),
    }


def shown_pairs(found: Copies) -> list[Pair]:
    """Returns one pair for each training image that came back; without any, the nearest pairs."""
    calibrated = found.chosen_values("calibrated")
    rows = [copied.copies[0] for copied in found.copied[:SHOWN]]
    if not rows:
        order = np.lexsort((np.arange(len(calibrated)), calibrated))
        known = order[np.isfinite(calibrated[order]) & (found.index[order] >= 0)]
        rows = known[:SHOWN_WITHOUT_COPIES].tolist()
    times = {copied.row: len(copied.copies) for copied in found.copied}
    return [_pair(found, row, times) for row in rows]


def _pair(found: Copies, row: int, times: Mapping[int, int]) -> Pair:
    near = int(found.index[row])
    notes, mirrored = [], bool(found.chosen_values("mirrored")[row])
    if found.exact[row]:
        notes.append("the same pixels")
    elif mirrored:
        notes.append("mirrored")
    if times.get(near, 0) > 1:
        notes.append(f"copied {number(times[near])} times")
    if found.owner is not None and found.owner[near]:
        notes.append(f"patient {found.owner[near]}")
    return Pair(
        found.generated.place(row),
        found.training.place(near),
        (_shown(found.generated, row), _shown(found.training, near)),
        float(found.chosen_values("calibrated")[row]),
        bool(found.is_copy[row]),
        mirrored,
        ", ".join(notes),
    )


def _shown(read: ReadImages, row: int) -> np.ndarray:
    return load_image(read.path(row), _SIDE, 3)


def wall(pairs: Sequence[Pair]) -> bytes:
    """Returns the pairs as one PNG: generated above nearest training image and their difference.

    The training image of a mirrored copy is shown mirrored, so that they lie on each other.
    """
    near = [p.images[1][:, ::-1] if p.mirrored else p.images[1] for p in pairs]
    sides = [
        np.stack(x).astype(np.float32) / 127.5 - 1 for x in ([p.images[0] for p in pairs], near)
    ]
    captions = [f"{p.generated} ← {p.training}{f' ({p.note})' if p.note else ''}" for p in pairs]
    return pairs_wall(
        sides[0],
        sides[1],
        captions=captions,
        ratios=[p.calibrated for p in pairs],
        copies=[p.is_copy for p in pairs],
    )


def table(found: Copies) -> dict[str, list[Any]]:
    """Returns one row a generated image, by name; those that could not be read say why."""
    read = found.generated
    columns = _columns(found)
    place = {int(number): row for row, number in enumerate(read.number)}
    names = read.folder.places
    rows = [place.get(i) for i in range(len(names))]
    out: dict[str, list[Any]] = {"generated": list(names)}
    out |= {
        name: [None if row is None else values[row] for row in rows]
        for name, values in columns.items()
    }
    return out | {"problem": [read.problems.get(name, "") for name in names]}


def _columns(found: Copies) -> dict[str, list[Any]]:
    known = [int(i) if i >= 0 else None for i in found.index]
    places = ["" if i is None else found.training.place(i) for i in known]
    columns: dict[str, list[Any]] = {
        "copy": found.is_copy.tolist(),
        "nearest training image": places,
    }
    if found.owner is not None:
        columns["patient"] = ["" if i is None else found.owner[i] for i in known]
    columns["times in training"] = [None if i is None else int(found.times[i]) for i in known]
    columns["same pixels"] = found.exact.tolist()
    for item in found.comparisons:
        match = item.generated
        near = [found.training.place(int(i)) if i >= 0 else "" for i in match.index]
        columns[f"{item.name}: nearest"] = near
        columns[f"{item.name}: distance (0 to 2)"] = match.distance.tolist()
        columns[f"{item.name}: calibrated distance"] = match.calibrated.tolist()
        columns[f"{item.name}: nearest over second nearest"] = match.third.tolist()
        columns[f"{item.name}: mirrored"] = match.mirrored.tolist()
    return columns


def training_rows(found: Copies) -> list[dict[str, Any]]:
    """Returns the training images that came back, the most often copied first."""
    calibrated = found.chosen_values("calibrated")
    rows = []
    for copied in found.copied:
        row = {
            "training": found.training.place(copied.row),
            "times_in_training": int(found.times[copied.row]),
            "copies": len(copied.copies),
            "calibrated_distance": float(calibrated[copied.copies[0]]),
            "generated": [found.generated.place(i) for i in copied.copies[:10]],
        }
        if found.owner is not None:
            row["patient"] = str(found.owner[copied.row])
        rows.append(row)
    return rows


def page(
    summary: Mapping[str, Any], pairs: Sequence[Pair], *, title: str, made_by: Mapping[str, Any]
) -> str:
    """Returns the page; every text is escaped and every image is inside it."""
    environment = page_environment()
    environment.filters["flags"] = _unbroken
    environment.globals |= {"picture": data_uri, "share": share, "of": counted}
    return environment.get_template("copies.html.j2").render(
        r=summary,
        title=title,
        pairs=pairs,
        answer=answer(summary),
        actions=actions(summary),
        back=background_words(summary),
        listed=_LISTED,
        made_by=dumps(made_by, indent=2, sort_keys=True),
        names={"table": TABLE, "summary": SUMMARY, "wall": WALL},
    )


def _unbroken(text: str) -> Markup:
    """Escapes text and keeps ``--flag=VALUE`` on one line."""
    return Markup(re.sub(r"--\w+=\w+", r"<code>\g<0></code>", str(escape(text))))


def share(figures: Mapping[str, Any]) -> str:
    """Returns a rate with its interval, one decimal; or that none is claimed."""
    if figures.get("rate") is None:
        return "no rate claimed"
    return f"{_percent(figures['rate'])} ({interval_text(figures)})"


def interval_text(figures: Mapping[str, Any]) -> str:
    """Returns "low–high %" of a rate."""
    low, high = (100 * figures[f"rate_{end}"] for end in ("low", "high"))
    return f"{decimal(low, 1)}–{decimal(high, 1)}\N{NO-BREAK SPACE}%"


def _percent(rate: float) -> str:
    return f"{decimal(100 * rate, 1)}\N{NO-BREAK SPACE}%"


def counted(figures: Mapping[str, Any]) -> str:
    """Returns "3 of 2,000"."""
    return f"{number(figures['num'])} of {number(figures['of'])}"


def background_words(summary: Mapping[str, Any]) -> str:
    """Returns what the background is called."""
    if summary["background"]["kind"] == "held_out":
        return _HELD_OUT
    return "training images against the others"


def answer(summary: Mapping[str, Any]) -> list[str]:
    """Returns the first screen's sentences: does it copy, by chance, whose images."""
    copied, back = summary["copies"], summary["background"]
    what = {
        "found": "Yes, it copies.",
        "clear": "No copy was found.",
        "unclear": "Some images look like copies, but hardly more than by chance.",
        "too_few": "There are too few images to say how often it copies.",
    }[summary["verdict"]]
    rate = "" if copied["rate"] is None else f", {share(copied)}"
    exact = f"; {number(copied['exact'])} have the same pixels" if copied["exact"] else ""
    sentences = [
        what,
        f"{counted(copied)} generated images count as copies of a training image{rate}{exact}.",
        _by_chance(summary, back),
    ]
    images = summary["copied_images"]
    if images["num"]:
        who = summary["copied_patients"]
        of = "" if who is None else f", of {counted(who)} patients"
        sentences.append(f"They come from {counted(images)} different training images{of}.")
    return sentences


def _by_chance(summary: Mapping[str, Any], back: Mapping[str, Any]) -> str:
    if not back["of"]:
        return "There is no background to say how often that happens by chance."
    if back["rate"] is None:
        return (
            f"By the same rule {counted(back)} {background_words(summary)} do: too few for a rate."
        )
    return f"By the same rule {counted(back)} {background_words(summary)} do: {share(back)}."


def actions(summary: Mapping[str, Any]) -> list[str]:
    """Returns what to do now."""
    return [*_about_copies(summary), *_about_rates(summary)]


def _about_copies(summary: Mapping[str, Any]) -> list[str]:
    repeats, todo = summary["duplicates"], []
    if summary["copied_images"]["num"]:
        todo += [
            f"Look at the pairs below and at {TABLE}; do not publish the images marked as copies.",
            "Take the training images named below out of the training set, or repeats of them, "
            "and train again; or mitigate the model (memjax mitigate).",
        ]
        if summary["copied_patients"] is not None:
            todo.append("Near-copies of a patient's image are that patient's data: treat them so.")
    if repeats["repeated_contents"]:
        todo.append("The training set holds repeats, the commonest cause of copying: remove them.")
    elif repeats["near_groups"]:
        todo.append("Look at the nearly equal training images listed below: repeats cause copying.")
    return todo


def _about_rates(summary: Mapping[str, Any]) -> list[str]:
    """What would make the answer firmer."""
    least, copied, todo = summary["minimum"], summary["copies"], []
    if copied["of"] < least["generated"]:
        todo.append(f"Generate at least {least['generated']} images, better 1,000, to have a rate.")
    elif copied["rate"] is None:
        todo.append(f"Give at least {least['training']} different training images to have a rate.")
    elif not copied["num"]:
        todo.append(
            f"The rate is below {_percent(copied['rate_high'])} for images made like these; other "
            "prompts may copy more."
        )
    if summary["background"]["kind"] != "held_out":
        todo.append("Give images that were never trained on (--held_out=DIR) to compare with.")
    elif summary["background"]["of"] < least["background"]:
        todo.append(f"Give at least {least['background']} held-out images.")
    if len(summary["comparisons"]) == 1:
        todo.append(
            "Turned, cropped or redrawn copies are not seen by pixels: run it again with a network "
            "made for copies (--sscd=FILE)."
        )
    return todo


def printed(summary: Mapping[str, Any]) -> list[str]:
    """Returns the lines that the command prints."""
    skipped = sum(len(part["unreadable"]) for part in summary["files"].values())
    lines = answer(summary)
    if skipped:
        lines.append(f"{number(skipped)} files could not be read and were skipped; they are named.")
    return lines
