"""The report in words: a headline, a few sentences and four figures for a medical reader."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from memjax.core.registry import title_of
from memjax.report.pages import audit_survey
from memjax.report.pages.audit_without_null import (
    samples_headline,
    samples_sentences,
    samples_tiles,
    signal_row,
    signal_sentence,
    signal_title,
)
from memjax.report.wording import decimal, family_title, few_copies, interval, percent, wording
from memjax.studies.prompts.draw import REPEATS

# A copy rate counts as found when it is both this large and this many times the background's.
FOUND_RATE, FOUND_TIMES = 0.10, 2.0
REPAIRED_TIMES = 0.5  # the bar of "at most half of before"

Results = Mapping[str, Any]


class Tile(NamedTuple):
    """One large figure: the figure, what it is, and the range it may lie in."""

    figure: str
    name: str
    detail: str


class Verdict(NamedTuple):
    """What the summary box says.

    Attributes:
        level: ``repaired`` (copies at most half of before), ``found``, ``found_only`` (no repair
            tried), ``clear`` or ``unknown``.
        headline: In one sentence, what was measured and on how many.
        answers: A reader's three questions, each with its answer.
        sentences: What else was found.
        tiles: Large figures.
    """

    level: str
    headline: str
    answers: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]
    tiles: tuple[Tile, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The answers and all sentences, in their order."""
        return (*(text for _, text in self.answers), *self.sentences)


_QUESTIONS = ("Does it copy?", "Whose images came back?", "What can be done?")


def verdict(results: Results) -> Verdict:
    """Puts the results of an audit into words; what was not measured is said to be so."""
    level = _level(results)
    back, todo = audit_survey.returned(results), audit_survey.what_to_do(results)
    likeness = _likeness(results)
    if "samples" in results:
        copies, *more = samples_sentences(results)
        answers = (copies, back, todo)
        details = [_training(results), *more, signal_sentence(results), likeness]
        tiles, headline = tuple(samples_tiles(results)), samples_headline(level, results)
    elif audit_survey.leads(results):
        repair = results.get("mitigation", {}).get("copy_rate_before")
        repaired = _repair(results) if repair else ""  # where nothing came back, nothing can fall
        answers = (audit_survey.came_back(results), back, _both(repaired, todo))
        details = [_training(results), *audit_survey.scored(results), _warning(results), likeness]
        tiles, headline = tuple(audit_survey.tiles(results)), audit_survey.headline(level, results)
    else:
        answers = (_copying(results), back, _both(_repair(results), todo))
        details = [_training(results), *audit_survey.scored(results), _warning(results), likeness]
        details += [_negatives(results)]
        tiles, headline = _tiles(results), _headline(level, results)
    return Verdict(
        level,
        headline,
        tuple((q, text) for q, text in zip(_QUESTIONS, answers, strict=True) if text),
        tuple(text for text in details if text),
        tuple(Tile(*tile) for tile in tiles),
    )


def _both(first: str, second: str) -> str:
    return " ".join(text for text in (first, second) if text)


def default_detection(results: Results) -> Mapping[str, Any]:
    """Returns the figures of the detector the configuration chose before looking, or {}."""
    detection = results.get("detection", {})
    return detection.get(detection.get("default", ""), {})


def _level(results: Results) -> str:
    copies = results.get("similarity", {})
    rate = copies.get("copy_rate_sample" if "samples" in results else "copy_rate_memorized")
    if audit_survey.leads(results):
        rate = audit_survey.worst_group(results)[1].get("copy_rate")
    if rate is None:
        return "unknown"
    floor = max(FOUND_RATE, FOUND_TIMES * (copies.get("copy_rate_background") or 0.0))
    if rate < floor:
        return "clear"
    repair = results.get("mitigation", {})
    before, after = repair.get("copy_rate_before"), repair.get("copy_rate_after")
    if before is None or after is None:
        return "found_only"
    return "repaired" if after <= REPAIRED_TIMES * before else "found"


