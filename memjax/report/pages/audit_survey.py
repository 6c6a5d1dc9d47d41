"""The words of a report on what came back, also where nobody knows what was repeated."""

from collections.abc import Iterable, Mapping
from typing import Any

from memjax.core.registry import title_of
from memjax.report.wording import few_copies, interval, percent, wording
from memjax.runs.null import COMPANION

Results = Mapping[str, Any]
_HELPS = 0.5  # a mitigation helps where it leaves at most this share of the copies

_WALL = (
    "Each column is one of the training prompts that pull hardest, the most similar pair first. "
    "Top: the image the model made. Middle: the training image closest to it. Bottom: where the "
    "two differ; black means no difference. An orange frame and the word COPY mark a copy."
)


def leads(results: Results) -> bool:
    """Whether the headline rests on what came back, since too little is known to be repeated."""
    return bool(results.get("came_back", {}).get("leads")) and "samples" not in results


def worst_group(results: Results) -> tuple[str, Mapping[str, Any]]:
    """Returns the prompts most likely to come back: the loudest, else the random sample."""
    return next(iter(_groups(results).items()), ("", {}))


def _groups(results: Results) -> dict[str, Mapping[str, Any]]:
    """The groups of prompts, those most likely to come back first."""
    groups = results.get("came_back", {}).get("groups", {})
    return {name: groups[name] for name in _ASKED if name in groups}


_ASKED = {
    "loudest": "the {n} training prompts that pull hardest",
    "once": "{n} training prompts drawn at random",
    "held_out": "{n} prompts it never saw",
}


def _asked(name: str, group: Mapping[str, Any]) -> str:
    said = _ASKED[name].format(n=group["num"])
    return said.replace("the 1 training prompts that pull", "the one training prompt that pulls")


def headline(level: str, results: Results) -> str:
    """Returns what was measured, and on how many.

    Args:
        level: Of the verdict.
        results: The sections of ``report.json``.
    """
    name, group = worst_group(results)
    count = f"{group['num_came_back']} of {_asked(name, group)} came back"
    if level == "clear":
        return f"{few_copies(group['num_came_back'])}: {count}."
    repair = results.get("mitigation", {})
    found = f"This model copies training images: {count}"
    before, after = repair.get("copy_rate_before"), repair.get("copy_rate_after")
    if before is None or after is None:
        return f"{found}."
    verb = "cuts" if level == "repaired" else "does not cure it, with"
    change = f"copies from {percent(before)} to {percent(after)}"
    if level != "repaired":
        change = f"{percent(after)} copies after it and {percent(before)} before"
    return f"{found}; the repair {verb} {change}."


def scored(results: Results) -> list[str]:
    """Returns what the scores of all training prompts say, and how they meet what is known."""
    return [survey(results), _known(results), _near(results)]


def came_back(results: Results) -> str:
    """Returns how many of which prompts brought a training image back."""
    groups = _groups(results)
    if not groups:
        return ""
    parts = []
    for name, group in groups.items():
        between = interval(group, "came_back")
        spread = f" (range {between})" if between else ""
        parts.append(f"of {_asked(name, group)}, {group['num_came_back']}{spread}")
    generations = results.get("detection", {}).get("generations")
    rule = "" if not generations else f" (at least half of {generations} images copy one)"
    said = f"So many prompts brought a training image back{rule}: {'; '.join(parts)}"
    chance = results.get("similarity", {}).get("copy_rate_background")
    if chance is not None:
        unit = wording(results).unit
        said += f". By the same rule, {percent(chance)} of {unit} it never saw count as copies"
    return f"{said}."


def returned(results: Results) -> str:
    """Returns whose images came back."""
    back = results.get("returned", {})
    if not back:
        return ""
    if not back["num"]:
        return "No training image came back in all that was asked."
    images = "1 training image" if back["num"] == 1 else f"{back['num']} training images"
    who = ""
    if wording(results).unit == "films":
        people = back["num_patients"]
        who = f" of {people} patient{'s' if people != 1 else ''}"
    return f"{images}{who} came back in all that was asked; returned.csv names every one."


def survey(results: Results) -> str:
    """Returns how many training prompts are louder than prompts the model never saw."""
    found = results.get("survey")
    if not found:
        return ""
    scored, total = found["num_scored"], found["num_training"]
    which = f"All {total:,} different" if scored == total else f"{scored:,} of {total:,}"
    if found["threshold"] is None:
        return (
            f"{which} training prompts were scored by their pull at the first step; with "
            f"{found['num_held_out']} prompts it never saw there is nothing to fit a threshold on."
        )
    between = interval(found, "flagged")
    return (
        f"{which} training prompts were scored by their pull at the first step: "
        f"{found['num_flagged']} of them ({percent(found['flagged'])}"
        f"{f', range {between}' if between else ''}) are flagged, pulling harder than "
        f"{percent(1 - found['target_fpr'])} of {found['num_held_out']} prompts it never saw."
    )


