"""What one should know first of a data set, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from memjax.data.records import Record
from memjax.data.statistics import HELD_OUT, TRAIN

_WARN_LEAST = 5
_WARN_SHARE = 0.05  # of rows that look like another patient's film: then the threshold is too low


def stand_out(
    result: Mapping[str, Any], train: Sequence[Record], held_out: Sequence[Record]
) -> list[str]:
    """What one should know first, in sentences."""
    return [
        *_about_size(result),
        *_about_reading(result["notes"], result["bit_depths"]),
        *_about_unread(result["unread"]),
        *_about_negatives(result["negatives"], result["looked_at"]),
        *_about_duplicates(result["duplicates"], result["looked_at"], result["person"]),
        *_about_leaks(train, held_out, result["person"]),
        *_about_balance(result["findings"][TRAIN], len(train)),
        *_about_conditions(result["conditions"], result["person"]),
    ]


def _about_size(result: Mapping[str, Any]) -> list[str]:
    train, held, person = *(result["totals"][name] for name in (TRAIN, HELD_OUT)), result["person"]
    text = f"{_many(train['pictures'], 'image')} of "
    text += f"{_many(train['patients'], person)} to train on"
    text += f", {held['pictures']:,} of {held['patients']:,} held out." if held["pictures"] else (
        "; nothing is held out, so copies cannot be told from chance: set data.held_out_fraction."
    )  # fmt: skip
    wrong = sum(result["problems"]["counts"].values())
    many = _many(wrong, "problem was", "problems were")
    more = f"{many} found and left out or mended; see the end of the page and problems.csv."
    return [text, more] if wrong else [text]


def _about_reading(notes: Mapping[str, int], bits: Mapping[str, int]) -> list[str]:
    parts = [f"{_many(count, 'was', 'were')} {kind}" for kind, count in sorted(notes.items())]
    text = [f"Of the images that were decoded, {', '.join(parts)}."] if parts else []
    if len(bits) > 1:
        kinds = ", ".join(f"{count:,} of {kind}" for kind, count in bits.items())
        text.append(f"Bits a channel that the files use: {kinds}.")
    return text


def _about_unread(unread: Mapping[str, Any]) -> list[str]:
    counts, examples = unread["counts"], unread["examples"]
    if not counts:
        return []
    kinds = ", ".join(
        f"{count:,} {kind} (such as {examples[kind][0]})" for kind, count in sorted(counts.items())
    )
    return [f"Beside the images, these were not read: {kinds}."]


def _about_negatives(rows: Sequence[Mapping[str, Any]], looked: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    looks = _many(len(rows), "looks like a negative", "look like negatives")
    return [
        f"{looks} of the others among the {looked['pictures']:,} images looked at, as films from "
        f"MONOCHROME1 files do ({', '.join(row['path'] for row in rows[:5])}): invert them before "
        "training, or leave them out."
    ]


def _about_duplicates(
    found: Mapping[str, Any], looked: Mapping[str, Any], person: str
) -> list[str]:
    if not found["groups"]:
        return [f"No image stands twice among the {looked['pictures']:,} looked at."]
    text = []
    if found["exact_groups"]:
        text.append(
            f"{_many(found['exact_groups'], 'image is', 'images are')} stored more than once: "
            f"{found['exact_rows']:,} rows of the {looked['pictures']:,} looked at; one of them "
            f"{found['most_copies']:,} times. "
            "Models copy such images first: keep one of each before training."
        )
    if found["near_groups"]:
        text.append(
            f"{_many(found['near_groups'], 'group holds', 'groups hold')} images that are nearly "
            f"the same; {found['near_of_one_patient']:,} of them show one {person} alone."
        )
    if found["across_splits"]:
        text.append(
            f"{_many(found['across_splits'], 'group stands', 'groups stand')} both among training "
            "and held-out images, which makes held-out figures look better than they are."
        )
    if found["across_patients"] > max(_WARN_LEAST, _WARN_SHARE * looked["pictures"]):
        text.append(
            f"{found['across_patients']:,} groups hold several {person}s. If those images differ "
            f"to the eye, the threshold of {found['threshold']} is too low for this data: raise "
            "--near."
        )
    return text


def _about_leaks(train: Sequence[Record], held_out: Sequence[Record], person: str) -> list[str]:
    both = {r.patient for r in train} & {r.patient for r in held_out}
    both.discard("")
    if not both:
        return []
    who = _many(len(both), f"{person} stands", f"{person}s stand")
    return [f"{who} in both splits: held-out images are no strangers."]


def _about_balance(balance: Mapping[str, Mapping[str, int]], num: int) -> list[str]:
    positive = {name: states["positive"] for name, states in balance.items() if any(
        count for state, count in states.items() if state != "blank")}  # fmt: skip
    if not positive or not num:
        return []
    rare, often = min(positive, key=positive.__getitem__), max(positive, key=positive.__getitem__)
    text = [
        f"Most frequent finding: {often}, {positive[often]:,} rows ({positive[often] / num:.1%}); "
        f"rarest: {rare}, {positive[rare]:,} ({positive[rare] / num:.1%})."
    ]
    uncertain = sum(states["uncertain"] for states in balance.values())
    named = sum(sum(states.values()) - states["blank"] for states in balance.values())
    if uncertain:
        text.append(
            f"{uncertain:,} of {named:,} named labels ({uncertain / named:.0%}) are uncertain; "
            "data.uncertainty says what training makes of them."
        )
    return text


def _about_conditions(found: Mapping[str, Any], person: str) -> list[str]:
    if not found["levels"]:
        return []
    parts = [f"{at['share_of_one_patient']:.0%} with {at['added']}" for at in found["levels"]]
    return [
        f"Share of training images whose condition belongs to one {person} alone: "
        + ", ".join([parts[0], *(f"{part} as well" for part in parts[1:])])
        + ". Such a condition works as the name of an image."
    ]


def _many(number: int, one: str, several: str = "") -> str:
    """``1 image``, ``2,000 images``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
