"""The fields of configurations, with their defaults: of a run, of a fine-tuning, of a sweep.

A sweep is a question, its arms, and one base configuration. An arm is a dictionary: ``key`` (file
name), ``title``, ``value`` (its place on the factor's axis), ``set`` (dotted fields of the base and
their values) and, where a run is looked at before its end, ``step`` (a checkpoint). Arms whose
data, model, diffusion and train sections agree share one run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from memjax.core.names import ATTENTION
from memjax.runs.defaults import default_config

QUICK = "quick"


def base_config() -> ConfigDict:
    """Returns a configuration with every field; ``runs.defaults`` says what each one means."""
    return ConfigDict(_typed(default_config()))


def _typed(value: Any) -> Any:
    """What has no default is an optional number, and keeps its type."""
    if isinstance(value, dict):
        return {name: _typed(field) for name, field in value.items()}
    return config_dict.placeholder(float) if value is None else value


def fine_tune_config() -> ConfigDict:
    """Returns a configuration with every field; what network and schedule are, the base says."""
    c = base_config()
    c.data.update(kind="folder", size=512, channels=3, held_out_fraction=0.02)
    c.data.flip = False  # show mirror images too
    del c.data.augment  # what is trained on are latents, made once
    c.data.scenes = ConfigDict(
        {
            "seed": 0,
            "size": 32,
            "num_images": 64,
            "num_duplicated": 8,
            "num_held_out": 64,
            "repeats": 40,
        }
    )
    c.model = ConfigDict({"dtype": "bfloat16", "remat": False, "remat_policy": "full"})
    c.diffusion = ConfigDict({"num_timesteps": 1000})
    c.train.update(
        learning_rate=1e-5,
        lr_schedule="constant",
        warmup_steps=0,
        weight_decay=1e-2,
        cond_dropout=0.0,  # as published: the null caption is the base model's
        ema_decay=0.9999,
        filter_rms=False,
    )
    c.sampling = ConfigDict({"num_steps": 50, "guidance_scale": 7.5})
    c.audit.options.update(protect=(), swap_tokens=1)
    c.fine_tune = ConfigDict(
        {
            # A diffusers folder, a single file or a hub id; "" with data.kind=scenes: a tiny model
            # is made in the workdir.
            "base": "",
            "revision": "",  # of a hub id
            "variant": "",  # of a diffusers folder, such as fp16
            "method": "unet",  # unet (all its weights) or lora
            "rank": 8,
            "alpha": 8.0,  # an adapter's update is alpha / rank times A B
            "targets": ATTENTION,  # which kernels get an adapter
            # Images shown `repeats` times: a sub-folder of data.root, a number of rows drawn by
            # seed, "repeats" (what metadata.jsonl says), or "" for none.
            "memorized": "",
            "repeats": 1,
            "others_ratio": config_dict.placeholder(float),  # others per repeat; None = all once
            "captions": "first",  # of several an image: first, duplicated (drawn for those), all
            "cache_dtype": "float16",  # of latents and text embeddings on disk
            "cache_batch": 8,
            "tiny": {
                "seed": 0,
                "autoencoder_steps": 300,
                "pretraining_steps": 1000,
                "num_scenes": 1024,
                "channels": (32, 64),
                "text_width": 64,
            },
        }
    )
    return c


def sweep_config(**texts: Any) -> ConfigDict:
    """Returns a sweep with every field.

    Args:
        **texts: ``title``, ``question``, ``expected_time``, ``expected_picture``, ``factor``,
            ``factor_label``, ``scale`` (``category``, ``linear`` or ``log``).
    """
    c = ConfigDict()
    c.name = ""  # of the configuration
    c.title = ""
    c.question = ""
    c.expected_time = ""
    c.expected_picture = ""
    c.factor = ""
    c.factor_label = ""
    c.scale = "category"
    c.headline = ("copy_rate_mix", "copy_rate_memorized", "copy_rate_once")
    c.expectations = ()  # of expectation()
    c.parts = ()  # names of sweeps; a sweep of parts has no arms of its own
    c.seeds = (0, 1, 2)
    c.arms = ()
    c.base = sweep_base()
    c.measure = ConfigDict(
        {
            "generations": 4,
            "memorized": 8,
            "once": 24,
            "held_out": 16,
            "near_miss": 8,
            "random": 16,
            "unconditional": 128,  # images of a model without condition
            "loss_rows": 128,  # images whose denoising loss is measured, of each kind
            "loss_timesteps": 10,
            "published": (),  # NAME=PATH of published feature networks, see memjax audit --help
        }
    )
    c.update(texts)
    return c


def sweep_base() -> ConfigDict:
    """Returns the run that every arm changes: phantoms at 32², 8 of them repeated 40 times.

    The rate is constant, so that a checkpoint is what a shorter run would have ended with.
    """
    base = base_config()
    base.data.phantoms.update(num_images=300, num_held_out=160, num_duplicated=8, copies=40)
    base.train.update(steps=600, lr_schedule="constant", learning_rate=2e-3, ema_decay=0.99)
    base.train.update(checkpoint_every=600, log_every=100)
    base.audit.rungs = (*base.audit.rungs, "copy_encoder")
    return base


def watched(steps: int, every: int = 100) -> dict[str, Any]:
    """Returns the fields of a run whose checkpoints are all kept, to be looked at on the way."""
    return {
        "train__steps": steps,
        "train__checkpoint_every": every,
        "train__keep_checkpoints": max(steps // every + 1, 20),
    }


def arm(key: str, title: str, value: Any, step: int | None = None, **fields: Any) -> dict[str, Any]:
    """Returns one arm; write ``data__num_markers=0`` for ``data.num_markers``."""
    changed = {name.replace("__", "."): field for name, field in fields.items()}
    return {"key": key, "title": title, "value": value, "step": step, "set": changed}


def expectation(text: str, metric: str, *arms: str, trend: str = "") -> dict[str, Any]:
    """Returns something expected of a sweep.

    Args:
        text: In words.
        metric: Of the rows.
        *arms: Two keys: the first is expected above the second.
        trend: ``rises`` or ``falls`` with the factor, over all arms.
    """
    return {"text": text, "metric": metric, "arms": list(arms), "trend": trend}


def quick(config: ConfigDict, keys: Sequence[str] = (), **changes: Mapping[str, Any]) -> ConfigDict:
    """Returns a sweep of one seed, fewer arms and short runs.

    Args:
        config: The sweep.
        keys: Arms to keep; empty keeps all.
        **changes: Sections of the base and their values.
    """
    config.seeds = (0,)
    if keys:
        config.arms = tuple(a for a in config.arms if a["key"] in keys)
    for section, values in changes.items():
        config.base[section].update(values)
    config.measure.update(once=12, held_out=12, random=8, unconditional=64, loss_rows=64)
    return config
