"""From anatomy and findings to a film: attenuation, exposure, noise, burned-in marker.

Brightness is a sigmoid of attenuation, as a film's characteristic curve is; so ribs show over
the dark lungs and fade over the mediastinum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from memjax.data.phantoms.anatomy import (
    Anatomy,
    Field,
    Lungs,
    Pose,
    Strokes,
    blob,
    ellipse,
    grid,
    lungs,
    rib_fields,
    smooth_noise,
    step,
)
from memjax.data.phantoms.findings import Findings, add_devices, add_findings, heart_scale
from memjax.data.phantoms.glyphs import stamp


class Exposure(NamedTuple):
    """Film settings of one image: center and width of the window, noise, tilt, collimation."""

    center: float
    width: float
    noise: float
    tilt_x: float
    tilt_y: float
    collimation: tuple[float, float, float, float]


def draw_frontal(
    anatomy: Anatomy,
    findings: Findings,
    *,
    size: int,
    pose: Pose,
    exposure: Exposure,
    view: str,
    markers: Sequence[str],
    marker_scale: int = 1,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "size size"]:
    """One frontal film; ``rng`` draws what differs between two films of one study: the grain."""
    scale = 2 if size < 64 else 1
    drawn = size * scale
    fx, fy = grid(drawn)
    x, y = pose.to_body(fx, fy)
    field = lungs(anatomy, x, y, findings.raised(0), findings.raised(1))
    heart = _heart(anatomy, findings, field, view)
    density = _tissue(anatomy, field, x, y) + _bones(anatomy, findings, field, x, y, view)
    middle = _mediastinum(anatomy, findings, field)
    solid = np.maximum(heart, middle)
    air = field.air * (1 - np.float32(0.93) * solid)
    strokes = _vessels(anatomy, drawn, pose)
    texture = smooth_noise(np.random.default_rng(anatomy.vessel_seed), drawn, 24)
    parenchyma = np.float32(anatomy.vessels) * strokes + np.float32(anatomy.texture) * texture
    density -= np.float32(anatomy.lung_air) * air
    density += 0.42 * heart + 0.30 * middle
    density = add_findings(density, air, parenchyma, anatomy, findings, field, drawn, rng)
    density += _airway(anatomy, field) + _belly(anatomy, field)
    density = add_devices(density, anatomy, findings, drawn, pose, rng)
    return _burn_in(_develop(density, exposure, scale, size, rng), markers, marker_scale)


def _heart(a: Anatomy, findings: Findings, f: Lungs, view: str) -> Field:
    """Left ventricle, right atrium and the waist between them and the great vessels."""
    grow = heart_scale(findings) * (1.08 if view == "AP" else 1.0)
    half = a.heart * a.width * grow
    level = a.base - a.dome - a.heart_level
    tall = a.heart_height * (0.75 + 0.25 * grow)
    ventricle = ellipse(f.x, f.y, 0.34 * half, level, half * 1.02, tall * 0.80, a.tilt * 0.7)
    atrium = ellipse(f.x, f.y, -0.16 * half, level - 0.04, 0.52 * half, 0.30)
    waist = ellipse(f.x, f.y, 0.12 * half, level - 0.75 * tall, 0.62 * half, 0.62 * tall, 0.5)
    return step(np.maximum(np.maximum(ventricle, atrium), waist), 0.03)


def _mediastinum(a: Anatomy, findings: Findings, f: Lungs) -> Field:
    widened = findings.severity("Enlarged Cardiomediastinum")
    wide = a.mediastinum * (1 + 1.15 * widened)
    top = step(np.float32(wide) - f.ax + 0.05 * np.maximum(f.y, 0), 0.045)
    knob = a.knob * (1 + 0.35 * widened)
    arch = step(ellipse(f.x, f.y, wide * 0.75, a.apex + 0.42, knob, knob * 1.15), 0.03)
    right = step(ellipse(f.x, f.y, -0.6 * wide, a.apex + 0.62, 0.09, 0.2), 0.04)
    hila = blob(f.ax, f.y, 0.17, a.apex + 0.68, 0.09, 0.13) * np.float32(0.6)
    return np.maximum(np.maximum(top, arch), np.maximum(right, hila))


def _tissue(a: Anatomy, f: Lungs, x: Field, y: Field) -> Field:
    """Soft tissue of trunk, neck, shoulders and breasts."""
    ax = np.abs(x)
    neck = a.neck
    beyond = ax - np.float32(neck)
    shoulder = np.float32(a.apex - 0.14) + 0.28 * beyond - 0.30 * np.exp(-9 * beyond)
    side = np.float32(a.width + 0.10 + 0.26 * a.habitus) - ax + 0.10 * y
    arm = step(0.2 - y, 0.25) * 0.6
    inside = np.minimum(y - shoulder, side + arm)
    trunk = np.clip(inside * np.float32(1 / 0.22), 0, 1)
    depth = np.sqrt(trunk) * np.float32(1.45 + 0.35 * a.habitus)
    lower = np.float32(0.25 + 0.2 * a.habitus) * step(y - 0.1, 0.8)
    breast = ellipse(f.ax, y, a.width * 0.62, a.base - a.dome - 0.02, 0.36, 0.30)
    return depth + trunk * lower + np.float32(a.breast) * step(breast, 0.10)


def _bones(a: Anatomy, findings: Findings, f: Lungs, x: Field, y: Field, view: str) -> Field:
    ribs = np.float32(a.rib_contrast * 1.5) * rib_fields(a, f, findings.fracture)
    spine_x = np.abs(f.x)
    spine = step(0.085 - spine_x, 0.03)
    discs = 0.75 + 0.25 * np.cos(y * np.float32(2 * np.pi / (a.rib_spacing * 0.98)))
    level = np.float32(a.apex + a.clavicle + 0.06)
    ax = np.abs(x)
    line = level + np.float32(a.clavicle_slope) * (ax - 0.1) - 0.18 * np.sin(5.0 * (ax - 0.1)) * 0.4
    collar = step(0.034 - np.abs(y - line), 0.02) * step(ax - 0.07, 0.03) * step(0.78 - ax, 0.08)
    humerus = step(ellipse(ax, y, 0.98, a.apex + 0.16, 0.15, 0.17), 0.04)
    shift = 0.08 if view == "AP" else 0.0
    blade = ellipse(ax, y, a.width + 0.04 - shift, a.apex + 0.42, 0.15, 0.40, -0.25)
    bones = ribs + np.float32(0.38) * spine * discs + np.float32(0.62) * collar
    return bones + np.float32(a.scapula) * step(blade, 0.03) + np.float32(0.45) * humerus


def _airway(a: Anatomy, f: Lungs) -> Field:
    """The trachea and the main bronchi, dark over the mediastinum."""
    carina = a.apex + 0.56
    tube = step(0.042 - np.abs(f.x - np.float32(a.trachea)), 0.025) * step(carina - f.y, 0.05)
    below = (f.y - np.float32(carina)) - 0.75 * f.ax
    bronchi = step(0.03 - np.abs(below), 0.03) * step(0.2 - f.ax, 0.05)
    return np.float32(-0.32) * np.maximum(tube, 0.6 * bronchi)


def _belly(a: Anatomy, f: Lungs) -> Field:
    """Below the diaphragm: denser than the chest; a gas bubble under the left dome."""
    under = step(-f.floor, 0.06)
    gas = step(ellipse(f.x, f.y, 0.42 * a.width, a.base - a.dome + 0.20, 0.17, 0.10), 0.05)
    return np.float32(0.30) * under - np.float32(a.stomach) * gas * under


def _vessels(a: Anatomy, size: int, pose: Pose) -> Field:
    """Vessels that fan out from both hila and fork three times; the patient's own."""
    rng = np.random.default_rng([a.vessel_seed, 1])
    strokes = Strokes(size, pose)
    angles = np.concatenate([np.linspace(-1.35, 1.45, 8)] * 2) + rng.normal(0, 0.15, 16)
    signs = np.repeat([-1.0, 1.0], 8)
    starts = np.stack([signs * 0.16, np.full(16, a.apex + 0.68)], 1)
    length, width = 0.14, 0.030
    for level in range(5):
        heading = np.stack([signs * np.cos(angles), np.sin(angles)], 1)
        ends = starts + heading * (length * rng.uniform(0.7, 1.3, len(angles)))[:, None]
        strokes.segments(starts, ends, width, 0.80 - 0.13 * level)
        if level in (1, 2, 3):
            starts, signs, angles = (np.repeat(v, 2, 0) for v in (ends, signs, angles))
            angles = angles + np.tile([-0.30, 0.32], len(angles) // 2)
        else:
            starts = ends
        angles = angles + rng.normal(0, 0.18, len(angles))
        width *= 0.68
    return strokes.field()


def _develop(
    density: Field, exposure: Exposure, scale: int, size: int, rng: np.random.Generator
) -> Field:
    """Attenuation → brightness, with collimator edges and grain."""
    fx, fy = grid(size * scale)
    density = density + np.float32(exposure.tilt_x) * fx + np.float32(exposure.tilt_y) * fy
    film = 1 / (1 + np.exp((np.float32(exposure.center) - density) / np.float32(exposure.width)))
    film = (film - np.float32(0.09)) * np.float32(1.06)
    x0, x1, y0, y1 = exposure.collimation
    film = np.where((fx > x0) & (fx < x1) & (fy > y0) & (fy < y1), film, np.float32(0.02))
    if scale > 1:
        film = film.reshape(size, scale, size, scale).mean((1, 3))
    grain = rng.standard_normal((size, size), dtype=np.float32)
    return film + np.float32(exposure.noise) * grain * (0.35 + film * (1 - film) * 3)


def _burn_in(film: Field, markers: Sequence[str], scale: int) -> UInt8[np.ndarray, "size size"]:
    """The code in the upper left corner that an archive burns in, and a side letter opposite."""
    size = film.shape[0]
    edge = max(1, size // 32)
    letter = stamp(["L"], size)
    _lay(film, letter, edge, size - edge - letter.shape[1])
    if markers:
        _lay(film, stamp(markers, size, scale), edge, edge)
    return np.rint(np.clip(film, 0, 1) * 255).astype(np.uint8)


def _lay(film: Field, mask: Field, top: int, left: int) -> None:
    part = film[top : top + mask.shape[0], left : left + mask.shape[1]]
    part[:] = np.maximum(np.minimum(part, 0.35), mask * np.float32(0.97))


def draw_lateral(
    anatomy: Anatomy,
    findings: Findings,
    *,
    size: int,
    pose: Pose,
    exposure: Exposure,
    view: str = "",
    markers: Sequence[str],
    marker_scale: int = 1,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "size size"]:
    """One lateral film: sternum on the image's left, spine on the right."""
    scale = 2 if size < 64 else 1
    a, drawn = anatomy, size * scale
    x, y = pose.to_body(*grid(drawn))
    front = np.float32(-0.62) - 0.16 * np.sin(1.6 * y + 0.6)
    back = np.float32(0.66) + 0.16 * np.cos(1.7 * y)
    trunk = np.clip(np.minimum(x - front, back - x) * 5, 0, 1)
    trunk = trunk * step(y + np.float32(0.92) + 0.3 * x, 0.2)
    density = np.sqrt(trunk) * np.float32(1.7 + 0.3 * a.habitus)
    floor = np.float32(a.base - a.dome + 0.02) + 0.45 * (x + 0.1) ** 2 + 0.18 * x - y
    egg = ellipse(x, y, 0.04, -0.02, 0.60, 0.86, -0.06)
    air = step(egg, 0.06) * step(floor, 0.03)
    heart = step(
        ellipse(x, y, -0.22, a.base - a.dome - 0.16, 0.26 * heart_scale(findings), 0.36, -0.5), 0.14
    )
    density -= np.float32(a.lung_air * 0.95) * air * (1 - 0.62 * heart)
    spine_x = np.float32(0.47) + 0.10 * np.cos(1.7 * y)
    discs = 0.7 + 0.3 * np.cos(y * np.float32(2 * np.pi / 0.16))
    density += 0.45 * step(0.10 - np.abs(x - spine_x), 0.03) * discs
    ribs = np.abs(((y - 0.5 * x - 0.2 * x * x) * np.float32(1 / a.rib_spacing)) % 1 - 0.5)
    density += np.float32(a.rib_contrast) * step(0.2 - ribs, 0.15) * trunk
    density += 0.3 * step(-floor, 0.06) * trunk
    effusion = findings.severity("Pleural Effusion")
    if effusion:
        density += 1.0 * effusion * step(0.22 - floor, 0.06) * step(x, 0.3) * air
    density += np.float32(a.texture * 1.5) * smooth_noise(rng, drawn, 24) * air
    return _burn_in(_develop(density, exposure, scale, size, rng), markers, marker_scale)
