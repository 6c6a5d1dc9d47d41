"""What ``--model=`` may name: a memjax run, a diffusers folder, a single file, a hub id."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from memjax.core.types import Bundle
from memjax.data.records import LabelSpace
from memjax.models.adapters import EpsFromV, LinenEps
from memjax.models.unet.network import UNetConfig
from memjax.runs.config import plain
from memjax.runs.defaults import default_config
from memjax.runs.recorded import check_fields
from memjax.runtime.devices import keep_compiled
from memjax.runtime.json import loads
from memjax.training.checkpoint import newest_config
from memjax.training.network import Network, make_bundle
from memjax.training.run import (
    RUN_FILE,
    Run,
    network_of,
    open_run,
    require_sealed,
)

PIPELINE_FILE = "model_index.json"
PIPELINE_FOLDER = "pipeline"  # of a fine-tuning's workdir
DTYPES = ("float32", "bfloat16")
_LARGE = 1 << 28  # bytes
# What an audit of a foreign model does where nothing else is said (Wen et al. 2024, §5).
_FOREIGN_AUDIT = {
    "first_k": 10,
    "mitigate_steps": (0, 10, 20, 30),
    "first_step_iters": 10,
    "learning_rate": 0.05,
    "first_step_learning_rate": 0.05,
    "protect": (),
    "chunk": 4,
}


class Model(NamedTuple):
    """An opened model, wherever it comes from.

    Attributes:
        path: Its folder or file, or the hub id.
        name: How outputs name it; never a machine's path.
        config: A run's configuration; for foreign models at least ``sampling`` and ``audit``.
        bundle: Weights and functions, ready for every command.
        step: Checkpoint step of the weights, where it is known.
        record: All of ``run.json``; empty for foreign models.
        run: The opened run, or None.
        pipeline: The opened Stable-Diffusion-format model, or None.
    """

    path: Path
    name: str
    config: dict[str, Any]
    bundle: Bundle
    step: int | None
    record: dict[str, Any]
    run: Run | None
    pipeline: Any = None

    @property
    def dtype(self) -> str:
        """The type its network computes in."""
        return (
            self.config["model"]["dtype"] if self.pipeline is None else self.pipeline.info["dtype"]
        )

    @property
    def label_space(self) -> LabelSpace:
        """The labels it is conditioned on."""
        return self._own_run().label_space

    @property
    def network(self) -> Network:
        """The network of a memjax run."""
        return self._own_run().network

    def _own_run(self) -> Run:
        if self.run is None:
            raise ValueError(
                f"{self.name} is conditioned on text and has no labels: this needs a memjax run "
                "that was trained on labels."
            )
        return self.run


def load_model(
    path: str | Path,
    dtype: str | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer: str | None = None,
) -> Model:
    """Opens a memjax run, a diffusers folder, a single file or a model of the hub.

    Args:
        path: Folder, file or ``owner/name``. A fine-tuning's workdir stands for the pipeline that
            it wrote.
        dtype: Type the network computes in; None: a run's own, float32 for others. The weights of
            foreign models are kept in it too.
        revision: Of a hub id: branch, tag or commit.
        variant: Of a diffusers folder or hub id, such as ``fp16``.
        tokenizer: Folder with the tokenizer of a single file.

    Raises:
        ValueError: If ``path`` names none of these, or does not hold what it should.
    """
    keep_compiled()
    here = Path(path)
    choices = {"revision": revision, "variant": variant, "tokenizer": tokenizer}
    given = {name: value for name, value in choices.items() if value}
    if (here / RUN_FILE).exists():
        _refuse(given, path)
        return _open_run_folder(here, dtype)
    if here.is_dir() and not (here / PIPELINE_FILE).is_file():
        from memjax.interop.stable_diffusion.folder import meant

        raise ValueError(
            f"{here} is not a memjax run (it holds no {RUN_FILE}), nor a diffusers folder (it "
            f"holds no {PIPELINE_FILE}): pass the --workdir of `memjax train` or `memjax demo`, or "
            f"the folder in which {PIPELINE_FILE} lies{meant(here)}."
        )
    return _foreign(here, dtype, given)


def _refuse(given: Mapping[str, str], path: str | Path) -> None:
    if given:
        flags = " and ".join(f"--{name}={value}" for name, value in given.items())
        raise ValueError(f"{flags} was given for {path}, which is a memjax run: leave it out.")


def _open_run_folder(here: Path, dtype: str | None) -> Model:
    record = _fine_tuning(here)
    if record is not None:
        return _fine_tuned(here, record, dtype)
    run = open_run(here)
    run = run._replace(config=with_defaults(run.config))
    check_fields(here / RUN_FILE, run.config, run.record)
    for step, reason in run.bundle.info["skipped_checkpoints"]:
        print(f"checkpoint {step} was passed over, {run.step} is used: {reason}")
    if dtype and dtype != run.config["model"]["dtype"]:
        run = _computing_in(run, dtype)
    return Model(here, here.name, run.config, run.bundle, run.step, run.record, run)


def _fine_tuning(here: Path) -> dict[str, Any] | None:
    """Returns ``run.json`` where the run fine-tunes a foreign model."""
    try:
        record = loads((here / RUN_FILE).read_bytes())
        return record if isinstance(record["config"]["fine_tune"], dict) else None
    except (OSError, KeyError, TypeError, ValueError):
        return None  # an ordinary run, or a damaged file: opening it says so


def _fine_tuned(here: Path, record: dict[str, Any], dtype: str | None) -> Model:
    folder = here / PIPELINE_FOLDER
    if not (folder / PIPELINE_FILE).is_file():
        raise ValueError(
            f"{here} is a fine-tuning that is not finished (it holds no {PIPELINE_FOLDER}/"
            f"{PIPELINE_FILE}): start its `memjax train` command again, which writes it at the end."
        )
    own = record["config"]
    check_fields(here / RUN_FILE, with_defaults(own), record, foreign=True)
    if (saved := newest_config(here)) is not None:
        require_sealed(here / RUN_FILE, record, *saved)
    model = _foreign(folder, dtype, {})
    sampling = {**model.config["sampling"], **own.get("sampling", {})}
    kept = {name: model.config[name] for name in ("source", "settings")}
    config = {**with_defaults(own), **kept, "sampling": sampling}
    return model._replace(path=here, name=here.name, config=config, record=record)


def _foreign(path: Path, dtype: str | None, given: Mapping[str, str]) -> Model:
    from memjax import interop

    pipeline = interop.load(str(path), dtype=dtype or "float32", progress=_bar(), **given)
    for note in pipeline.info["notes"]:
        print(f"note: {note}")
    audit = plain(default_config()["audit"])
    audit["options"] |= _FOREIGN_AUDIT
    config = {
        "seed": 0,
        "sampling": dict(pipeline.sampling),
        "audit": audit,
        "source": source_of(pipeline.info),
        "settings": dict(pipeline.settings),
    }
    name = path.name if path.exists() else path.as_posix()
    return Model(path, name, config, interop.make_bundle(pipeline), None, {}, None, pipeline)


def source_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns where weights come from, for outputs: names and digests, no folders of a machine."""
    names = ("kind", "revision", "dtype", "variant", "sha256")
    kept = {name: info[name] for name in names if info.get(name)}
    model = str(info.get("model", ""))
    return {**kept, "model": model if info.get("kind") == "hub" else Path(model).name}


