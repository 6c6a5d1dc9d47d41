"""The sentences of ``memjax copies``: does it copy, how sure is that, what to do now."""

import math
from collections.abc import Mapping
from typing import Any

from memjax.report.wording import decimal, number

TABLE, SUMMARY = "copies.csv", "copies.json"


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
        return "held-out images"
    return "training images (each against the others)"


def answer(summary: Mapping[str, Any]) -> list[str]:
    """Returns the first screen's sentences: does it copy, by chance, whose images."""
    copied = summary["copies"]
    what = {
        "found": "Yes, it copies.",
        "clear": "No copy was found.",
        "unclear": "Some images look like copies, but hardly more than by chance.",
        "too_few": "There are too few images to say how often it copies.",
    }[summary["verdict"]]
    rate = "" if copied["rate"] is None else f", {share(copied)}"
    certain = f": {certainties(summary)}" if copied["num"] else ""
    sentences = [
        what,
        f"{counted(copied)} generated images count as copies of a training image{rate}{certain}.",
        _background_sentence(summary),
    ]
    images = summary["copied_images"]
    if images["num"]:
        who = summary["copied_patients"]
        of = "" if who is None else f", of {counted(who)} patients"
        sentences.append(f"They come from {counted(images)} different training images{of}.")
    return sentences


def certainties(summary: Mapping[str, Any]) -> str:
    """Returns how sure the copies are: how many of each kind."""
    near = summary["nearly_same"]
    kinds = (
        ("with the same pixels", near["exact"]),
        ("nearly the same", near["num"] - near["exact"]),
        ("only alike", summary["copies"]["num"] - near["num"]),
    )
    return ", ".join(f"{number(count)} {words}" for words, count in kinds if count > 0)


def by_chance(summary: Mapping[str, Any]) -> str:
    """Returns how many generated images may count though none is a copy; "" without a rate."""
    back, of = summary["background"], summary["copies"]["of"]
    if back["rate"] is None:
        return ""
    low, high = math.floor(back["rate_low"] * of), math.ceil(back["rate_high"] * of)
    return f"by chance {number(low)} to {number(high)} of {number(of)}"


def _background_sentence(summary: Mapping[str, Any]) -> str:
    back, words = summary["background"], background_words(summary)
    if not back["of"]:
        left = back["left_out"]
        why = f": all {number(left)} held-out images stand in the training set too" if left else ""
        return f"There is no background to say how often that happens by chance{why}."
    if back["rate"] is None:
        return f"By the same rule {counted(back)} {words} do: too few for a rate."
    near = summary["nearly_same"]["background"]
    same = "none of them is" if not near else f"{number(near)} of them are"
    return (
        f"By the same rule {counted(back)} {words} do: {share(back)}, {by_chance(summary)} "
        f"generated ones; {same} nearly the same."
    )


def actions(summary: Mapping[str, Any]) -> list[str]:
    """Returns what to do now."""
    return [*_about_copies(summary), *_about_rates(summary)]


def _about_copies(summary: Mapping[str, Any]) -> list[str]:
    repeats, copied, todo = summary["duplicates"], summary["copies"], []
    if 2 * copied["exact"] > copied["of"]:
        todo.append(
            "Most generated images are files of the training set: check that --generated is the "
            "folder of what the generator made."
        )
    if summary["copied_images"]["num"]:
        todo += [
            "Look at the pairs below. Do not publish the images marked as copies "
            f"({TABLE}: copy = true).",
            "Take the training images named below out of the training set and train again. A "
            "diffusion model that memjax reads can be mitigated instead: see "
            "memjax mitigate --help.",
        ]
        if summary["copied_patients"] is not None:
            todo.append("Near-copies of a patient's image are that patient's data: treat them so.")
    if repeats["repeated_contents"]:
        count = repeats["repeated_contents"]
        todo.append(
            f"{number(count)} training image{'' if count == 1 else 's'} stand"
            f"{'s' if count == 1 else ''} in the training set more than once, which makes copying "
            "likelier: keep one of each (listed below)."
        )
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
            f"{number(copied['of'])} images cannot rule out a rate below "
            f"{_percent(copied['rate_high'])}: generate more, also with other prompts and seeds."
        )
    if summary["background"]["kind"] != "held_out":
        todo.append("Give images that were never trained on (--held_out=DIR) to compare with.")
    elif summary["background"]["of"] < least["background"]:
        todo.append(
            f"Give at least {least['background']} held-out images that are not in the training set "
            f"({number(summary['background']['of'])} now): fewer cannot show how often the rule is "
            "wrong."
        )
    if len(summary["comparisons"]) == 1:
        todo.append(
            "Turned, cropped or redrawn copies are not seen by pixels: run it again with a network "
            "made for copies (--sscd=FILE; its authors publish it as sscd-copy-detection)."
        )
    return todo


def printed(summary: Mapping[str, Any]) -> list[str]:
    """Returns the lines that the command prints."""
    skipped = sum(len(part["unreadable"]) for part in summary["files"].values())
    made, training = (summary["files"][flag] for flag in ("generated", "training"))
    other = sum(part["of_other_kinds"]["num"] for part in summary["files"].values())
    lines = [
        f"Compared {number(made['read'])} images of {made['folder']} with "
        f"{number(training['read'])} training images of {training['folder']}.",
        *answer(summary),
    ]
    if skipped:
        lines.append(
            f"{number(skipped)} files could not be read and were skipped; {SUMMARY} names them."
        )
    if other:
        lines.append(f"{number(other)} of other kinds (such as TIFF, DICOM or ZIP) are not read.")
    return lines
