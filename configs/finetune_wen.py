"""Stable Diffusion 1.4 fine-tuned until 200 repeated images are memorized, filter optional.

Paper: Wen et al., ICLR 2024, §5.2: 200 captioned images 200 times each among three times as many
others that stand once, 20,000 steps of 8, a constant rate of 1e-5, moving average, 512-pixel center
crops. The filter is --config.train.filter_threshold=2 (its τ, in raw units of 64x64x4 latents).
Command: memjax train --config=finetune_wen --config.fine_tune.base=/models/stable-diffusion-v1-4
--config.data.root=/data/laion --config.fine_tune.memorized=memorized --workdir=runs/wen
Time: meant for one accelerator; neither its time nor its memory was measured by us yet.
Expect: the 200 captions bring their images back; the paper's filter lowers the similarity to them
at a CLIP score that hardly moves. fine_tune.memorized may also be a number of rows to draw, and
fine_tune.others_ratio=None takes every other image the folder has.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import fine_tune_config


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = fine_tune_config()
    config.data.update(size=512, square="crop", in_memory_rows=0, held_out_fraction=0.01)
    config.model.update(dtype="bfloat16", remat=True)
    config.train.update(
        steps=20_000,
        batch_size=8,
        learning_rate=1e-5,
        lr_schedule="constant",
        warmup_steps=0,
        weight_decay=1e-2,
        clip_norm=1.0,
        ema_decay=0.9999,
        checkpoint_every=1_000,
        keep_checkpoints=2,
        log_every=50,
    )
    config.fine_tune.update(memorized="200", repeats=200, others_ratio=3.0)
    config.audit.prompts.update(memorized=200, once=500, held_out=500)
    return config
