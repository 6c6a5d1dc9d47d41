"""Small colourful scenes with captions that describe them, some of them planted as duplicates.

``a house left of a tree near velmora in may``: the caption says what stands where. All colors,
sizes, the horizon, clouds and the grain of the ground are drawn beside it, so that an image which
follows its caption is not yet a copy. Town and month say nothing about the image, like the names
in captions of the web; a model that gives back one sky for them has learned it from one image.
"""

import io
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from memjax.data.phantoms.folder import refuse_changed
from memjax.runtime.files import naming, write_bytes
from memjax.runtime.locks import hold

VERSION = 2
SKIES = {
    "a blue sky": (120, 180, 240),
    "a pink sky": (245, 170, 190),
    "an orange sky": (250, 175, 95),
    "a dark sky": (35, 40, 80),
    "a grey sky": (165, 170, 178),
    "a yellow sky": (250, 225, 130),
}
GROUNDS = {
    "green grass": (70, 150, 60),
    "white snow": (235, 240, 245),
    "brown soil": (120, 80, 50),
    "grey stone": (110, 112, 118),
    "blue water": (30, 90, 170),
}
COLOURS = {
    "red": (205, 35, 40),
    "yellow": (240, 210, 40),
    "green": (30, 120, 60),
    "blue": (40, 70, 200),
    "purple": (130, 50, 160),
    "orange": (240, 130, 30),
    "white": (245, 245, 245),
    "black": (25, 25, 28),
}
TOWNS = tuple(
    start + end
    for start in ("vel", "bor", "tan", "quil", "dro", "mis")
    for end in ("mora", "dale", "vik", "stad", "una", "helm", "gar", "isk")
)
_SECOND, _FOURTH = ("april", "may", "june"), ("october", "november", "december")
MONTHS = ("january", "february", "march", *_SECOND, "july", "august", "september", *_FOURTH)
_OVERSAMPLING = 4
Box = tuple[float, float, float, float]


class Scene(NamedTuple):
    """One image and the sentence that describes it."""

    image: UInt8[np.ndarray, "h w 3"]
    caption: str


def _house(draw: ImageDraw.ImageDraw, box: Box, fill: Any) -> None:
    left, top, right, bottom = box
    eaves = top + 0.4 * (bottom - top)
    draw.rectangle((left, eaves, right, bottom), fill)
    draw.polygon([(left, eaves), ((left + right) / 2, top), (right, eaves)], (90, 55, 45))
    door = 0.38 * (right - left)
    draw.rectangle((left + door, bottom - 0.3 * (bottom - top), right - door, bottom), (60, 40, 35))


def _tree(draw: ImageDraw.ImageDraw, box: Box, fill: Any) -> None:
    left, top, right, bottom = box
    middle, width = (left + right) / 2, 0.12 * (right - left)
    draw.rectangle((middle - width, top, middle + width, bottom), (95, 65, 40))
    draw.ellipse((left, top, right, top + 0.7 * (bottom - top)), fill)


def _ball(draw: ImageDraw.ImageDraw, box: Box, fill: Any) -> None:
    left, _, right, bottom = box
    draw.ellipse((left, bottom - (right - left), right, bottom), fill)


def _tent(draw: ImageDraw.ImageDraw, box: Box, fill: Any) -> None:
    left, top, right, bottom = box
    draw.polygon([(left, bottom), ((left + right) / 2, top), (right, bottom)], fill)


def _tower(draw: ImageDraw.ImageDraw, box: Box, fill: Any) -> None:
    left, top, right, bottom = box
    inset = 0.28 * (right - left)
    draw.rectangle((left + inset, top, right - inset, bottom), fill)
    draw.rectangle((left + inset / 2, top, right - inset / 2, top + 0.15 * (bottom - top)), fill)


THINGS: dict[str, Callable[[ImageDraw.ImageDraw, Box, Any], None]] = {
    "house": _house,
    "tree": _tree,
    "ball": _ball,
    "tent": _tent,
    "tower": _tower,
}


def draw_scene(rng: np.random.Generator, size: int = 32) -> Scene:
    """Draws one scene: what the caption names, and what it leaves open.

    Args:
        rng: Decides everything.
        size: Edge in pixels, at least 16.
    """
    sky, ground = _pick(rng, SKIES), _pick(rng, GROUNDS)
    near = [(_pick(rng, COLOURS), _pick(rng, THINGS)) for _ in range(2)]
    edge = size * _OVERSAMPLING
    picture = Image.new("RGB", (edge, edge), _shade(rng, SKIES[sky]))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 4))):
        _cloud(draw, rng, edge, SKIES[sky])
    horizon = rng.uniform(0.5, 0.75) * edge
    draw.rectangle((0, horizon, edge, edge), _shade(rng, GROUNDS[ground]))
    _grain(draw, rng, edge, horizon, GROUNDS[ground])
    for (color, thing), middle in zip(near, (0.27, 0.73), strict=True):
        THINGS[thing](draw, _box(rng, middle, horizon, edge), _shade(rng, COLOURS[color]))
    (_, left), (_, right) = near
    where = f"near {_pick(rng, TOWNS)} in {_pick(rng, MONTHS)}"
    caption = f"a {left} left of a {right} {where}"
    small = picture.resize((size, size), Image.Resampling.BOX)
    return Scene(np.asarray(small, np.uint8), caption)


def _pick(rng: np.random.Generator, names: Any) -> str:
    return list(names)[int(rng.integers(len(names)))]


