"""From the flags of ``memjax sample`` to its files."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8, UInt32
from PIL import Image

from memjax.cli.sample import _CHUNK, _FORCE, _INITIAL, _MODEL, _NOISE, _OUT, _PROMPTS, _SAMPLING
from memjax.core.condition import repeat_cond
from memjax.core.types import Array, Cond, EpsFn, Params
from memjax.data.images import to_uint8, to_unit
from memjax.runs.model import Model
from memjax.runs.outputs import held, model_provenance, progress_bar, safe_names
from memjax.runs.prompts import (
    check_rows,
    encoder,
    initial_noise,
    read_prompts,
    warn_truncated,
    write_rows,
)
from memjax.runtime.batching import over_rows
from memjax.runtime.devices import mesh_of_prompts
from memjax.runtime.files import write_bytes
from memjax.runtime.hosts import is_first
from memjax.sampling import STATIC_ARGUMENTS, SamplingOptions, sample, timesteps
from memjax.training.logging import png_bytes, write_grid

PIXELS = 16_000_000
_LONG = 12  # prompts; more stand side by side
_GRID, _ROWS = "grid.png", "prompts.jsonl"
_BLOCK = 8  # prompts whose noise is drawn together


class ImageGrid:
    """Collects images prompt by prompt; each prompt's stand beside each other."""

    def __init__(self, prompts: int, generations: int, pixels: int = PIXELS):
        """Takes how many prompts and images a prompt will come, and the largest grid."""
        side_by_side = 1 if prompts <= _LONG else max(1, round(math.sqrt(prompts / generations)))
        self.columns = generations * side_by_side
        self._most = pixels / (prompts * generations)
        self._images: list[np.ndarray] = []

    def add(self, images: UInt8[np.ndarray, "g h w c"]) -> None:
        """Adds one prompt's images, shrunk where all of them together would be too large."""
        height, width = images.shape[1:3]
        scale = math.sqrt(self._most / (height * width))
        if scale >= 1:
            self._images += list(images)
            return
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        self._images += [_shrunk(image, size) for image in images]

    def write(self, path: Path) -> None:
        """Writes the grid as PNG."""
        write_grid(path, to_unit(np.stack(self._images)), columns=self.columns)


