"""The anatomy of a procedural chest phantom: one set of numbers per patient, and its fields.

Coordinates: x from -1 (image left, the patient's right) to 1, y from -1 (top) to 1. A film is
built as attenuation: soft tissue adds to it, air in the lungs takes away from it.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw

Field = Float32[np.ndarray, "s s"]


class Anatomy(NamedTuple):
    """One patient. Lengths are in half image widths.

    Attributes:
        width: Outer half-width of the lungs.
        apex: Height of the lung tips.
        base: Height of the outer lung corners; ``dome`` is how far the diaphragm rises above it.
        heart: Half-width of the heart as a share of ``width`` (cardiothoracic ratio).
        tilt: Direction of the heart's long axis in radians.
        habitus: Soft tissue, 0 (thin) to 1 (obese).
    """

    width: float
    shoulder: float
    widest: float
    apex: float
    base: float
    dome: float
    asymmetry: float
    inner: float
    heart: float
    heart_height: float
    heart_level: float
    tilt: float
    knob: float
    mediastinum: float
    trachea: float
    scoliosis: float
    rib_spacing: float
    rib_droop: float
    rib_anterior: float
    rib_contrast: float
    clavicle: float
    clavicle_slope: float
    scapula: float
    habitus: float
    breast: float
    vessels: float
    texture: float
    lung_air: float
    stomach: float
    neck: float
    vessel_seed: int


_RANGES = {
    "width": (0.60, 0.82),
    "shoulder": (0.55, 0.85),
    "widest": (0.05, 0.35),
    "apex": (-0.86, -0.62),
    "base": (0.45, 0.86),
    "dome": (0.16, 0.40),
    "asymmetry": (0.00, 0.12),
    "inner": (0.09, 0.15),
    "heart": (0.37, 0.47),
    "heart_height": (0.28, 0.38),
    "heart_level": (-0.02, 0.08),
    "tilt": (0.35, 0.95),
    "knob": (0.06, 0.12),
    "mediastinum": (0.10, 0.17),
    "trachea": (-0.04, 0.03),
    "scoliosis": (-0.06, 0.06),
    "rib_spacing": (0.135, 0.185),
    "rib_droop": (0.12, 0.50),
    "rib_anterior": (0.25, 0.60),
    "rib_contrast": (0.10, 0.30),
    "clavicle": (-0.02, 0.14),
    "clavicle_slope": (-0.30, 0.12),
    "scapula": (0.10, 0.40),
    "habitus": (0.0, 1.0),
    "breast": (0.0, 0.5),
    "vessels": (0.35, 0.75),
    "texture": (0.02, 0.08),
    "lung_air": (1.15, 1.55),
    "stomach": (0.0, 0.7),
    "neck": (0.20, 0.34),
}


def sample_anatomy(rng: np.random.Generator, sex: str, age: int) -> Anatomy:
    """Draw one patient; women get breast shadows, old age a larger aortic knob."""
    drawn = {name: float(rng.uniform(*span)) for name, span in _RANGES.items()}
    drawn["breast"] = 0.25 + 0.6 * drawn["breast"] if sex == "Female" else 0.1 * drawn["breast"]
    drawn["knob"] += 0.0008 * (age - 50)
    drawn["rib_contrast"] *= 1.25 - 0.005 * age
    return Anatomy(**drawn, vessel_seed=int(rng.integers(2**31)))


@functools.lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """Pixel centers (x, y) in [-1, 1]; each broadcast to the full square."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    x.flags.writeable = y.flags.writeable = False
    return x, y


