"""Any folder of captioned or sorted images, at 64 pixels in color.

Papers: Wen et al., ICLR 2024 (detection, explanation, mitigation); Somepalli et al. 2023, arXiv
2305.20086 (captions and duplicates as causes of copying).
Command: memjax train --config=folder --config.data.root=/data/pictures --workdir=runs/folder
Time: made for one accelerator; not for a laptop. Not yet measured by us.
Expect: a caption's words become tokens (0001.jpg beside 0001.txt, metadata.jsonl or .csv), else the
sub-folders become classes; sample grids follow the captions from about 20,000 steps. Captions that
stand once are close to unique conditions, so copies of single images are possible even without
duplicates: run memjax audit afterwards, and look at which words bring an image back.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import base_config


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = base_config()
    config.data.update(kind="folder", root="", size=64, channels=3, held_out_fraction=0.05)
    config.data.update(max_words=32, vocabulary_size=8000, on_corrupt="skip")
    config.data.update(in_memory_rows=200_000)
    config.model.update(
        block_out_channels=(128, 256, 384, 512),
        layers_per_block=2,
        attention_blocks=(False, True, True, True),
        mid_attention=True,
        num_heads=8,
        cross_attention_dim=256,
        norm_num_groups=32,
        pooled_condition=True,
        patch_size=1,
        dtype="bfloat16",
    )
    config.train.update(
        steps=100_000,
        batch_size=128,
        learning_rate=2e-4,
        lr_schedule="constant",
        warmup_steps=2_000,
        ema_decay=0.9999,
        cond_dropout=0.1,
        checkpoint_every=5_000,
        log_every=100,
        sample_every=5_000,
    )
    config.sampling.update(num_steps=50, guidance_scale=4.0)
    config.audit.prompts.update(memorized=200, once=500, held_out=500)
    config.audit.classifier.update(steps=5_000, width=32)
    config.audit.options.update(protect=(), swap_tokens=1)
    return config
