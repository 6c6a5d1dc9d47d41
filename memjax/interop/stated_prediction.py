"""What a single file says of itself, in its metadata or in the .yaml beside it.

What its U-Net predicts, and its noise schedule.

References:
    ModelSpec (github.com/Stability-AI/ModelSpec), ``modelspec.prediction_type``; the original
    repositories' configurations, ``parameterization``, ``linear_start``, ``linear_end`` and
    ``timesteps``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from memjax.core.schedules import ScheduleSpec
from memjax.interop.fields import shown

_KEY = "modelspec.prediction_type"
_WRITTEN = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}
_LONGEST = 2**20
_MOST_STEPS = 10**6
_PARAMETERIZATION = re.compile(r"^[ \t]*parameterization[ \t]*:[ \t]*[\"']?([\w-]+)", re.MULTILINE)
_LATENT_DIFFUSION = re.compile(r"^[ \t]*target[ \t]*:[^#\n]*\.LatentDiffusion\b", re.MULTILINE)
_NAMES = {"beta_schedule": "linear", "timesteps": "1000", "linear_start": "", "linear_end": ""}
_VALUE = r"^[ \t]*{}[ \t]*:[ \t]*[\"']?([\w.+-]+)"
_UNSAID = (
    "The weights do not say what the U-Net predicts: v was taken, as for Stable Diffusion 2 at 768 "
    "pixels; give prediction='eps' (--prediction=eps) for a base model."
)


class _Stated(NamedTuple):
    """A place that names the prediction, and how it does."""

    place: str
    text: str

    @property
    def prediction(self) -> str | None:
        return _WRITTEN.get(self.text.strip().lower())


def choose_prediction(
    path: Path, metadata: Mapping[str, str], given: str | None, second: bool, marked: bool = False
) -> tuple[str, list[str]]:
    """Returns ``"eps"`` or ``"v"``, and in a sentence what speaks against it.

    What is given counts most, then the metadata, a mark, the ``.yaml``. Where none of them says it,
    Stable Diffusion 1 is taken to predict ε and 2 to predict v.

    Args:
        path: The file; a ``.yaml`` with its name beside it is read.
        metadata: The file's metadata.
        given: What the user asks for, if anything.
        second: Whether the weights are those of Stable Diffusion 2.
        marked: Whether a tensor ``v_pred`` says that v is predicted.

    Raises:
        ValueError: Nothing is given, and the file names another prediction than these two.
    """
    stated = _stated(path, metadata, marked)
    if given is None and not stated:
        return ("v", [_UNSAID]) if second else ("eps", [])
    chosen = given or stated[0].prediction
    if chosen is None:
        raise ValueError(
            f"The {stated[0].place} of {path} names the prediction {shown(stated[0].text)}, "
            "expected 'epsilon' or 'v'; give prediction='eps' or 'v' (convert --prediction)."
        )
    others = [other for other in stated if other.prediction != chosen]
    against = [f"the {other.place} names {shown(other.text)}" for other in others]
    if given is None and not second and chosen == "v":
        against.append("Stable Diffusion 1 usually predicts eps")
    if not against:
        return chosen, []
    by = "was given" if given else f"was taken from the {stated[0].place}"
    return chosen, [f"The prediction {chosen} {by}, but {' and '.join(against)}."]


def choose_schedule(path: Path, usual: ScheduleSpec) -> tuple[ScheduleSpec, list[str]]:
    """Returns the noise schedule of the ``.yaml`` beside a file, or else the usual one.

    Returns:
        The schedule, and in a sentence where it is not the usual one.

    Raises:
        ValueError: The ``.yaml`` names a schedule that is not supported.
    """
    text = _yaml(path)
    found = {name: re.findall(_VALUE.format(name), text, re.MULTILINE) for name in _NAMES}
    if not (found["linear_start"] and found["linear_end"]):
        return usual, []
    values = [set(found[name]) or {default} for name, default in _NAMES.items()]
    try:
        (kind,), (steps,), (start,), (end,) = values
        if (
            kind != "linear" or int(steps) > _MOST_STEPS
        ):  # as its root, which diffusers names scaled_linear
            raise ValueError(f"beta_schedule {kind}")
        spec = ScheduleSpec("scaled_linear", int(steps), float(start), float(end))
    except ValueError as error:
        raise ValueError(
            f"The file {path.with_suffix('.yaml')} names a noise schedule that is not supported "
            f"({', '.join(f'{n}={shown(v)}' for n, v in found.items() if v)}), expected one "
            f"number each and the schedule linear; mend or remove that file."
        ) from error
    if spec == usual:
        return usual, []
    return spec, [
        f"The noise schedule was taken from the file {path.stem}.yaml: {spec.num_timesteps} steps, "
        f"{spec.beta_start:g} to {spec.beta_end:g}."
    ]


def _stated(path: Path, metadata: Mapping[str, str], marked: bool) -> list[_Stated]:
    found = {
        f"metadata ({_KEY})": metadata.get(_KEY),
        "mark v_pred": "v" if marked else None,
        f"file {path.stem}.yaml": _of_yaml(path),
    }
    return [_Stated(place, text) for place, text in found.items() if text]


def _of_yaml(path: Path) -> str | None:
    """Reads one line of a configuration; one of latent diffusion without it predicts ε."""
    text = _yaml(path)
    found = set(_PARAMETERIZATION.findall(text))
    if found:
        return found.pop() if len(found) == 1 else None
    return "eps" if _LATENT_DIFFUSION.search(text) else None


def _yaml(path: Path) -> str:
    beside = path.with_suffix(".yaml")
    if not beside.is_file() or beside.stat().st_size > _LONGEST:
        return ""
    return beside.read_text(encoding="utf-8-sig", errors="replace")
