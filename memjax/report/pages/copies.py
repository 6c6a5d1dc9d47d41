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
from memjax.report.pages.copies_text import (
    SUMMARY,
    TABLE,
    actions,
    answer,
    background_words,
    by_chance,
    certainties,
    counted,
    share,
)
from memjax.report.pages.dataset import data_uri
from memjax.report.wording import number
from memjax.runtime.json import dumps, text_bytes, to_plain
from memjax.studies.copies import Copies
from memjax.studies.copies.reading import ReadImages

PAGE, WALL = "index.html", "wall.png"
SHOWN, SHOWN_WITHOUT_COPIES = 24, 8
_SIDE = 192  # pixels of a shown image
_CERTAINTY = {
    "same pixels": "the same pixels",
    "nearly the same": "nearly the same",
    "alike": "alike: look for yourself",
}
_LISTED = 20  # training images in the page; copies.json has all


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
    if found.is_copy[row]:
        notes.append(_CERTAINTY[found.certainty(row)])
    if mirrored and not found.exact[row]:
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
        "certainty": [found.certainty(row) for row in range(len(found.is_copy))],
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
            "certainty": found.certainty(copied.copies[0]),
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
    environment.globals |= {"shown": data_uri, "share": share, "of": counted}
    return environment.get_template("copies.html.j2").render(
        r=summary,
        title=title,
        pairs=pairs,
        answer=answer(summary),
        actions=actions(summary),
        back=background_words(summary),
        chance=by_chance(summary),
        certain=certainties(summary),
        listed=_LISTED,
        made_by=dumps(made_by, indent=2, sort_keys=True),
        names={"table": TABLE, "summary": SUMMARY, "wall": WALL},
    )


def _unbroken(text: str) -> Markup:
    """Escapes text and keeps ``--flag=VALUE`` on one line."""
    return Markup(re.sub(r"--\w+=\w+", r"<code>\g<0></code>", str(escape(text))))