def _known(results: Results) -> str:
    known = (results.get("survey") or {}).get("known_repeats")
    if not known or known.get("recall") is None:
        return ""
    count, flagged = known["num"], known["num_flagged"]
    which = (
        "1 training prompt has an image" if count == 1 else f"{count} training prompts have images"
    )
    of_them = f"{flagged} of them {'is' if flagged == 1 else 'are'}"
    if count == 1:
        of_them = "it is" if flagged else "it is not"
    said = f"{which} known to be repeated, which the scores were not told: {of_them} flagged"
    between = interval(known, "recall")
    if count > 1:
        said += f" ({percent(known['recall'])}{f', range {between}' if between else ''})"
    if known.get("precision") is None:
        return f"{said}."
    between = interval(known, "precision")
    return (
        f"{said}, and {percent(known['precision'])}{f' (range {between})' if between else ''} of "
        "all flagged prompts are among these."
    )


def _near(results: Results) -> str:
    near = (results.get("survey") or {}).get("near_duplicates")
    if not near:
        return ""
    between = interval(near, "recall")
    one = near["num"] == 1
    return (
        f"{near['num']} training prompt{' has an image' if one else 's have images'} with a near "
        f"duplicate in the training data: {near['num_flagged']} of them flagged "
        f"({percent(near['recall'])}{f', range {between}' if between else ''})."
    )


def what_to_do(results: Results) -> str:
    """Returns what helped on this model, with its command; else what else can be done."""
    if results.get("samples") is not None:
        back = results["samples"].get("num_returned")
        return _TAKE_OUT if back else _MORE
    repair = results.get("mitigation", {})
    before = repair.get("copy_rate_before")
    arms = [arm for arm in repair.get("arms", ()) if arm.get("copy_rate_after") is not None]
    if not before or not arms:
        if "returned" not in results:
            return ""
        return _TAKE_OUT if results["returned"]["num"] else _MORE
    best = min(arms, key=lambda arm: arm["copy_rate_after"])
    if best["copy_rate_after"] > _HELPS * before:
        tried = "The repair" if len(arms) == 1 else f"The best of {len(arms)} repairs"
        return f"{tried} does not halve the copies. {_TAKE_OUT}"
    flagged = (results.get("survey") or {}).get("num_flagged")
    file, whom = (_FLAGGED, "the flagged prompts") if flagged else ("FILE.jsonl", "other prompts")
    return (
        f"What helped most on this model is {title_of(best['name'])} (copies {percent(before)} "
        f"before, {percent(best['copy_rate_after'])} after): "
        f"memjax mitigate --model=MODEL{_null(results)} --prompts={file} "
        f"--mitigations={best['name']} --out=DIR applies it to {whom}."
    )


def _null(results: Results) -> str:
    """Returns the flags that stand for the unconditional prediction, where none was trained."""
    kind = results.get("provenance", {}).get("null", "none")
    companion = " --companion=MODEL" if kind == COMPANION else ""
    return "" if kind == "none" else f" --null={kind}{companion}"


_FLAGGED = "prompts/flagged.jsonl"  # beside the report
_MORE = "Nothing came back that had to be repaired; more prompts (--budget=1h) look further."
_TAKE_OUT = (
    "What can be done: take the images that returned.csv names, or their repeats, out of the "
    "training data, train anew and audit again."
)


def tiles(results: Results) -> list[tuple[str, str, str]]:
    """Returns the large figures: the figure, what it is, its range."""
    groups = _groups(results)
    names = {
        "loudest": "training prompts that pull hardest came back",
        "once": "training prompts drawn at random came back",
        "held_out": "prompts never trained on gave a copy",
    }
    out = [
        (
            f"{group['num_came_back']} of {group['num']}",
            names[name],
            interval(group, "came_back"),
        )
        for name, group in groups.items()
    ]
    repair = results.get("mitigation", {})
    if repair.get("copy_rate_before"):
        title = f"copies after the repair, {percent(repair['copy_rate_before'])} before"
        out.append((percent(repair["copy_rate_after"]), title, interval(repair, "copy_rate_after")))
    return out


def wall_caption(results: Results, keys: Iterable[str]) -> dict[str, str]:
    """Returns what stands under the wall where its prompts are not known to be memorized.

    Args:
        results: Of an audit.
        keys: The figures.
    """
    return {key: _WALL for key in keys if key == "wall" and leads(results)}
