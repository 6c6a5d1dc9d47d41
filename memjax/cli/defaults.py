"""The fields of every configuration, with their defaults. A configuration changes some of them."""

from ml_collections import ConfigDict, config_dict


def base_config() -> ConfigDict:
    """Returns a configuration with every field; see the comments for what each one means."""
    c = ConfigDict()
    c.seed = 0
    c.data = ConfigDict(
        {
            "kind": "phantoms",  # or "chexpert"
            "root": "",  # folder that holds train.csv; "" = under the workdir (phantoms)
            "size": 32,
            "channels": 1,
            "square": "crop",  # how a picture becomes square: crop or pad
            "frontal_only": True,
            "strict": False,  # refuse data with any problem
            "check": True,  # decode every picture before training
            "held_out_fraction": 0.0,  # of train.csv's patients, besides valid.csv
            "in_memory_rows": 20_000,  # more rows than this are decoded on the fly
            "num_workers": 0,
            "on_corrupt": "error",  # or "skip"; only for pictures found corrupt while training
            "findings": (),  # () = all 14
            "num_markers": 2,
            "age_bin": 5,
            "use_view": True,
            "use_sex": True,
            "use_age": True,
            "duplicate_fraction": 0.0,  # share of rows drawn duplicate_factor times as often
            "duplicate_factor": 5.0,
            "phantoms": {
                "seed": 0,
                "size": 64,
                "num_images": 500,
                "num_held_out": 120,
                "num_duplicated": 8,
                "copies": 50,
                "lateral_fraction": 0.05,
            },
        }
    )
    c.model = ConfigDict(
        {
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "attention_blocks": (False, True),
            "mid_attention": False,
            "num_heads": 4,
            "transformer_layers": 1,
            "cross_attention_dim": 64,
            "norm_num_groups": 8,
            "pooled_condition": True,
            "patch_size": 2,
            "dtype": "float32",
            "remat": False,
        }
    )
    c.diffusion = ConfigDict(
        {
            "name": "cosine",
            "num_timesteps": 1000,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "prediction": "eps",
        }
    )
    c.train = ConfigDict(
        {
            "steps": 800,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "lr_schedule": "cosine",
            "warmup_steps": 50,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "cond_dropout": 0.1,  # 0 = no guidance arm; 1 = unconditional arm
            "ema_decay": 0.995,
            "ema_warmup": True,
            "snr_gamma": config_dict.placeholder(float),
            "filter_threshold": config_dict.placeholder(float),  # Wen's training-time filter
            "filter_mode": "kept",
            "filter_rms": True,
            "checkpoint_every": 400,
            "log_every": 50,
            "sample_every": 0,  # 0 = no grids while training
            "num_samples": 16,
        }
    )
    c.sampling = ConfigDict(
        {
            "stepper": "ddim",
            "num_steps": 30,
            "guidance_scale": 3.0,
            "clip_x0": 1.0,
            "spacing": "leading",
            "steps_offset": 0,
        }
    )
    c.audit = ConfigDict(
        {
            "prompts": {"memorized": 8, "once": 16, "held_out": 16},
            "classifier": {"steps": 400, "batch_size": 64, "width": 16},
            "options": {
                "generations": 4,
                "first_k": 8,
                "default": "first_k",
                "target_fpr": 0.05,
                "arms": (
                    "embedding_optimization",
                    "embedding_first_step",
                    "embedding_noise",
                    "random_condition_change",
                ),
                "mitigate_steps": (4, 8),
                "num_iters": 20,
                "learning_rate": 0.05,
                "target_rms": config_dict.placeholder(float),  # None: as loud as ordinary prompts
                "target_ordinary": 1.0,
                "protect": ("findings",),  # keep what was asked for; () lets every token move
                "first_step_iters": 20,
                "first_step_learning_rate": 0.05,
                "noise_scale": 0.5,
                "swap_tokens": 4,
                "chunk": 8,
            },
        }
    )
    return c
