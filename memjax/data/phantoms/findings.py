"""The findings of a phantom: what each of CheXpert's labels looks like on the film."""

from typing import NamedTuple

import numpy as np

from memjax.data.labels.space import FINDINGS
from memjax.data.phantoms.anatomy import (
    Anatomy,
    Field,
    Lungs,
    Pose,
    Strokes,
    blob,
    ellipse,
    smooth_noise,
    step,
)


class Findings(NamedTuple):
    """How strongly each finding shows, and where.

    Attributes:
        strength: One number in [0, 1] per name in FINDINGS; 0 = absent.
        side: The side of each one-sided finding: -1 image left, 1 image right.
        place: Three numbers in [0, 1] per finding that say where and how large.
    """

    strength: tuple[float, ...]
    side: tuple[float, ...]
    place: tuple[tuple[float, float, float], ...]

    def severity(self, name: str) -> float:
        """Strength of a finding by name."""
        return self.strength[FINDINGS.index(name)]

    def of(self, name: str) -> tuple[float, float, tuple[float, float, float]]:
        """(strength, side, place) of a finding."""
        i = FINDINGS.index(name)
        return self.strength[i], self.side[i], self.place[i]

    def raised(self, left: int) -> float:
        """How far atelectasis lifts the diaphragm of one side."""
        strength, side, _ = self.of("Atelectasis")
        return 0.24 * strength if (side > 0) == bool(left) else 0.0

    @property
    def fracture(self) -> tuple[float, float, float] | None:
        """(side, height, step) of broken ribs."""
        strength, side, place = self.of("Fracture")
        return (side, -0.35 + 0.5 * place[0], 0.09 * strength) if strength else None


def heart_scale(findings: Findings) -> float:
    """Width of the heart relative to the patient's own."""
    strength, _, place = findings.of("Cardiomegaly")
    return 1 + strength * (0.40 + 0.28 * place[0])


def add_findings(
    density: Field,
    air: Field,
    parenchyma: Field,
    anatomy: Anatomy,
    findings: Findings,
    f: Lungs,
    size: int,
    rng: np.random.Generator,
) -> Field:
    """Lay lung texture and every present finding over the film's attenuation."""
    density = density + parenchyma * air
    noise = smooth_noise(rng, size, 9)
    for name, paint in _PAINTERS.items():
        if findings.severity(name):
            density = paint(density, air, parenchyma, anatomy, findings, f, noise)
    return density


def _center(a: Anatomy, side: float, place: tuple[float, float, float]) -> tuple[float, float]:
    """A spot within one lung from two numbers in [0, 1]."""
    top, bottom = a.apex + 0.28, a.base - a.dome - 0.10
    return side * a.width * (0.40 + 0.28 * place[0]), top + (bottom - top) * place[1]


def _pneumothorax(density, air, parenchyma, a, findings, f, noise):
    strength, side, place = findings.of("Pneumothorax")
    depth = 0.05 + (0.05 + 0.07 * place[0]) * strength
    inside = f.rim - np.float32(depth) * (1.15 - 0.5 * (f.y - np.float32(a.apex)))
    this = step(f.x * np.float32(side), 0.02) * air
    rim = step(-inside, 0.02) * this
    line = step(0.012 - np.abs(inside), 0.014) * this
    collapsed = step(inside, 0.02) * this
    fade = rim * (parenchyma + np.float32(0.75) * strength)
    return density - fade + np.float32(0.65) * line + np.float32(0.50 * strength) * collapsed


def _edema(density, air, parenchyma, a, findings, f, noise):
    strength, _, place = findings.of("Edema")
    level = a.apex + 0.72
    wings = blob(f.ax, f.y, 0.26, level, 0.26 + 0.08 * place[0], 0.34 + 0.1 * place[1])
    haze = np.float32(0.95 * strength) * wings * (1 + 0.25 * noise)
    lines = np.cos(f.y * np.float32(90)) > 0.6
    kerley = np.float32(0.22 * strength) * lines * step(f.ax - np.float32(0.78 * a.width), 0.05)
    return density + air * (haze + kerley + np.float32(0.5 * strength) * parenchyma + 0.08)