def _shrunk(image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> np.ndarray:
    grey = image.shape[-1] == 1
    small = Image.fromarray(image[..., 0] if grey else image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small)[..., None] if grey else np.asarray(small)


class Draw(NamedTuple):
    """What each prompt starts from, with a leading axis of prompts.

    Attributes:
        cond: Condition.
        noise: Initial noises.
        key: Key data of the noise that the ddpm stepper adds; a batch takes its first.
    """

    cond: Cond
    noise: Float[Array, "p g *d"]
    key: UInt32[Array, "p k"]


@partial(jax.jit, static_argnames=STATIC_ARGUMENTS)
def _sample(cond: Draw, eps_fn: EpsFn, params: Params, null_cond: Cond | None, **sampling):
    prompts, generations = cond.noise.shape[:2]
    x_T = cond.noise.reshape(-1, *cond.noise.shape[2:])
    rows = repeat_cond(cond.cond, generations)
    key = jax.random.wrap_key_data(cond.key[0])
    end = sample(eps_fn, params, x_T, rows, null_cond, key=key, **sampling).x
    return end.reshape(prompts, generations, *end.shape[1:])


@dataclasses.dataclass(frozen=True)
class SampleProgram:
    """Images of any number of prompts; a ``RowProgram``."""

    static: Mapping[str, Any]
    traced: Mapping[str, Any]

    def __call__(self, cond: Draw, compiled: Any = None) -> Float[Array, "p g *d"]:
        return compiled(cond=cond, **self.traced)

    def trace(self, cond: Draw) -> jax.stages.Traced:
        return _sample.trace(cond=cond, **self.static, **self.traced)


def run() -> int:
    """Runs the command."""
    rows = read_prompts(_PROMPTS.value)
    stems = safe_names([row["id"] for row in rows])
    images = [[f"{stem}_{k}.png" for k in range(_NOISE.generations.value)] for stem in stems]
    writes = [_GRID, _ROWS, *(name for names in images for name in names)]
    reads = (_MODEL.value, _PROMPTS.value, _INITIAL.value)
    with held(_OUT.value, writes, reads=reads, force=_FORCE.value):
        return _sample_all(rows, images)


def _sample_all(rows: list[dict[str, Any]], image_names: Sequence[Sequence[str]]) -> int:
    model = _MODEL.load()
    options = _SAMPLING.options(model)
    generations, folder = _NOISE.generations.value, Path(_OUT.value)
    program, draw = _program(model, options), _drawer(model, rows, generations)
    cut = check_rows(model, rows)
    warn_truncated(cut)
    made = model_provenance(
        model,
        _NOISE.seed.value,
        sampling=vars(options),
        initial_noise=Path(_INITIAL.value).name if _INITIAL.value else None,
    )
    update = progress_bar("sampling")
    grid, out, broken = ImageGrid(len(rows), generations), [], 0
    mesh = mesh_of_prompts(model.bundle.params, len(rows))
    batches = over_rows(
        program, draw, np.arange(len(rows)), size=_CHUNK.value, most=_BLOCK, mesh=mesh
    )
    for numbers, states in batches:
        for i, row_states in zip(numbers, states, strict=True):
            decoded = np.asarray(model.bundle.decode(row_states))
            broken += int(np.sum(~np.isfinite(decoded).all(axis=(1, 2, 3))))
            images = to_uint8(np.nan_to_num(decoded, nan=-1.0))
            names = image_names[i]
            for name, image in zip(names, images, strict=True) if is_first() else ():
                write_bytes(folder / name, png_bytes(image))
            grid.add(images)
            text = {} if cut is None else {"tokens_cut": cut[i]}
            out.append({**rows[i], **text, "images": names, "provenance": made})
            update(len(out), len(rows))
    if is_first():
        grid.write(folder / _GRID)
        write_rows(folder / _ROWS, out)
    if broken:
        print(f"{broken} images are not finite, and black there: try --dtype=float32")
    print(f"{len(rows) * generations} images in {folder} (grid.png shows them all)")
    return 0


def _program(model: Model, options: SamplingOptions) -> SampleProgram:
    bundle, settings = model.bundle, options.static()
    timesteps(  # a number of steps that the schedule does not have is refused here
        bundle.schedule.num_timesteps, options.num_steps, options.spacing, options.steps_offset
    )
    traced = {
        "params": bundle.params,
        "null_cond": bundle.null_cond,
        "schedule": bundle.schedule,
        "guidance_scale": settings.pop("guidance_scale"),
    }
    return SampleProgram({**settings, "eps_fn": bundle.eps_fn}, traced)


def _drawer(
    model: Model, rows: Sequence[Mapping[str, Any]], generations: int
) -> Callable[[Sequence[int]], Draw]:
    """Returns row numbers → what they start from; the same whatever is computed at once."""
    shape, encode = model.bundle.sample_shape, encoder(model, rows)
    key = jax.random.key(_NOISE.seed.value)
    shared = None
    if _INITIAL.value:
        shared = initial_noise(_INITIAL.value, model.bundle, generations, _NOISE.seed.value)

    @lru_cache(maxsize=4)
    def block(start: int) -> np.ndarray:
        size = (_BLOCK * generations, *shape)
        drawn = jax.random.normal(jax.random.fold_in(key, start), size)
        return np.asarray(drawn).reshape(_BLOCK, generations, *shape)

    def one(i: int) -> tuple[np.ndarray, np.ndarray]:
        start, offset = i - i % _BLOCK, i % _BLOCK
        step_key = jax.random.fold_in(key, start + 1)
        if offset:
            step_key = jax.random.fold_in(step_key, offset)
        noise = block(start)[offset] if shared is None else shared
        return noise, np.asarray(jax.random.key_data(step_key))

    def draw(numbers: Sequence[int]) -> Draw:
        noises, keys = zip(*(one(i) for i in numbers), strict=True)
        return Draw(encode(numbers), jnp.asarray(np.stack(noises)), jnp.asarray(np.stack(keys)))

    return draw