def _headline(level: str, results: Results) -> str:
    copies, repair = results.get("similarity", {}), results.get("mitigation", {})
    if level == "unknown":
        return "Whether this model copies training images was not measured."
    if level == "clear":
        rate = copies["copy_rate_memorized"]
        return f"{few_copies(rate)}: {percent(rate)}."
    found = "This model copies training images"
    if level == "found_only":
        return f"{found}; no repair was tried."
    before, after = percent(repair["copy_rate_before"]), percent(repair["copy_rate_after"])
    if level == "repaired":
        return f"{found}; the repair cuts copies from {before} to {after}."
    return f"{found}; the repair does not cure it: {after} copies, {before} before."


def _training(results: Results) -> str:
    data, run = results.get("data", {}), results.get("training", {})
    images = f"{data['num_images']:,} " if data.get("num_images") else ""
    kind = wording(results).data
    if data.get("foreign"):
        images = f"{data['num_distinct']:,} different " if data.get("num_distinct") else images
        repeats = ""
        if data.get("num_repeated"):
            times = f" {data['repeats']} times each" if data.get("repeats") else ""
            repeats = f", {data['num_repeated']} of them repeated{times}"
        return (
            f"The image generator {data['foreign']} was asked for images by their captions and "
            f"compared with {images}{kind} of its training data{repeats}."
        )
    steps = f" for {run['steps']:,} steps" if run.get("steps") else ""
    distinct = data.get("num_distinct")
    if distinct and data.get("num_repeated"):
        images = f"{distinct:,} different "
    first = f"An image generator was trained on {images}{kind}{steps}"
    if not data.get("num_repeated"):
        return first + "."
    one, each = data["num_repeated"] == 1, data.get("repeats")
    if each and each < REPEATS:
        stands = "stands" if one else "stand"
        return f"{first}; {data['num_repeated']} of the images {stands} in the data twice."
    times = f" ({each} times{'' if one else ' each'})" if each else " many times"
    verb = "was" if one else "were"
    return f"{first}; {data['num_repeated']} of the images {verb} shown to it repeatedly{times}."


def _copying(results: Results) -> str:
    copies = results.get("similarity", {})
    rate = copies.get("copy_rate_memorized")
    if rate is None:
        return "Whether it copies training images was not measured."
    repeated = results.get("data", {}).get("num_repeated")
    images = "repeated image" if repeated == 1 else f"{repeated} repeated images"
    asked = f"Asked for the {images} again" if repeated else "Given the memorized prompts"
    said = f"{asked}, it gave back a copy in {percent(rate)} of cases"
    if interval(copies, "copy_rate_memorized"):
        said += f" (range {interval(copies, 'copy_rate_memorized')})"
    if copies.get("copy_rate_other") is not None:
        said += f"; asked for other images, in {percent(copies['copy_rate_other'])}"
    if copies.get("copy_rate_background") is not None:
        rate = percent(copies["copy_rate_background"])
        said += (
            f" (by the same rule, {rate} of {wording(results).unit} it never saw count as copies)"
        )
    return said + "."


def _warning(results: Results) -> str:
    chosen = default_detection(results)
    if "left_out" in results:
        return signal_sentence(results)
    if chosen.get("auc") is None and audit_survey.leads(results):
        return ""
    if chosen.get("auc") is None:
        return "Whether copying can be noticed without the training images was not measured."
    cases = min(round(100 * chosen["auc"]), 99 if chosen["auc"] < 1 else 100)
    said = (
        "A warning signal, read off while an image is being made and without looking at the "
        f"training images, rates a memorized prompt above another one in {cases} of 100 pairs"
    )
    low, high = chosen.get("auc_low"), chosen.get("auc_high")
    between = "" if low is None or high is None else f" (range {100 * low:.0f}–{100 * high:.0f})"
    return f"{said}{between}."


def ranked_rungs(results: Results) -> list[Mapping[str, Any]]:
    """Returns the rungs whose Spearman correlation is known, strongest first."""
    rungs = results.get("validation", {}).get("rungs") or ()
    known = [rung for rung in rungs if rung.get("spearman") is not None]
    return sorted(known, key=lambda rung: -rung["spearman"])