def _consolidation(density, air, parenchyma, a, findings, f, noise):
    strength, side, place = findings.of("Consolidation")
    upper = place[2] > 0.5
    fissure = a.apex + 0.62 + 0.12 * place[1]
    edge = (fissure - f.y) if upper else (f.y - fissure)
    lobe = step(edge + 0.10 * (f.ax - 0.3), 0.03 if upper else 0.12)
    lobe = lobe * step(f.x * np.float32(side), 0.03)
    return density + np.float32(1.05 * strength) * lobe * air * (0.92 + 0.10 * noise)


def _pneumonia(density, air, parenchyma, a, findings, f, noise):
    strength, side, place = findings.of("Pneumonia")
    cx, cy = _center(a, side, (place[0], 0.55 + 0.45 * place[1], 0))
    patch = blob(f.x, f.y, cx, cy, 0.24 + 0.08 * place[2], 0.30)
    spots = np.clip(0.35 + 0.8 * noise, 0, 1.3)
    return density + np.float32(1.25 * strength) * patch * spots * air


def _opacity(density, air, parenchyma, a, findings, f, noise):
    strength, side, place = findings.of("Lung Opacity")
    cx, cy = _center(a, side, place)
    return density + np.float32(0.85 * strength) * air * blob(f.x, f.y, cx, cy, 0.30, 0.24) * (
        1 + 0.2 * noise
    )


def _lesion(density, air, parenchyma, a, findings, f, noise):
    strength, side, place = findings.of("Lung Lesion")
    cx, cy = _center(a, side, place)
    radius = 0.07 + 0.06 * place[2]
    nodule = step(ellipse(f.x, f.y, cx, cy, radius, radius * 0.92), 0.02)
    return density + np.float32(0.95 * strength) * nodule * np.maximum(air, 0.3)


def _atelectasis(density, air, parenchyma, a, findings, f, noise):
    strength, side, place = findings.of("Atelectasis")
    level = a.base - a.dome - 0.24 * strength - 0.10 - 0.10 * place[0]
    tilt = (place[1] - 0.5) * 0.7
    along = f.x * np.float32(side)
    bands = 0.0
    for offset in (0.0, -0.12):
        line = f.y - np.float32(level + offset) - np.float32(tilt) * (along - 0.35)
        bands = np.maximum(bands, step(0.020 - np.abs(line), 0.018))
    where = step(along - 0.10, 0.05) * step(0.72 * a.width - along, 0.06)
    haze = blob(f.x, f.y, side * 0.3, level + 0.12, 0.3, 0.12)
    return density + np.float32(strength) * (0.70 * bands * where * air + 0.35 * haze * air)


def _effusion(density, air, parenchyma, a, findings, f, noise):
    strength, side, place = findings.of("Pleural Effusion")
    both = place[2] > 0.7
    level = a.base - a.dome + 0.02 - strength * (0.10 + 0.26 * place[0])
    wall = np.maximum(np.float32(a.width) - f.ax, 0)
    surface = np.float32(level) - 0.30 * np.exp(wall * np.float32(-1 / 0.13)) * strength
    fluid = step(f.y - surface, 0.035) * step(f.rim + 0.03, 0.05)
    sides = 1.0 if both else step(f.x * np.float32(side), 0.04)
    lungward = step(f.floor + 0.06, 0.08)
    return density + np.float32(1.25) * fluid * sides * np.maximum(air, 0.25 * lungward)


def _pleural_other(density, air, parenchyma, a, findings, f, noise):
    strength, side, place = findings.of("Pleural Other")
    thick = 0.05 + 0.04 * place[0] + 0.02 * noise
    coat = step(thick - f.rim, 0.02) * step(f.x * np.float32(side), 0.03)
    plaque = ellipse(f.x, f.y, side * a.width * 0.8, -0.1 + 0.4 * place[1], 0.04, 0.12, 0.2 * side)
    return density + np.float32(strength) * (0.75 * coat * air + 0.5 * step(plaque, 0.015))


