"""memjax convert --from=MODEL --to=DIR [--dtype=float32] [--variant=fp16] [--force]
memjax convert --from=RUN --to=FILE.safetensors [--dtype=float32] [--force]

Reads a Stable-Diffusion-format model (a diffusers folder, sharded or not, a single .safetensors
file, or owner/name on the hub) and writes it as a diffusers folder of safetensors. Pickled weights
(.bin, .ckpt, .pt) are never opened. A single file has no tokenizer: give its folder by --tokenizer.
Of a memjax run it writes the averaged weights of the newest good checkpoint, and nothing else, into
one file; names are those of the modules, joined by slashes.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from memjax.cli.flags import refuse_given, require
from memjax.core.names import RUN_FILE

FLAGS = flags.FlagValues()
_FROM = flags.DEFINE_string("from", None, "Model to read.", flag_values=FLAGS)
_TO = flags.DEFINE_string("to", None, "Folder to write.", flag_values=FLAGS)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16", "float16"],
    "Of the written weights.",
    flag_values=FLAGS,
)
_VARIANT = flags.DEFINE_string(
    "variant", None, "Weights files to read, such as fp16; parts without them: plain ones.",
    flag_values=FLAGS,
)  # fmt: skip
_SAVE_VARIANT = flags.DEFINE_string(
    "save_variant", None, "Name of the written variant, such as fp16.", flag_values=FLAGS
)
_REVISION = flags.DEFINE_string(
    "revision", None, "Of a hub id: branch, tag or commit.", flag_values=FLAGS
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "Folder of the tokenizer, for a single file.", flag_values=FLAGS
)
_PREDICTION = flags.DEFINE_enum(
    "prediction",
    None,
    ["eps", "v"],
    "What a single file's network predicts; left out: what it or a .yaml beside it says, or "
    "else eps for Stable Diffusion 1, v for 2.",
    flag_values=FLAGS,
)
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    ["model", "ema"],
    "Which of a single file's weights of the U-Net: its own, or the averaged ones (model_ema) that "
    "a training run left beside them; left out: its own.",
    flag_values=FLAGS,
)
_FORCE = flags.DEFINE_bool(
    "force", False, "Replace the pipeline's folder that is there.", flag_values=FLAGS
)


@dataclasses.dataclass
class _Bars:
    """One bar a stage, in bytes."""

    bar: Any = None

    def stage(self, name: str) -> Callable[[int, int], None]:
        """Ends the bar before and returns what the next one is told."""
        self.close()
        return lambda done, total: self._update(name, done, total)

    def _update(self, name: str, done: int, total: int) -> None:
        if self.bar is None:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, desc=name, unit="B", unit_scale=True, leave=False)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    require(**{"from": _FROM.value, "to": _TO.value})
    if not (Path(str(_FROM.value)) / RUN_FILE).is_file():
        return
    if not str(_TO.value).endswith(".safetensors"):
        raise ValueError(
            f"--to={_TO.value}: {_FROM.value} is a memjax run, whose weights become one file: give "
            "a name that ends in .safetensors."
        )
    of_pipelines = ("variant", "save_variant", "revision", "tokenizer", "prediction", "weights")
    why = f"{_FROM.value} is a memjax run, whose averaged weights are written."
    refuse_given(FLAGS, of_pipelines, why)


def main() -> int:
    """Runs the command."""
    from memjax.interop.stable_diffusion.converting import convert

    if (Path(str(_FROM.value)) / RUN_FILE).is_file():
        return _export(Path(str(_FROM.value)), Path(str(_TO.value)))
    bars, kept = _Bars(), dict[str, Any]()
    try:
        target = convert(
            str(_FROM.value),
            str(_TO.value),
            dtype=_DTYPE.value,
            variant=_VARIANT.value,
            save_variant=_SAVE_VARIANT.value,
            revision=_REVISION.value,
            tokenizer=_TOKENIZER.value,
            prediction=_PREDICTION.value,
            weights=_WEIGHTS.value,
            force=_FORCE.value,
            progress=bars.stage,
            loaded=lambda pipeline: kept.update(text=summary(pipeline)),
        )
    finally:
        bars.close()
    print(f"{kept['text']}\nwritten: {target}")
    return 0


def _export(run: Path, target: Path) -> int:
    """Writes a run's weights alone."""
    from memjax.runtime.locks import hold

    if target.exists() and not _FORCE.value:
        raise ValueError(f"{target} is there already: choose another name, or give --force.")
    with hold(target, kind="whole", flag="to"):
        return _export_weights(run, target)


def _export_weights(run: Path, target: Path) -> int:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from memjax.runtime.provenance import provenance
    from memjax.training.checkpoint import load_params
    from memjax.training.export import export_params
    from memjax.training.run import RUN_FILE, read_run_file, require_sealed

    record = read_run_file(run)
    config = record["config"]
    restored = load_params(run, check=partial(require_sealed, run / RUN_FILE, record))
    about = {"weights": "ema", **provenance(config, config["seed"], restored.step)}
    dtype = jnp.dtype(_DTYPE.value)
    params = jax.tree.map(lambda a: np.asarray(jnp.asarray(a, dtype)), restored.params)
    export_params(params, target, about)
    leaves = jax.tree.leaves(params)
    count, size = sum(a.size for a in leaves), sum(a.nbytes for a in leaves)
    print(f"{count:,} parameters, {size / 1e6:.1f} MB, step {restored.step}\nwritten: {target}")
    return 0


def summary(pipeline: Any) -> str:
    """Returns what was read as text: parts, parameters, dtype, bytes, notes."""
    import jax

    info = pipeline.info
    revision = f" at {info['revision']}" if info["revision"] else ""
    lines = [f"{info['kind']} {info['model']}{revision}, prediction of {pipeline.prediction}"]
    lines.append(f"{'part':<14}{'parameters':>14}{'dtype':>10}{'MB':>9}")
    total = [0, 0]
    for part, params in pipeline.params.items():
        leaves = jax.tree.leaves(params)
        count = sum(math.prod(leaf.shape) for leaf in leaves)
        size = sum(leaf.nbytes for leaf in leaves)
        total = [total[0] + count, total[1] + size]
        lines.append(f"{part:<14}{count:>14,}{leaves[0].dtype!s:>10}{size / 1e6:>9.1f}")
    lines.append(f"{'all':<14}{total[0]:>14,}{'':>10}{total[1] / 1e6:>9.1f}")
    return "\n".join([*lines, *(f"note: {note}" for note in info["notes"])])