def _likeness(results: Results) -> str:
    """Whether the signal goes along with likeness: strongest and weakest yardstick."""
    rungs = ranked_rungs(results)
    if not rungs:
        return ""
    sure = sum(1 for rung in rungs if (rung.get("spearman_low") or 0) > 0)
    verb = "goes" if 2 * sure > len(rungs) else "does not reliably go"
    said = (
        f"The {signal_title(results) or 'signal'} {verb} along with likeness to a training "
        f"image: clearly so by {sure} of {len(rungs)} ways to measure likeness"
    )
    scale = "on a scale where 1 is full agreement and 0 is none"
    if len(rungs) == 1:
        return f"{said}, {_rung_text(rungs[0])} {scale}."
    best, worst = _rung_text(rungs[0]), _rung_text(rungs[-1])
    return f"{said}; most by {best}, least by {worst}, {scale}."


def _rung_text(rung: Mapping[str, Any]) -> str:
    title = str(rung.get("title") or rung.get("name"))
    between = interval(rung, "spearman", "plain")
    return f"{title} with {decimal(rung['spearman'])}{f' (range {between})' if between else ''}"


def family_spread(results: Results) -> tuple[Mapping[str, Any], Mapping[str, Any], int] | None:
    """Returns the easiest and the hardest negative family, and the points of AUC between them."""
    families = results.get("validation", {}).get("families") or ()
    known = [f for f in families if f.get("auc") is not None and f.get("name") != "all"]
    if len(known) < 2:
        return None
    hardest, *_, easiest = sorted(known, key=lambda f: f["auc"])
    return easiest, hardest, round(100 * (easiest["auc"] - hardest["auc"]))


def _negatives(results: Results) -> str:
    """How much the choice of negatives moves the figure of the warning signal."""
    spread = family_spread(results)
    if spread is None:
        return ""
    easy, hard, points = spread
    names = [str(f.get("title") or family_title(str(f["name"]))) for f in (easy, hard)]
    title = signal_title(results)
    which = f"the figure of the {title}" if title else "that figure"
    if points < 1:
        return f"Which other prompts it is compared with makes no difference to {which}."
    return (
        f"Which other prompts it is compared with moves {which} by {points} "
        f"point{'s' if points != 1 else ''}: {100 * easy['auc']:.0f} of 100 against “{names[0]}”, "
        f"{100 * hard['auc']:.0f} against “{names[1]}”."
    )


def _repair(results: Results) -> str:
    repair = results.get("mitigation", {})
    before, after = repair.get("copy_rate_before"), repair.get("copy_rate_after")
    if before is None or after is None:
        return "No repair was tried."
    method = f" ({title_of(str(repair['method']))})" if repair.get("method") else ""
    said = f"After the repair{method}, copies went from {percent(before)} to {percent(after)}"
    kept = repair.get("label_agreement_after")
    scores = repair.get("clip_before"), repair.get("clip_after")
    if kept is None and None not in scores:
        was, now = (decimal(score, 3) for score in scores)
        return f"{said}, and the CLIP score of images and prompts as asked from {was} to {now}."
    if kept is None:
        return said + "; whether what was asked for is still shown was not measured."
    was = repair.get("label_agreement_before")
    compared = f" ({percent(was)} before)" if was is not None else ""
    asked = f"the {wording(results).label}s asked for"
    return f"{said}, and {asked} are shown correctly in {percent(kept)}{compared}."


def _tiles(results: Results) -> tuple[tuple[str, str, str], ...]:
    copies, repair = results.get("similarity", {}), results.get("mitigation", {})
    chosen = signal_row(results) if signal_title(results) else default_detection(results)
    area = chosen.get("auc")
    tiles = (
        (
            percent(copies.get("copy_rate_memorized")),
            "copies among images made from memorized prompts",
            interval(copies, "copy_rate_memorized"),
        ),
        (
            percent(copies.get("copy_rate_other")),
            "copies among images made from other prompts",
            interval(copies, "copy_rate_other"),
        ),
        (
            "not measured" if area is None else f"{area:.2f}",
            f"{signal_title(results) or 'warning signal'} (0.5 = a coin toss, 1 = perfect)",
            interval(chosen, "auc", "plain"),
        ),
        (
            percent(repair.get("copy_rate_after")),
            "copies from memorized prompts after the repair",
            interval(repair, "copy_rate_after"),
        ),
    )
    measured = (True, True, area is not None, repair.get("copy_rate_after") is not None)
    if "left_out" not in results:
        return tiles
    return tuple(tile for tile, yes in zip(tiles, measured, strict=True) if yes)