_PAINTERS = {
    "Lung Opacity": _opacity,
    "Edema": _edema,
    "Consolidation": _consolidation,
    "Pneumonia": _pneumonia,
    "Lung Lesion": _lesion,
    "Atelectasis": _atelectasis,
    "Pneumothorax": _pneumothorax,
    "Pleural Effusion": _effusion,
    "Pleural Other": _pleural_other,
}


def add_devices(
    density: Field,
    a: Anatomy,
    findings: Findings,
    size: int,
    pose: Pose,
    rng: np.random.Generator,
) -> Field:
    """Support devices: a pacemaker, or a tube, a central line and leads."""
    strength, side, place = findings.of("Support Devices")
    if not strength:
        return density
    strokes = Strokes(size, pose)
    if place[0] < 0.45:
        _pacemaker(strokes, a, side, place)
    else:
        _tubes(strokes, a, side, place)
    if place[1] > 0.4:
        _leads(strokes, a, rng)
    return density + np.float32(2.2 * (0.5 + 0.5 * strength)) * strokes.field()


def _arc(*points: tuple[float, float]) -> np.ndarray:
    """A Bézier curve of the given control points as 16 points."""
    return _bezier(np.array(points), np.linspace(0, 1, 16)[:, None])


def _bezier(points: np.ndarray, t: np.ndarray) -> np.ndarray:
    if len(points) == 1:
        return np.repeat(points, len(t), 0)
    return (1 - t) * _bezier(points[:-1], t) + t * _bezier(points[1:], t)


def _pacemaker(strokes: Strokes, a: Anatomy, side: float, place: tuple) -> None:
    cx, cy = side * a.width * 0.66, a.apex + 0.34
    turn = np.linspace(0, 2 * np.pi, 20)
    box = np.stack([np.cos(turn), np.sin(turn)], 1)
    box = np.sign(box) * np.abs(box) ** 0.6 * np.array([0.13, 0.11]) + np.array([cx, cy])
    strokes.polygon(box, 0.9)
    tip = (0.20 + 0.1 * place[2], a.base - a.dome - 0.02)
    strokes.line(
        _arc((cx, cy - 0.1), (side * 0.2, cy - 0.42), (-0.16, cy), (-0.2, 0.2), tip), 0.03, 0.8
    )


def _tubes(strokes: Strokes, a: Anatomy, side: float, place: tuple) -> None:
    strokes.line(np.array([[a.trachea, -1.2], [a.trachea, a.apex + 0.40]]), 0.03, 0.7)
    end = (-0.13, a.apex + 0.80)
    strokes.line(
        _arc((side * 0.4, -1.1), (side * 0.25, a.apex + 0.05), (-0.18, a.apex + 0.2), end),
        0.03,
        0.75,
    )
    if place[2] > 0.5:
        strokes.line(_arc((0.03, -1.1), (0.05, 0.0), (0.02, 0.5), (0.35, a.base)), 0.03, 0.6)


def _leads(strokes: Strokes, a: Anatomy, rng: np.random.Generator) -> None:
    for _ in range(2):
        sign = rng.choice([-1.0, 1.0])
        x, y = sign * rng.uniform(0.35, 0.8) * a.width, rng.uniform(-0.4, 0.5)
        turn = np.linspace(0, 2 * np.pi, 12)
        disc = 0.035 * np.stack([np.cos(turn), np.sin(turn)], 1) + np.array([x, y])
        strokes.polygon(disc, 0.7)
        out = (sign * 1.3, y + rng.uniform(-0.5, 0.6))
        strokes.line(_arc((x, y), (x + 0.2 * sign, y + rng.uniform(-0.3, 0.3)), out), 0.02, 0.6)
