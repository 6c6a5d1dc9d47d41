"""From matches to figures: rates with intervals, whose images came back, distributions."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from memjax.evaluate.dataset.survey import draw_rows
from memjax.evaluate.distribution.frechet import fd
from memjax.evaluate.distribution.summary import distribution_report
from memjax.evaluate.similarity.copy_rules import COPY_RATIO_ADAPTIVE, COPY_RATIO_THIRD
from memjax.evaluate.similarity.ladder import apply_ladder, calibrate_ladder, pixel_rungs
from memjax.evaluate.similarity.near_duplicates import Duplicates, find_duplicates
from memjax.evaluate.similarity.patients import dar_summary, memorized_patients
from memjax.evaluate.similarity.rungs import at_side
from memjax.evaluate.statistics.bootstrap import proportion_interval, with_interval
from memjax.studies.copies.search import Match

MIN_GENERATED = 20  # fewer give rows, no rate
MIN_TRAINING = 100  # fewer are no neighborhood of 50 to compare a distance with
MIN_BACKGROUND = 100  # fewer cannot show what 1 % of them reach
NEARLY_SAME = 3.0  # times nearer than a copy must be: what recompression or noise leaves
FALSE_COPIES = 1.0  # percent
DRAWN = 5_000  # training images that are compared with each other, and rows of distributions
_LADDER_PAIRS = 1_000_000
_LADDER_SIDE = 32
_REPLICATES, _MANY = 2_000, 100_000


class Rule(NamedTuple):
    """When an image counts as a copy by one comparison.

    Attributes:
        threshold: Largest calibrated distance of a copy.
        fitted: Whether the background lowered it below the published 1.
        near: Calibrated distance that 1 % of the background reaches; NaN where it is too small.
    """

    threshold: float
    fitted: bool
    near: float


def fit_rule(background: Float[np.ndarray, " m"], comparisons: int) -> Rule:
    """Returns ``min(1, the distance that 1 % of the background reaches)``.

    With several comparisons each may be wrong in 1 % over their number.
    """
    known = background[np.isfinite(background)]
    if len(known) < MIN_BACKGROUND:
        return Rule(COPY_RATIO_ADAPTIVE, False, float("nan"))
    share = FALSE_COPIES / 100 / comparisons
    # As many as may be wrong: the distance just below the next one.
    allowed = int(np.floor(share * len(known)))
    limit = float(np.nextafter(np.sort(known)[allowed], -np.inf))
    return Rule(min(limit, COPY_RATIO_ADAPTIVE), limit < COPY_RATIO_ADAPTIVE, limit)


def rate(flags: Bool[np.ndarray, " n"], least: int) -> dict[str, Any]:
    """Returns how many of how many, and the rate with its interval where there are enough."""
    counted = {"num": int(flags.sum()), "of": len(flags)}
    enough = len(flags) >= max(least, 1)
    interval = proportion_interval(counted["num"], counted["of"]) if enough else None
    return counted | with_interval("rate", interval)


def rule_rows(generated: Match, background: Match, rule: Rule, least: int) -> list[dict[str, Any]]:
    """Returns every rule's rate among generated images, and in the background."""
    tests = [
        ("calibrated", "Calibrated distance ≤ 1 (published)", "calibrated", COPY_RATIO_ADAPTIVE),
        ("third", "Below 1/3 of the second nearest (published)", "third", None),
    ]
    if np.isfinite(rule.near):
        title = "Nearer than 99 % of the background (by construction 1 % there)"
        tests.append(("near", title, "calibrated", rule.near))
    rows = []
    for name, title, field, limit in tests:
        flags = [
            value < COPY_RATIO_THIRD if limit is None else value <= limit
            for value in (getattr(generated, field), getattr(background, field))
        ]
        rows.append(
            {
                "name": name,
                "title": title,
                "threshold": COPY_RATIO_THIRD if limit is None else limit,
                "generated": rate(flags[0], least),
                "background": rate(flags[1], MIN_GENERATED),
            }
        )
    return rows


class CopiedImage(NamedTuple):
    """A training image that came back: its row, and the generated rows that copy it."""

    row: int
    copies: list[int]


def copied_images(
    is_copy: Bool[np.ndarray, " q"],
    index: Int[np.ndarray, " q"],
    calibrated: Float[np.ndarray, " q"],
) -> list[CopiedImage]:
    """Returns the training images that came back, the most often copied first."""
    of: dict[int, list[int]] = collections.defaultdict(list)
    for row in np.flatnonzero(is_copy).tolist():
        of[int(index[row])].append(row)
    found = [
        CopiedImage(row, sorted(copies, key=lambda i: (calibrated[i], i)))
        for row, copies in of.items()
    ]
    return sorted(found, key=lambda c: (-len(c.copies), float(calibrated[c.copies[0]]), c.row))


def patient_figures(is_copy, index, owner: np.ndarray | None, count: int) -> dict[str, Any]:
    """Returns shares of training images and patients with a copy (Dar et al.)."""
    names = np.arange(count) if owner is None else _named(owner)
    replicates = _REPLICATES if count <= _MANY else _REPLICATES // 10
    shares = memorized_patients(is_copy, index, names, n=replicates)
    found = dar_summary("all", "Any comparison", shares)
    if owner is None:
        return {key: value for key, value in found.items() if "patients" not in key}
    return found


