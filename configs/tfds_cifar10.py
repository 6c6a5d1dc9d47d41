"""CIFAR-10 as prepared by tensorflow-datasets, with class tokens.

Papers: Ho and Salimans 2022, arXiv 2207.12598 (guidance); Carlini et al., USENIX Security 2023
(CIFAR-10 images copied by diffusion models); Wen et al., ICLR 2024 (detection).
Command: memjax train --config=tfds_cifar10 --config.data.tfds_dir=/data/tfds --workdir=runs/cifar10
Time: made for one accelerator; not for a laptop. Not yet measured by us.
Expect: 50,000 training and 10,000 held-out images; recognisable classes from about 20,000 steps.
The data must be prepared as array_record, once, where tensorflow-datasets can download it; a
TFRECORD copy is refused with the command. Other data sets: --config.data.tfds_name=mnist (with
--config.data.channels=1), imagenette/full-size-v2 (with --config.data.size=64).
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import base_config


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = base_config()
    config.data.update(kind="tfds", tfds_name="cifar10", size=32, channels=3)
    config.data.update(in_memory_rows=200_000)
    config.model.update(
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        attention_blocks=(False, True, True, False),
        mid_attention=True,
        num_heads=4,
        cross_attention_dim=128,
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
    config.sampling.update(num_steps=50, guidance_scale=3.0)
    # A class is all that is asked for: each of its images is one of thousands.
    config.audit.prompts.update(memorized=10, once=10, held_out=10)
    config.audit.classifier.update(steps=5_000, width=32)
    config.audit.options.update(generations=16, protect=(), swap_tokens=1)
    return config
