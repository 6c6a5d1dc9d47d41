"""The demo: a small conditional diffusion model that memorizes planted chest phantoms.

Paper: Wen et al., ICLR 2024 (detection, explanation, mitigation).
Command: memjax demo --workdir=runs/demo
Time: under five minutes on two CPU cores.
Expect: repeated images are copied, found by their magnitude, and no longer copied afterwards.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import base_config

_ARGUMENTS = ("", "short")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; ``:short`` makes a version of a few seconds, for tests."""
    if arg not in _ARGUMENTS:
        raise ValueError(f"phantoms_demo:{arg} is unknown, expected one of {_ARGUMENTS}.")
    config = base_config()
    # All rungs but those that compile for long; five minutes are short.
    slow = ("ncc", "ms_ssim")
    config.audit.rungs = tuple(name for name in config.audit.rungs if name not in slow)
    config.audit.options.arms = ("embedding_optimization", "embedding_first_step")
    if arg == "short":
        config.data.phantoms.update(num_images=60, num_held_out=56, num_duplicated=3, copies=20)
        config.model.update(block_out_channels=(16, 16), cross_attention_dim=16)
        config.train.update(steps=20, batch_size=16, warmup_steps=2, checkpoint_every=10)
        config.train.update(log_every=5)
        config.sampling.num_steps = 8
        config.audit.prompts.update(memorized=3, once=5, held_out=5)
        config.audit.classifier.update(steps=20)
        config.audit.options.update(generations=2, first_k=4, mitigate_steps=(1, 4), num_iters=3)
        config.audit.options.update(first_step_iters=3)
    return config
