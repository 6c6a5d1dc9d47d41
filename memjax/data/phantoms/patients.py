"""Who lies on the table: phantom patients, their studies, findings, poses and exposures."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from memjax.data.labels.space import BLANK, FINDINGS, NEGATIVE, POSITIVE, UNCERTAIN
from memjax.data.phantoms.anatomy import Pose, sample_anatomy
from memjax.data.phantoms.film import Exposure, draw_frontal, draw_lateral
from memjax.data.phantoms.findings import Findings

# How often each finding is present; two films in three have one or two, as in a hospital's archive.
PREVALENCE: dict[str, float] = {
    "No Finding": 0.16,
    "Enlarged Cardiomediastinum": 0.08,
    "Cardiomegaly": 0.28,
    "Lung Opacity": 0.14,
    "Lung Lesion": 0.10,
    "Edema": 0.22,
    "Consolidation": 0.14,
    "Pneumonia": 0.08,
    "Atelectasis": 0.14,
    "Pneumothorax": 0.14,
    "Pleural Effusion": 0.30,
    "Pleural Other": 0.05,
    "Fracture": 0.06,
    "Support Devices": 0.34,
}
_NEVER_DOUBTFUL = ("Support Devices", "Fracture")


class Film(NamedTuple):
    """One radiograph: its table row and its pixels."""

    sex: str
    age: int
    frontal: bool
    view: str
    findings: tuple[int, ...]
    markers: tuple[str, ...]
    pixels: UInt8[np.ndarray, "s s"]


class Patient:
    """One patient: anatomy and habits of exposure follow from seed and number alone.

    Args:
        seed: Seed of the data set.
        number: The patient's number.
        studies: Fewest and most studies of a patient.
    """

    def __init__(self, seed: int, number: int, studies: tuple[int, int] = (1, 3)):
        self.seed, self.number = seed, number
        rng = np.random.default_rng([seed, 1, number])
        self.sex = "Male" if rng.random() < 0.55 else "Female"
        self.age = int(np.clip(rng.normal(60, 18), 18, 90))
        self.anatomy = sample_anatomy(rng, self.sex, self.age)
        self.num_studies = int(rng.integers(studies[0], studies[1] + 1))
        self._habits = rng.uniform(-1, 1, 8)
        self._bedside = rng.random() < 0.6

    def film(
        self,
        study: int,
        *,
        size: int,
        frontal: bool = True,
        markers: tuple[str, ...] = (),
        marker_scale: int = 1,
        certain: bool = False,
    ) -> Film:
        """One film of one study.

        Args:
            study: The study's number; findings belong to the study.
            size: Edge in pixels.
            frontal: A frontal or a lateral film.
            markers: The codes to burn in.
            marker_scale: Enlarges the codes.
            certain: Whether the labels are 0 and 1 only, as in CheXpert's valid.csv.
        """
        lasting = np.random.default_rng([self.seed, 5, self.number])
        passing = np.random.default_rng([self.seed, 3, self.number, study])
        states, shown = sample_findings(lasting, passing, certain)
        rng = np.random.default_rng([self.seed, 4, self.number, study, int(frontal)])
        usual = rng.random() < 0.85
        view = ("AP" if self._bedside == usual else "PA") if frontal else ""
        pose, exposure = _pose(rng, self._habits, view), _exposure(rng, self._habits)
        draw = draw_frontal if frontal else draw_lateral
        pixels = draw(
            self.anatomy, shown, size=size, pose=pose, exposure=exposure, view=view,
            markers=markers, marker_scale=marker_scale, rng=rng,
        )  # fmt: skip
        return Film(self.sex, self.age, frontal, view, states, markers, pixels)


def _pose(rng: np.random.Generator, habits: np.ndarray, view: str) -> Pose:
    small = rng.uniform(-1, 1, 4)
    scale = 1.12 + 0.12 * habits[2] + 0.02 * small[2] + (0.03 if view == "AP" else 0.0)
    return Pose(
        dx=0.08 * habits[0] + 0.02 * small[0],
        dy=0.04 + 0.08 * habits[1] + 0.02 * small[1],
        angle=0.06 * habits[3] + 0.02 * small[3],
        scale=scale,
    )


def _exposure(rng: np.random.Generator, habits: np.ndarray) -> Exposure:
    small = rng.uniform(-1, 1, 4)
    edges = np.where(rng.random(4) < 0.2, rng.uniform(0.90, 0.98, 4), 1.1)
    return Exposure(
        center=1.20 + 0.28 * habits[4] + 0.06 * small[0],
        width=0.50 + 0.12 * habits[5] + 0.03 * small[1],
        noise=0.015 + 0.02 * rng.random(),
        tilt_x=0.18 * habits[6] + 0.03 * small[2],
        tilt_y=0.18 * habits[7] + 0.03 * small[3],
        collimation=(-edges[0], edges[1], -edges[2], edges[3]),
    )


def sample_findings(
    lasting: np.random.Generator, passing: np.random.Generator, certain: bool = False
) -> tuple[tuple[int, ...], Findings]:
    """Draw the labels of one study and how they show.

    Args:
        lasting: The patient's generator: where a finding sits, and three in five of its states.
        passing: The study's generator: the others.
        certain: Whether every finding is positive or negative.
    """
    n = len(FINDINGS)
    chronic, acute = lasting.random((n, 3)), passing.random((n, 3))
    draws = np.where(passing.random((n, 1)) < 0.6, chronic, acute)
    side = tuple(lasting.choice([-1.0, 1.0], n).tolist())
    places = [(float(a), float(b), float(c)) for a, b, c in lasting.random((n, 3))]
    clear = draws[0, 0] < PREVALENCE["No Finding"]
    states, strengths = [POSITIVE if clear else BLANK], [0.0]
    for name, (present, doubt, degree) in zip(FINDINGS[1:], draws[1:].tolist(), strict=True):
        may = not clear or name == "Support Devices"
        if may and present < PREVALENCE[name]:
            doubtful = doubt < 0.12 and name not in _NEVER_DOUBTFUL and not certain
            states.append(UNCERTAIN if doubtful else POSITIVE)
            strengths.append(0.45 if doubtful else 0.85 + 0.15 * degree)
        else:
            states.append(NEGATIVE if doubt < 0.25 else BLANK)
            strengths.append(0.0)
    if certain:
        states = [NEGATIVE if state == BLANK else state for state in states]
    return tuple(states), Findings(tuple(strengths), side, tuple(places))
