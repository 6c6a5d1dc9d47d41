"""Stable Diffusion 2.1 fine-tuned with a twentieth of the images drawn five times as often.

Paper: Somepalli et al. 2023, arXiv 2305.20086, §4: 256-pixel center crops and mirror images,
100,000 steps of 16, a constant rate of 5e-6 after 5,000 of warm-up, 5 % of the rows with weight 5.
No moving average of the weights.
Command: memjax train --config=finetune_dcr:dup_both --config.data.root=/data/laion10k
--config.fine_tune.base=/models/stable-diffusion-2-1 --workdir=runs/dcr
Time: meant for one accelerator; neither its time nor its memory was measured by us yet.
Expect: dup_both (a duplicated image always with its first caption) copies most, dup_image (with
one of its captions, drawn anew: "text": [..., ...] in metadata.jsonl) less, nodup least.
--config.fine_tune.captions=all is the paper's mitigation "multiple captions".
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import fine_tune_config

# Style → share of duplicated rows, and which caption an image with several carries.
_STYLES = {"dup_both": (0.05, "first"), "dup_image": (0.05, "duplicated"), "nodup": (0.0, "first")}


def get_config(style: str = "dup_both") -> ConfigDict:
    """Returns the configuration of a style of duplication."""
    if style not in _STYLES:
        raise ValueError(f"finetune_dcr:{style} is unknown, expected one of {tuple(_STYLES)}.")
    fraction, captions = _STYLES[style]
    config = fine_tune_config()
    config.data.update(size=256, square="crop", in_memory_rows=0, held_out_fraction=0.02)
    config.data.update(flip=True, duplicate_fraction=fraction, duplicate_factor=5.0)
    config.model.update(dtype="bfloat16", remat=False)
    config.train.update(
        steps=100_000,
        batch_size=16,
        learning_rate=5e-6,
        lr_schedule="constant",
        warmup_steps=5_000,
        weight_decay=1e-2,
        clip_norm=1.0,
        ema_decay=0.0,
        ema_warmup=False,
        checkpoint_every=5_000,
        keep_checkpoints=2,
        log_every=100,
    )
    config.fine_tune.update(captions=captions)
    config.audit.prompts.update(memorized=200, once=500, held_out=500)
    return config