def _bar() -> Callable[[int, int], None]:
    """Returns ``(bytes read, all bytes) →`` a bar, for weights that take a while."""
    bar: tqdm | None = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if total < _LARGE:
            return
        bar = bar or tqdm(
            total=total, desc="reading weights", unit="B", unit_scale=True, leave=False
        )
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def _computing_in(run: Run, dtype: str) -> Run:
    """Returns the run with a network that computes in another type; the weights stay float32."""
    config = {**run.config, "model": {**run.config["model"], "dtype": dtype}}
    network = network_of(config, run.label_space)
    bundle = make_bundle(
        network,
        run.bundle.params,
        run.label_space,
        cond_dropout=config["train"]["cond_dropout"],
        info={**run.bundle.info, "dtype": dtype},
    )
    return run._replace(config=config, network=network, bundle=bundle)


def with_remat(bundle: Bundle) -> Bundle:
    """Returns the bundle with blocks recomputed in the backward pass: less memory, more time."""

    def changed(fn: Any) -> Any:
        if isinstance(fn, EpsFromV):
            return dataclasses.replace(fn, v_fn=changed(fn.v_fn))
        if not isinstance(fn, LinenEps):
            return fn
        recipes = {name: getattr(fn.module, name, None) for name in ("config", "unet")}
        changes = {
            name: dataclasses.replace(recipe, remat=True)
            for name, recipe in recipes.items()
            if isinstance(recipe, UNetConfig)
        }
        return dataclasses.replace(fn, module=fn.module.clone(**changes)) if changes else fn

    return bundle._replace(eps_fn=changed(bundle.eps_fn))


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's configuration with the fields that its version did not have yet."""
    return _filled(config, plain(default_config()))


def _filled(config: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(config)
    for name, value in usual.items():
        if name not in out:
            out[name] = value
        elif isinstance(value, Mapping) and isinstance(out[name], Mapping):
            out[name] = _filled(out[name], value)
    return out
