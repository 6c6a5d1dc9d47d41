"""CheXpert at 128 pixels with classifier-free guidance.

Papers: Irvin et al. 2019, arXiv 1901.07031 (data); Ho and Salimans 2022, arXiv 2207.12598
(guidance); Wen et al., ICLR 2024 (detection). CheXpert is under Stanford's research use agreement:
no redistribution of images, nor of generated near-copies.
Command: memjax train --config=chexpert_cfg --config.data.root=/data/CheXpert-v1.0-small \\
    --workdir=runs/chexpert_cfg
Time: made for one accelerator with 40 GB or a TPU v5e-8; not for a laptop. Not yet measured by us.
Expect: about 191,000 frontal training images (224,316 images of 65,240 patients in all); the
loss falls quickly for the first 5,000 steps and slowly after; sample grids look like chest films
from about 20,000 steps. Conditions (findings, view, sex, age bin) are nearly unique for many rows,
so copies of single patients are possible even without duplicates: run `memjax audit` afterwards.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import base_config


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = base_config()
    config.data.update(kind="chexpert", root="", size=128, num_markers=0, held_out_fraction=0.02)
    config.data.update(in_memory_rows=250_000, num_workers=0, on_corrupt="skip")
    config.model.update(
        block_out_channels=(128, 256, 384, 512),
        layers_per_block=2,
        attention_blocks=(False, False, True, True),
        mid_attention=True,
        num_heads=8,
        cross_attention_dim=256,
        norm_num_groups=32,
        pooled_condition=True,
        patch_size=1,
        dtype="bfloat16",
    )
    config.train.update(
        steps=200_000,
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
    config.sampling.guidance_scale = 3.0
    config.audit.prompts.update(memorized=200, once=500, held_out=500)
    config.audit.classifier.update(steps=5_000, width=32)
    return config
