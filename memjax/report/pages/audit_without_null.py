"""The words of a report on a model without a null condition, or without conditions at all."""

from collections.abc import Iterable, Mapping
from typing import Any

from memjax.core.registry import title_of
from memjax.report.wording import few_copies, interval, percent, wording

Results = Mapping[str, Any]

_SAMPLES_WALL = (
    "Each column is one image made without a prompt, the most similar pair first. Top: the image "
    "the model made. Middle: the training image closest to it. Bottom: where the two differ; black "
    "means no difference. An orange frame and the word COPY mark a copy."
)
_MARK = "Each mark is one generated image. The further right, the higher its {signal} while it was "
_UP = (
    "made; the higher up, the more it is like its nearest training image. The small bars at the "
    "edges count each kind; above the dashed line an image counts as a copy. Spearman's number "
    "says how well the two orders agree: 1 fully, 0 not at all, −1 in reverse."
)


def own_captions(results: Results, keys: Iterable[str]) -> dict[str, str]:
    """Returns what stands under figures whose usual words speak of the pull of a prompt.

    Args:
        results: Of an audit.
        keys: The figures.
    """
    words: dict[str, str] = {}
    signal = signal_title(results)
    if signal:
        words["scatter"] = (_MARK + _UP).format(signal=signal)
        words["magnitude"] = (
            f"The {signal} at each step, from pure noise (left) to the finished image (right). "
            "Lines are medians, bands hold the middle 80 %. The further apart the lines, the "
            "easier copying is to notice."
        )
    if "samples" in results:
        words |= {"wall": _SAMPLES_WALL, "roc": _sample_roc()}
    return {key: words[key.partition("/")[0]] for key in keys if key.partition("/")[0] in words}


def _sample_roc() -> str:
    return (
        "Each curve shows how many copies are found (up) for how many false alarms (right). The "
        "further a curve reaches into the top left corner, the better it tells copies from other "
        "images; along the thin diagonal it does not."
    )


def signal_title(results: Results) -> str:
    """Returns the warning signal in words where it is not the magnitude, else ""."""
    return str(results.get("detection", {}).get("signal", {}).get("title", ""))


def signal_row(results: Results) -> Mapping[str, Any]:
    """Returns the figures of that signal: of memorized prompts, or of copied images."""
    name = results.get("detection", {}).get("signal", {}).get("name")
    rows = results.get("detectors", {}).get("rows", [])
    return next((row for row in rows if row["name"] == name), {})


def signal_sentence(results: Results) -> str:
    """Returns how well the detectors that a model serves warn, in one sentence."""
    rows = results.get("detectors", {}).get("rows", [])
    free = "samples" in results
    key = "auc_copied" if free else "auc"
    known = [row for row in rows if row.get(key) is not None]
    if not rows:
        return ""
    title = title_of(rows[0]["name"])
    if not known:
        few = "no image is a copy" if free else "no prompt counts as memorized"
        few = "every image is a copy" if rows[0].get("num_copied") else few
        return f"As {few}, nothing says how well a warning signal such as the {title} would do."
    rates = [f"the {title_of(row['name'])} in {_of_100(row, key)}" for row in known]
    listed = " and ".join([", ".join(rates[:-1]), rates[-1]] if len(rates) > 1 else rates)
    above = "a copy above another image" if free else "a memorized prompt above another"
    return (
        "Warning signals, read off while an image is being made and without looking at the "
        f"training images, rate {above} in so many of 100 pairs: {listed}; 50 is a coin toss."
    )


def _of_100(row: Mapping[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    between = "" if low is None or high is None else f" (range {100 * low:.0f}–{100 * high:.0f})"
    return f"{100 * row[key]:.0f}{between}"


def samples_headline(level: str, results: Results) -> str:
    """Returns the headline on images made without prompts."""
    samples = results["samples"]
    count = f"{samples['num_copied']} of {samples['num']} images"
    if level == "clear":
        return f"{few_copies(samples['num_copied'])}: {count}."
    return f"This model copies training images: {count} are copies."


def samples_sentences(results: Results) -> list[str]:
    """Returns what was found among images made without prompts."""
    samples, copies = results["samples"], results["similarity"]
    share = percent(copies["copy_rate_sample"])
    between = interval(copies, "copy_rate_sample")
    said = (
        f"Of {samples['num']} images made from {samples['num']} seeds, without a prompt, "
        f"{samples['num_copied']} copy a training image ({share}"
        f"{f', range {between}' if between else ''})"
    )
    if copies.get("copy_rate_background") is not None:
        unit = wording(results).unit
        chance = percent(copies["copy_rate_background"])
        said += f"; by the same rule, {chance} of {unit} it never saw count as copies"
    return [f"{said}.", _returned(samples)] if samples["num_copied"] else [f"{said}."]


def _returned(samples: Mapping[str, Any]) -> str:
    rows, repeated = samples["num_returned"], samples["num_returned_repeated"]
    said = f"{rows} different training image{'s' if rows != 1 else ''} came back"
    if not samples["num_repeated"]:
        return f"{said}; none of the training images was repeated in training."
    verb = "was" if repeated == 1 else "were"
    return (
        f"{said}; {repeated} of them {verb} repeated in training (out of "
        f"{samples['num_repeated']} that were), and {samples['num_copied_of_repeated']} of the "
        f"{samples['num_copied']} copies show one of these."
    )


def samples_tiles(results: Results) -> list[tuple[str, str, str]]:
    """Returns the large figures: the figure, what it is, its range."""
    samples, copies = results["samples"], results["similarity"]
    return [
        (
            percent(copies["copy_rate_sample"]),
            "copies among generated images",
            interval(copies, "copy_rate_sample"),
        ),
        (str(samples["num_returned"]), "different training images that came back", ""),
        (str(samples["num_returned_repeated"]), "of them repeated in training", ""),
        (
            percent(copies.get("copy_rate_background")),
            "real images never trained on that count as copies",
            interval(copies, "copy_rate_background"),
        ),
    ]
