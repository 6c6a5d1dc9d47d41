"""The words of a report: what the data are called, families of prompts, numbers in words."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# Embeddings, overrides and isolates of direction; controls; halves of pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NB = "\N{NO-BREAK SPACE}"
_FAMILIES = {
    "memorized": "memorized",
    "once": "trained once",
    "held_out": "never trained on",
    "near_miss": "near miss: one detail changed",
    "random": "random prompt",
    "all": "all other prompts",
}


class Wording(NamedTuple):
    """What the images of this report are called.

    ``data``: "chest X-rays"; ``unit``: "films"; ``label``: what a prompt asks for ("finding");
    ``stranger``: what an ordinary nearest image shows ("a different patient").
    """

    data: str
    unit: str
    label: str
    stranger: str


def wording(results: Mapping[str, Any]) -> Wording:
    """Returns the words for ``results["data"]``; without a name or unit, plain "images"."""
    data = results.get("data") or {}
    unit = str(data.get("unit") or "images")
    films = unit == "films"
    return Wording(
        str(data.get("name") or unit),
        unit,
        "finding" if films else "label",
        "a different patient" if films else "something else",
    )


def family_title(name: str) -> str:
    """Returns a family of prompts in words; other names stay as they are."""
    return _FAMILIES.get(name, name)


def percent(rate: Any) -> str:
    """Returns a rate as a whole percentage, "not measured" for None; never rounds to 0 or 100."""
    if rate is None or not math.isfinite(rate):
        return "not measured"
    if 0 < rate < 0.005:
        return f"under 1{_NB}%"
    if 0.995 < rate < 1:
        return f"over 99{_NB}%"
    return f"{100 * rate:.0f}{_NB}%"


def few_copies(found: float) -> str:
    """Returns how a headline begins where few copies, or none, were found."""
    return "Few copies of training images were found" if found else "No training image was copied"


def decimal(value: float, digits: int = 2) -> str:
    """Returns a number with a true minus sign; never "−0.00"."""
    text = f"{value:,.{digits}f}"
    negative = text.startswith("-") and any(c in "123456789" for c in text)
    return ("−" if negative else "") + text.lstrip("-")


def interval(section: Mapping[str, Any], key: str, style: str = "percent") -> str:
    """Returns "low–high" of ``key_low`` and ``key_high``, or "" where they are missing."""
    low, high = section.get(f"{key}_low"), section.get(f"{key}_high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    if style == "percent":
        return f"{100 * low:.0f}–{100 * high:.0f}{_NB}%"
    return f"{decimal(low)}{' to ' if low < 0 else '–'}{decimal(high)}"


def number(count: int) -> str:
    """Returns a count with its thousands set apart."""
    return f"{count:,}"


def p_value_text(p_value: float | None) -> str:
    """Returns a paired test's p in words."""
    if p_value is None or not math.isfinite(p_value):
        return "not tested"
    return "Wilcoxon p < 0.001" if p_value < 0.001 else f"Wilcoxon p = {p_value:.3f}"


def correlation_title(rung: Mapping[str, Any]) -> str:
    """Returns a scatter's title: the rung, Spearman with its range, the number of images."""
    title = str(rung.get("title") or rung.get("name") or "Likeness")
    if rung.get("spearman") is None:
        return f"{title}: correlation not measured"
    between = interval(rung, "spearman", "plain")
    said = (
        f"{title}: Spearman {decimal(rung['spearman'])}{f' (range {between})' if between else ''}"
    )
    count = rung.get("num_pictures")
    return f"{said}, {number(count)} images" if count else said


def metric_title(key: str, titles: Mapping[str, str] | None = None) -> str:
    """Returns the name of a sweep's metric; ``titles`` has the last word."""
    given = (titles or {}).get(key)
    if given:
        return given
    if key in _METRICS:
        return _METRICS[key]
    for prefix, words in _PREFIXES.items():
        if key.startswith(prefix):
            return f"{words}: {key[len(prefix) :].replace('_', ' ')}"
    return key.replace("_", " ")[:1].upper() + key.replace("_", " ")[1:]


def is_share(key: str) -> bool:
    """Whether a metric is a share from 0 to 1 that is read as a percentage."""
    return key.startswith(_SHARES)


_SHARES = ("copy_rate", "label_agreement", "tpr_", "memorized_share", "copies_", "memorized_pat")
_METRICS = {
    "copy_rate": "Copies among generated images",
    "copy_rate_mix": "Copies, prompts drawn as in training",
    "copy_rate_memorized": "Copies, memorized prompts",
    "copy_rate_once": "Copies, prompts trained once",
    "copy_rate_held_out": "Copies, prompts never trained on",
    "copy_rate_near_miss": "Copies, prompts one detail beside a memorized one",
    "copy_rate_random": "Copies, random prompts",
    "copy_rate_other": "Copies, other prompts",
    "copy_rate_background": "Real images never trained on that count as copies",
    "copy_rate_third_mix": "Copies by the third rule, prompts drawn as in training",
    "copy_rate_before": "Copies before the repair",
    "copy_rate_after": "Copies after the repair",
    "auc_first_step": "Warning signal, first step (AUC)",
    "auc_first_k": "Warning signal, first steps (AUC)",
    "auc_all_steps": "Warning signal, all steps (AUC)",
    "label_agreement": "Images that show what was asked for",
    "label_agreement_memorized": "Memorized prompts: images that show what was asked for",
    "label_agreement_held_out": "Prompts never trained on: images that show what was asked for",
    "train_loss": "Denoising loss, training images",
    "repeated_loss": "Denoising loss, repeated training images",
    "held_out_loss": "Denoising loss, held-out images",
    "loss_gap": "Held-out minus training denoising loss",
    "fd": "Fréchet distance to the training images",
    "kid": "Kernel distance to the training images",
    "magnitude": "Pull of the prompt (RMS magnitude)",
}
_PREFIXES = {
    "spearman_": "Spearman, pull and likeness",
    "pearson_": "Pearson, pull and likeness",
    "partial_": "Spearman at fixed class frequency",
    "auc_copied_": "Copies told from the rest (AUC)",
    "planted_": "Copy encoder on planted copies",
    "similarity_": "Likeness to the nearest training image",
    "memorized_share_": "Training images copied at least once",
    "copies_share_": "Generated images that are copies",
    "copy_rate_third_": "Copies by the third rule",
    "copy_rate_": "Copies",
    "tpr_": "Found at few false alarms",
    "auc_": "AUC",
    "fd_": "Fréchet distance",
}


def visible(value: Any) -> Any:
    """Returns text with what turns the direction of what follows, or is no text, written out."""
    if not isinstance(value, str) or not _UNSEEN.search(value):
        return value
    return type(value)(_UNSEEN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", value))