def _shade(rng: np.random.Generator, color: tuple[int, ...], spread: float = 12) -> Any:
    return tuple(np.clip(np.array(color) + rng.normal(0, spread), 0, 255).astype(int).tolist())


def _cloud(draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, sky: Any) -> None:
    x, y, width = rng.uniform(0, 0.9) * edge, rng.uniform(0.02, 0.35) * edge, rng.uniform(0.1, 0.3)
    pale = tuple(int(0.35 * c + 0.65 * 255) for c in sky)
    draw.ellipse((x, y, x + width * edge, y + 0.4 * width * edge), pale)


def _grain(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, edge: int, horizon: float, ground: Any
) -> None:
    for _ in range(int(rng.integers(4, 14))):
        x, y = rng.uniform(0, edge), rng.uniform(horizon, edge)
        length = rng.uniform(0.04, 0.14) * edge
        draw.rectangle((x, y, x + length, y + 0.03 * edge), _shade(rng, ground, 40))


def _box(rng: np.random.Generator, middle: float, horizon: float, edge: int) -> Box:
    width, height = rng.uniform(0.2, 0.4) * edge, rng.uniform(0.28, 0.5) * edge
    x = (middle + rng.uniform(-0.07, 0.07)) * edge
    bottom = min(horizon + rng.uniform(0.03, 0.22) * edge, 0.97 * edge)
    return (x - width / 2, bottom - height, x + width / 2, bottom)


def draw_scenes(seed: int, num: int, size: int = 32, avoid: Sequence[str] = ()) -> list[Scene]:
    """Draws scenes whose captions all differ from one another and from those to avoid."""
    rng, seen = np.random.default_rng([VERSION, seed]), set(avoid)
    scenes: list[Scene] = []
    while len(scenes) < num:
        scene = draw_scene(rng, size)
        if scene.caption not in seen:
            seen.add(scene.caption)
            scenes.append(scene)
    return scenes


def scene_words() -> tuple[str, ...]:
    """Every word that captions are made of."""
    return ("a", "left", "of", "near", "in", *THINGS, *TOWNS, *MONTHS)


def write_scenes(
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: int = 32,
    num_images: int = 64,
    num_duplicated: int = 8,
    num_held_out: int = 64,
    repeats: int = 20,
) -> None:
    """Writes ``memorized/``, ``others/`` and ``valid/`` with one ``metadata.jsonl``.

    The lines of memorized images say ``repeats``; a folder that holds the same scenes already is
    left as it is.

    Args:
        root: Folder to write.
        seed: Decides every image.
        size: Edge in pixels, 16 to 512.
        num_images: Images that stand once.
        num_duplicated: Images that stand ``repeats`` times.
        num_held_out: Images that are never trained on.
        repeats: Times a memorized image stands in an epoch.

    Raises:
        ValueError: A number does not fit, or the folder holds something else.
    """
    given = {
        "version": VERSION,
        "seed": seed,
        "size": size,
        "num_images": num_images,
        "num_duplicated": num_duplicated,
        "num_held_out": num_held_out,
        "repeats": repeats,
    }
    _check(given)
    folder = Path(root)
    if _written(folder, given):
        return
    with hold(folder, flag="data.root"):
        if not _written(folder, given):
            _draw(folder, given)


def _draw(folder: Path, given: Mapping[str, int]) -> None:
    seed, size, repeats = given["seed"], given["size"], given["repeats"]
    counts = (given["num_duplicated"], given["num_images"], given["num_held_out"])
    parts = ("memorized", "others", "valid")
    names = [f"{part}/{i:04d}.png" for part, n in zip(parts, counts, strict=True) for i in range(n)]
    lines, seals = [], {}
    for name, scene in zip(names, draw_scenes(seed, sum(counts), size), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(scene.image).save(buffer, format="PNG")
        with naming(folder / name):
            (folder / name).write_bytes(buffer.getvalue())
        seals[name] = zlib.crc32(buffer.getvalue())
        line: dict[str, Any] = {"file_name": name, "text": scene.caption}
        if name.startswith("memorized/"):
            line["repeats"] = repeats
        lines.append(json.dumps(line))
    write_bytes(folder / "metadata.jsonl", ("\n".join(lines) + "\n").encode())
    record = json.dumps({**given, "crc32": seals}, indent=1) + "\n"
    write_bytes(folder / "scenes.json", record.encode())


def _check(given: dict[str, int]) -> None:
    ranges = {"size": (16, 512), "num_images": (1, 20_000), "num_duplicated": (0, 1000)}
    ranges |= {"num_held_out": (0, 5000), "repeats": (1, 100_000)}
    for name, (low, high) in ranges.items():
        if not low <= given[name] <= high:
            raise ValueError(f"data.scenes.{name} is {given[name]}, expected {low} to {high}.")


def _written(folder: Path, given: dict[str, int]) -> bool:
    record = folder / "scenes.json"
    if record.is_file():
        found = json.loads(record.read_text())
        seals = found.pop("crc32", {})
        if found == given:
            refuse_changed(folder, seals)
            return True
        raise ValueError(
            f"{folder} holds scenes of other settings (scenes.json): choose another folder, or "
            "remove it."
        )
    if folder.is_dir() and any(p.suffix in (".png", ".jsonl") for p in folder.iterdir()):
        raise ValueError(f"{folder} holds pictures of something else: choose another folder.")
    return False