def _named(owner: np.ndarray) -> np.ndarray:
    """Images whose patient is not known are each their own."""
    return np.asarray([who or f"#{row}" for row, who in enumerate(owner.tolist())])


def verdict(
    copied: Mapping[str, Any], background: Mapping[str, Any], nearly_same: Mapping[str, int]
) -> str:
    """Returns ``too_few``, ``clear``, ``unclear`` or ``found``.

    Found: an exact copy; one that is nearly the same, which no image of the background is; or a
    rate whose interval lies above the background's.
    """
    unmatched = background["of"] >= MIN_GENERATED and not nearly_same["background"]
    if nearly_same["exact"] or (nearly_same["num"] and unmatched):
        return "found"
    if copied["rate"] is None or background["rate"] is None:
        return "too_few"
    if not copied["num"]:
        return "clear"
    return "found" if copied["rate_low"] > background["rate_high"] else "unclear"


def ladder_figures(
    train: UInt8[np.ndarray, "n 64 64"],
    generated: UInt8[np.ndarray, "q 64 64"],
    held_out: UInt8[np.ndarray, "m 64 64"],
    patients: tuple[np.ndarray | None, np.ndarray | None],
) -> list[dict[str, Any]]:
    """Returns every pixel rung's rate among generated and held-out images."""
    sets = [x[..., None].astype(np.float32) / 127.5 - 1.0 for x in (train, generated, held_out)]
    rungs = [at_side(r, _LADDER_SIDE) for r in pixel_rungs((_LADDER_SIDE, _LADDER_SIDE, 1))]
    ladder = calibrate_ladder(
        rungs, sets[0], held_out=sets[2], train_patients=patients[0], held_patients=patients[1]
    )
    return [
        {
            "name": found.name,
            "title": found.title,
            "rule": found.rule,
            "threshold": found.threshold,
            "generated": rate(found.is_copy, MIN_GENERATED),
            "background": rate(found.background_is_copy, MIN_GENERATED),
        }
        for found in apply_ladder(ladder, sets[1]).values()
    ]


def ladder_fits(train: int, queries: int) -> bool:
    """Returns whether all rungs over all pairs take no minutes."""
    return train * queries <= _LADDER_PAIRS


def distribution_figures(
    name: str,
    train: Float[np.ndarray, "n d"],
    generated: Float[np.ndarray, "q d"],
    held_out: Float[np.ndarray, "m d"] | None,
    seed: int,
) -> dict[str, Any]:
    """Returns the distribution metrics, and Fréchet distances over equally many images.

    ``fd_training``, ``fd_held_out`` and ``fd_floor`` (training to held-out) are over ``fd_images``
    images on each side, so that they can be compared; without held-out images the floor is that of
    one half of the training images to the other.
    """
    drawn = [_drawn(x, seed + i) for i, x in enumerate((train, generated))]
    other = None if held_out is None else _drawn(held_out, seed + 2)
    half = np.random.default_rng([seed, 5]).permutation(len(drawn[0]))
    first, second = (drawn[0][part] for part in np.array_split(half, 2))
    base = drawn[0] if other is not None else first
    rest = other if other is not None else second
    size = min(len(base), len(rest), len(drawn[1]))
    equal = [_some(x, size, seed) for x in (base, drawn[1], rest)]
    real = "held-out" if other is not None else "other training"
    out = distribution_report(base, rest, drawn[1], features=name, seed=seed, real=real)
    out |= {
        "fd_images": size,
        "fd_training": fd(equal[0], equal[1]),
        "fd_held_out": fd(equal[2], equal[1]) if other is not None else None,
        "fd_floor": fd(equal[0], equal[2]),
        "background_is": "held-out images" if other is not None else "half of the training images",
        "real": None if other is not None else "other training",
    }
    return out


def _drawn(rows: np.ndarray, seed: int) -> np.ndarray:
    return rows[draw_rows(len(rows), DRAWN, seed)].astype(np.float64)


def _some(rows: np.ndarray, size: int, seed: int) -> np.ndarray:
    return rows[np.sort(np.random.default_rng([seed, 6]).permutation(len(rows))[:size])]


def duplicate_figures(
    images: UInt8[np.ndarray, "n 64 64"],
    rows: Int[np.ndarray, " n"],
    content: np.ndarray,
    places: Sequence[str],
) -> tuple[dict[str, Any], Duplicates]:
    """Returns exact repeats among all training images, and near ones among those drawn.

    Args:
        images: Of the drawn rows.
        rows: The drawn rows.
        content: Of all training images.
        places: Of all training images.
    """
    found = find_duplicates(images[..., None], neighbors=4)
    _, times = np.unique(content, return_counts=True)
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for row, group in zip(rows.tolist(), found.group.tolist(), strict=True):
        groups[group].append(row)
    large = sorted((g for g in groups.values() if len(g) > 1), key=lambda g: (-len(g), g[0]))
    return {
        "images": len(content),
        "distinct": len(times),
        "repeated_contents": int((times > 1).sum()),
        "most_repeats": int(times.max()),
        "near_images": len(rows),
        "near_pairs": len(found.pairs),
        "near_groups": len(large),
        "listed": [[places[row] for row in group[:8]] for group in large[:20]],
    }, found
