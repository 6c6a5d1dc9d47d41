"""The fields of a fine-tuning's configuration, with their defaults."""

from ml_collections import ConfigDict, config_dict

from memjax.cli.defaults import base_config
from memjax.models.lora import ATTENTION


def fine_tune_config() -> ConfigDict:
    """Returns a configuration with every field; what network and schedule are, the base says."""
    c = base_config()
    c.data.update(kind="folder", size=512, channels=3, held_out_fraction=0.02)
    c.data.flip = False  # show mirror images too
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
            # Pictures shown `repeats` times: a sub-folder of data.root, a number of rows drawn by
            # seed, "repeats" (what metadata.jsonl says), or "" for none.
            "memorized": "",
            "repeats": 1,
            "others_ratio": config_dict.placeholder(float),  # others per repeat; None = all once
            "captions": "first",  # of several a picture: first, duplicated (drawn for those), all
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
