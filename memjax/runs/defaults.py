"""The fields of every configuration, with their defaults: plain data; None is a number left out."""

from typing import Any

from memjax.core.names import FSDP_MIN_SIZE, RULES


def default_config() -> dict[str, Any]:
    """Returns a configuration with every field; see the comments for what each one means."""
    c: dict[str, Any] = {}
    c["seed"] = 0
    c["data"] = {
        # phantoms, chexpert, nih, mimic (radiographs); folder, scenes, tfds, digits (any
        # images; scenes in fine-tunings alone)
        "kind": "phantoms",
        "root": "",  # folder of the data, or gs://...; "" = under the workdir (phantoms)
        "size": 32,
        "channels": 1,
        "square": "crop",  # how an image becomes square: crop or pad
        "frontal_only": True,
        "strict": False,  # refuse data with any problem
        "check": True,  # decode every image before training
        "held_out_fraction": 0.0,  # of the training part's patients, besides a valid part
        "in_memory_rows": 20_000,  # more rows than this are decoded on the fly
        "num_workers": 0,
        "on_corrupt": "error",  # or "skip"; only for images found corrupt while training
        "findings": (),  # () = all 14
        # What an uncertain label means: ones, zeros, multiclass, ignore, resample(p); for some
        # findings only, as JSON: '{"Edema": "ones", "*": "ignore"}'
        "uncertainty": "multiclass",
        "rows_with": (),  # keep rows positive for one of these findings; () = every row
        "num_markers": 2,
        "age_bin": 5,
        "use_view": True,
        "use_sex": True,
        "use_age": True,
        "duplicate_fraction": 0.0,  # share of rows drawn duplicate_factor times as often
        "duplicate_factor": 5.0,
        # Training images are moved anew each time they are drawn: degrees, share of the edge, share
        # of the scale, mirrored or not
        "augment": {"rotate": 0.0, "shift": 0.0, "zoom": 0.0, "flip": False},
        "phantoms": {
            "seed": 0,
            "size": 64,
            "num_images": 500,
            "num_held_out": 120,
            "num_duplicated": 8,
            "copies": 50,
            "lateral_fraction": 0.05,
        },
        "labels": "",  # cheXbert, visualCheXbert, impression, … (chexpert); negbio (mimic)
        "class_fields": (),  # of metadata.jsonl or .csv, become class labels (folder)
        "max_words": 16,  # of a caption; the rest is not read (folder, tfds)
        "vocabulary_size": 2000,  # most frequent words; the others are one token
        "tfds_name": "",  # such as mnist, cifar10, imagenette/full-size-v2, chexpert
        "tfds_dir": "",  # folder of prepared data sets; "" = ~/tensorflow_datasets
        "digits": {
            "classes": tuple(range(10)),
            "duplicated_class": 9,  # present in training by repeated images alone
            "num_duplicated": 1,
            "copies": 100,
            "num_held_out": 40,  # a class
            "most": 0,  # training images of any other class; 0 = all
            "style": True,  # stroke and slant beside the digit
            "seed": 0,
        },
    }
    c["model"] = {
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
        "refine_channels": 0,  # of a residual at full resolution behind patches; 0 = none
        "dtype": "float32",
        "remat": False,
        "remat_policy": "full",  # or products
    }
    c["diffusion"] = {
        "name": "cosine",
        "num_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction": "eps",
    }
    c["train"] = {
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
        "snr_gamma": None,
        "filter_threshold": None,  # Wen's training-time filter
        "filter_mode": "kept",
        "filter_rms": True,
        "filter_detector": "noise_magnitude",  # or any other detector of single states
        "checkpoint_every": 400,
        "keep_checkpoints": 3,  # the newest so many; at least 2
        "log_every": 50,
        "sample_every": 0,  # 0 = no grids while training
        "num_samples": 16,
    }
    # Over which devices a run is spread; changes no result beyond rounding, so a run may go on with
    # another section. data x fsdp x tensor = devices.
    c["parallel"] = {
        "data": -1,  # copies of the weights; -1 = what the others leave
        "fsdp": 1,  # parts into which each weight is split; rows are spread over it too
        "tensor": 1,  # parts into which attention heads and feed-forward layers are split
        "slices": 1,  # TPU slices (or processes) joined by the slower network
        "accumulate": 1,  # parts in which a batch is taken, one after the other
        "fsdp_min_size": FSDP_MIN_SIZE,  # smaller leaves stay whole
        "rules": RULES,  # (pattern of a leaf's path, axis of each dimension or "-")
    }
    c["sampling"] = {
        "stepper": "ddim",
        "num_steps": 30,
        "guidance_scale": 3.0,
        "clip_x0": 1.0,
        "spacing": "leading",
        "steps_offset": 0,
    }
    c["audit"] = {
        "prompts": {
            **{"memorized": 8, "once": 16, "held_out": 16, "near_miss": 8, "random": 8},
            "loudest": 8,  # training prompts of the highest scores, whatever is known of them
        },
        # The similarity ladder; add "copy_encoder" (trained on the run's own images).
        "rungs": (
            "pixel_l2",
            "adaptive_l2",
            "nearest_third",
            "pearson",
            "ncc",
            "ssim",
            "ms_ssim",
            "finding_features",
        ),
        "copy_encoder": {"steps": 800, "batch_size": 64, "width": 16, "flip": False},
        "classifier": {"steps": 400, "batch_size": 64, "width": 16},
        "options": {
            "generations": 4,
            "first_k": 8,
            "default": "first_k",
            "target_fpr": 0.05,
            "detectors": (),  # beside the magnitude, such as ("update_norm",)
            "arms": (
                "embedding_optimization",
                "embedding_first_step",
                "embedding_noise",
                "random_condition_change",
            ),
            "mitigate_steps": (4, 8),
            "num_iters": 20,
            "learning_rate": 0.05,
            "target_rms": None,  # None: as loud as ordinary prompts
            "target_ordinary": 1.0,
            "protect": ("findings",),  # keep what was asked for; () lets every token move
            "first_step_iters": 20,
            "first_step_learning_rate": 0.05,
            "noise_scale": 0.5,
            "swap_tokens": 4,
            "survey": 2000,  # training prompts scored at the first step, at most; 0: none
            "chunk": 8,
        },
    }
    return _by_name(c)


def _by_name(value: Any) -> Any:
    """In the order of names, as configurations are written."""
    if isinstance(value, dict):
        return {name: _by_name(value[name]) for name in sorted(value)}
    return value