class Pose(NamedTuple):
    """How the patient stands in front of the film: shift, rotation (radians) and scale."""

    dx: float
    dy: float
    angle: float
    scale: float

    def to_body(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Film coordinates → body coordinates."""
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        x, y = x - np.float32(self.dx), y - np.float32(self.dy)
        k = np.float32(1 / self.scale)
        return (c * x + s * y) * k, (c * y - s * x) * k

    def to_film(self, points: np.ndarray) -> np.ndarray:
        """Body coordinates [..., 2] → film coordinates."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        turned = points @ np.array([[c, s], [-s, c]])
        return turned * self.scale + np.array([self.dx, self.dy])


def step(distance: Field, softness: float) -> Field:
    """A soft edge: 1 where ``distance`` is well above 0, 0 well below, a cubic between."""
    u = np.clip(distance * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    return u * u * (3 - 2 * u)


def blob(x: Field, y: Field, cx: float, cy: float, rx: float, ry: float) -> Field:
    """A Gaussian ``exp(-(dx²/rx² + dy²/ry²))``."""
    dx, dy = (x - np.float32(cx)) * np.float32(1 / rx), (y - np.float32(cy)) * np.float32(1 / ry)
    return np.exp(-(dx * dx + dy * dy))


def ellipse(
    x: Field, y: Field, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0
) -> Field:
    """An approximate signed distance to an ellipse, positive inside."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    u = (c * dx + s * dy) * np.float32(1 / rx)
    v = (c * dy - s * dx) * np.float32(1 / ry)
    return (1 - np.sqrt(u * u + v * v)) * np.float32(min(rx, ry))


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Noise of unit variance at its nodes, ``cells`` nodes across, bicubic between."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    fine = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(fine, np.float32)


class Strokes:
    """Curves drawn at twice the resolution and averaged down: vessels, tubes, wires."""

    def __init__(self, size: int, pose: Pose):
        self._size, self._pose = size, pose
        self._canvas = Image.new("L", (2 * size, 2 * size))
        self._draw = ImageDraw.Draw(self._canvas)

    def line(self, points: np.ndarray, width: float, value: float) -> None:
        """A polyline in body coordinates; ``width`` in half image widths, ``value`` in [0, 1]."""
        thick = max(1, round(width * self._size))
        self._draw.line(self._flat(points), fill=round(255 * value), width=thick, joint="curve")

    def segments(self, starts: np.ndarray, ends: np.ndarray, width: float, value: float) -> None:
        """Many straight pieces [n, 2] → [n, 2] of one width and value."""
        thick, fill = max(1, round(width * self._size)), round(255 * value)
        both = (self._pose.to_film(np.stack([starts, ends], 1)) + 1) * self._size
        for piece in both.reshape(-1, 4).tolist():
            self._draw.line(piece, fill=fill, width=thick)

    def polygon(self, points: np.ndarray, value: float) -> None:
        """A filled polygon in body coordinates."""
        self._draw.polygon(self._flat(points), fill=round(255 * value))

    def _flat(self, points: np.ndarray) -> list[float]:
        return ((self._pose.to_film(points) + 1) * self._size).ravel().tolist()

    def field(self) -> Field:
        """The drawing as coverage in [0, 1]."""
        return np.asarray(self._canvas.reduce(2), np.float32) * np.float32(1 / 255)


class Lungs(NamedTuple):
    """Fields that the findings need to know where they are.

    Attributes:
        x, y: Body coordinates.
        ax: Distance from the midline.
        left: 1 on the patient's left (image right), 0 on the right.
        rim: Signed distance to the chest wall, positive inside.
        floor: Signed distance above the diaphragm.
        air: Soft mask of aerated lung.
    """

    x: Field
    y: Field
    ax: Field
    left: Field
    rim: Field
    floor: Field
    air: Field


def lungs(anatomy: Anatomy, x: Field, y: Field, raise_right: float, raise_left: float) -> Lungs:
    """The two lung fields: an egg above, the chest wall at the side, the dome below."""
    a = anatomy
    mid = x - np.float32(a.scoliosis) * (1 - y * y)
    ax = np.abs(mid)
    left = (mid > 0).astype(np.float32)
    center = 0.40 * a.width
    lateral = np.float32(a.width - center)
    across = np.where(ax > center, (ax - center) / lateral, (center - ax) / np.float32(center))
    above = np.maximum(np.float32(a.widest) - y, 0) * np.float32(1 / (a.widest - a.apex))
    power = np.float32(1.6 + a.shoulder)
    egg = 1 - (across**power + above**power)
    rim = egg * np.float32(0.5 * lateral)
    side = left * np.float32(0.5 * a.asymmetry + 0.02 + -raise_left) - (1 - left) * np.float32(
        0.5 * a.asymmetry + raise_right
    )
    u = (ax - np.float32(0.42 * a.width)) * np.float32(1 / (0.58 * a.width))
    floor = np.float32(a.base - a.dome) + side + np.float32(a.dome) * u * u - y
    air = step(rim, 0.035) * step(floor, 0.03) * step(ax - np.float32(a.inner * 0.6), 0.05)
    return Lungs(mid, y, ax, left, rim, floor, air)


def rib_fields(
    anatomy: Anatomy, field: Lungs, fracture: tuple[float, float, float] | None
) -> Field:
    """Posterior and anterior ribs as brightness in [0, 1].

    Args:
        anatomy: The patient.
        field: Lung fields.
        fracture: (side sign, height, size of the step) of a broken stretch of ribs, or None.
    """
    a = anatomy
    u = field.ax * np.float32(1 / a.width)
    posterior = np.float32(a.rib_droop) * u * u - np.float32(0.22) * u * (1 - u)
    anterior = np.float32(a.rib_droop) + np.float32(a.rib_anterior) * (1.05 - u)
    y = field.y
    if fracture is not None:
        sign, level, size = fracture
        near = step(field.x * np.float32(sign) - np.float32(0.62 * a.width), 0.02)
        near = near * blob(field.x, y, sign * a.width * 0.8, level, 0.6, 0.26)
        y = y + np.float32(size) * near
    cage = step(field.rim + 0.06, 0.04) * (0.25 + 0.75 * step(field.floor + 0.1, 0.15))
    back = _bands((y - posterior - np.float32(a.apex)) * np.float32(1 / a.rib_spacing), 0.23, 10)
    front = _bands((y - anterior - np.float32(a.apex)) * np.float32(1 / a.rib_spacing), 0.30, 5)
    front = front * step(u - 0.42, 0.12)
    return (back + np.float32(0.55) * front) * cage


def _bands(phase: Field, half: float, count: int) -> Field:
    """Rib profiles once per unit of phase: a hollow tube, brighter along its edges."""
    whole = np.floor(phase)
    d = np.abs(phase - whole - np.float32(0.5)) * np.float32(1 / half)
    tube = np.clip(4 * (1 - d), 0, 1) * (0.55 + 0.45 * np.minimum(d, 1) ** 2)
    return tube * ((whole >= 0) & (whole < count))
