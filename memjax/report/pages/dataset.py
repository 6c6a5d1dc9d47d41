"""The page and the tables that show what a data set holds."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from memjax.data.labels.space import FINDINGS, POSITIVE
from memjax.data.records import Record
from memjax.data.statistics import HELD_OUT, STATE_COLUMNS, TRAIN
from memjax.report.wording import visible
from memjax.runtime.csv_text import csv_text
from memjax.runtime.json import dumps, to_plain

EXAMPLES = 5
_SHORT = {
    "No Finding": "No finding",
    "Enlarged Cardiomediastinum": "Enl. cardiomed.",
    "Cardiomegaly": "Cardiomegaly",
    "Lung Opacity": "Lung opacity",
    "Lung Lesion": "Lung lesion",
    "Pleural Effusion": "Pl. effusion",
    "Pleural Other": "Pleural other",
    "Support Devices": "Devices",
}


FILES = (
    "at_risk.csv",
    "conditions.csv",
    "cooccurrence.csv",
    "data.html",
    "data.json",
    "distributions.csv",
    "findings.csv",
    "near_duplicates.csv",
    "reading.csv",
    "problems.csv",
    "rows.csv",
)


def data_files(
    result: Mapping[str, Any],
    images: UInt8[np.ndarray, "n h w c"],
    records: Sequence[Record],
    *,
    title: str,
    made_by: Mapping[str, Any],
    seed: int = 0,
) -> dict[str, str]:
    """Everything ``memjax data`` writes: file name → text.

    Args:
        result: Of :func:`memjax.evaluate.dataset.survey.survey`.
        images: The images looked at.
        records: Their records.
        title: Heading of the page.
        made_by: Configuration, versions and seed.
        seed: Decides which examples are shown.

    Returns:
        ``data.html``, ``data.json`` and one CSV per table: :data:`FILES`.
    """
    plain = to_plain(result, digits=6)
    whole = {**{k: v for k, v in plain.items() if k != "rows"}, "made_by": to_plain(made_by)}
    return {
        **tables(plain),
        "data.json": dumps(whole, indent=2, sort_keys=True) + "\n",
        "data.html": page(
            plain, images, records, title=title, made_by=to_plain(made_by), seed=seed
        ),
    }


def page(
    result: Mapping[str, Any],
    images: UInt8[np.ndarray, "n h w c"],
    records: Sequence[Record],
    *,
    title: str,
    made_by: Mapping[str, Any],
    seed: int = 0,
) -> str:
    """The page; every text is escaped and every image is inside it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memjax.report"),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"picture": lambda row: data_uri(images[row]), "short": _short}
    environment.filters["share"] = lambda value: f"{100 * value:.1f} %"
    return environment.get_template("data.html.j2").render(
        r=result,
        title=title,
        made_by=dumps(made_by, indent=2, sort_keys=True),
        states=STATE_COLUMNS,
        train=TRAIN,
        held_out=HELD_OUT,
        examples=examples(records, seed=seed),
        captions=[caption(record) for record in records],
    )


def examples(
    records: Sequence[Record], *, most: int = EXAMPLES, seed: int = 0
) -> list[tuple[str, list[int]]]:
    """``(name, rows)`` per finding or class value: up to ``most`` rows, of different patients."""
    groups: dict[str, list[int]] = {}
    for row in np.random.default_rng([seed, 12]).permutation(len(records)):
        record = records[row]
        names = [n for n, s in zip(FINDINGS, record.findings, strict=True) if s == POSITIVE]
        for name in names + [f"{name} {value}" for name, value in record.classes]:
            rows = groups.setdefault(name, [])
            seen = {records[other].patient for other in rows}
            if len(rows) < most and (record.patient not in seen or not record.patient):
                rows.append(int(row))
    order = [name for name in FINDINGS if name in groups]
    order += sorted(name for name in groups if name not in FINDINGS)
    if not order:
        some = np.random.default_rng([seed, 13]).permutation(len(records))[: 4 * most]
        return [("Any", [int(row) for row in some])]
    return [(name, groups[name]) for name in order]


def caption(record: Record) -> str:
    """One short line under an image: view, sex, age; else the start of its own caption."""
    parts = [record.view or ("" if record.frontal else "lateral"), record.sex[:1]]
    parts += [str(record.age) if record.age else ""]
    text = " ".join(part for part in parts if part)
    return text or record.caption[:40]


def data_uri(image: UInt8[np.ndarray, "h w c"]) -> str:
    """The image as a PNG inside the page."""
    out = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _short(name: str) -> str:
    return _SHORT.get(name, name)


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """One CSV per table of the page."""
    names = result["cooccurrence"]["names"]
    pairs = zip(names, result["cooccurrence"]["counts"], strict=True)
    return {
        "findings.csv": _csv(("split", "finding", *STATE_COLUMNS), [
            (split, name, *(counts[state] for state in STATE_COLUMNS))
            for split, found in result["findings"].items() for name, counts in found.items()]),
        "cooccurrence.csv": _csv(("finding", *names), [(n, *row) for n, row in pairs]),
        "distributions.csv": _csv(("split", "what", "value", "rows"), _distributions(result)),
        "conditions.csv": _csv(("condition", "patients"), [
            (c["condition"], c["patients"]) for c in result["conditions"]["rarest"]]),
        "near_duplicates.csv": _csv(("group", "copies", *_PLACE), [
            (number, group["copies"], *(row[key] for key in _PLACE))
            for number, group in enumerate(result["duplicates"]["listed"], start=1)
            for row in group["members"]]),
        "at_risk.csv": _csv(("cause", "score", "reason", *_PLACE), [
            (risk["cause"], risk["score"], risk["reason"], *(risk[key] for key in _PLACE))
            for risk in result["at_risk"]]),
        "rows.csv": _csv((*_PLACE, *_ROW), [
            tuple(row[key] for key in (*_PLACE, *_ROW)) for row in result["rows"]]),
        "problems.csv": _csv(("kind", "count", "examples"), [
            (kind, count, "; ".join(result["problems"]["examples"][kind]))
            for kind, count in sorted(result["problems"]["counts"].items())]),
        "reading.csv": _csv(("what", "kind", "count", "examples"), _reading(result)),
    }  # fmt: skip


_PLACE = ("split", "number", "path", "patient", "study", "view", "sex", "age", "condition")
_ROW = ("group", "copies", "nearest_distance", "coverage_score")


def _distributions(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rows = [
        (split, what, value, count)
        for split, found in result["distributions"].items()
        for what, counts in found.items()
        for value, count in counts.items()
    ]
    return rows + [
        (split, name, value, count)
        for split, found in result["classes"].items()
        for name, counts in found.items()
        for value, count in counts.items()
    ]


def _reading(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    unread, negatives = result["unread"], result["negatives"]
    return [
        *(("bits a channel", bits, count, "") for bits, count in result["bit_depths"].items()),
        *(("read", kind, count, "") for kind, count in sorted(result["notes"].items())),
        *(
            ("not read", kind, count, "; ".join(unread["examples"][kind]))
            for kind, count in sorted(unread["counts"].items())
        ),
        *(("looks like a negative", row["path"], 1, "") for row in negatives),
    ]


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return csv_text([header, *rows])
