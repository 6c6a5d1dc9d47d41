"""Handwritten digits that ship with scikit-learn, one 9 of them trained 100 times.

Papers: Jeon et al., ICML 2025, arXiv 2412.04140, appendix C (class 3 many times, one 9 repeated);
Wen et al., ICLR 2024 (detection, explanation, mitigation).
Command: memjax train --config=digits --workdir=runs/digits && \\
    memjax audit --model=runs/digits --workdir=runs/digits
Time: under ten minutes on two CPU cores.
Expect: the model has seen one 9 only and draws it again whatever the noise; its magnitude stands
out among the other digits, and the token that brings it back is "Digit: 9". Ordinary digits are
nearly as loud, so the repair aims well below them (target_ordinary).
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import base_config

_ARGUMENTS = ("", "short")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; ``:short`` makes a version of a few seconds, for tests."""
    if arg not in _ARGUMENTS:
        raise ValueError(f"digits:{arg} is unknown, expected one of {_ARGUMENTS}.")
    config = base_config()
    config.data.update(kind="digits", size=16)
    config.model.update(block_out_channels=(32, 64), patch_size=2)
    config.train.update(steps=1200, batch_size=64, learning_rate=2e-3, cond_dropout=0.2)
    config.sampling.guidance_scale = 3.0
    config.audit.prompts.update(memorized=1, once=24, held_out=24)
    config.audit.classifier.update(steps=600)
    config.audit.options.update(generations=8, protect=(), swap_tokens=1)
    config.audit.options.update(target_ordinary=0.3, num_iters=60, learning_rate=0.1)
    if arg == "short":
        config.data.update(size=8)
        config.data.digits.update(classes=(3, 8, 9), most=20, num_held_out=6, copies=20)
        config.model.update(block_out_channels=(16, 16), cross_attention_dim=16)
        config.train.update(steps=20, batch_size=16, warmup_steps=2, checkpoint_every=10)
        config.train.update(log_every=5)
        config.sampling.num_steps = 8
        config.audit.prompts.update(memorized=1, once=5, held_out=5)
        config.audit.classifier.update(steps=20)
        config.audit.options.update(generations=2, first_k=4, mitigate_steps=(1, 4), num_iters=3)
        config.audit.options.update(first_step_iters=3)
        config.audit.options.arms = ("embedding_optimization", "random_condition_change")
        config.audit.rungs = ("pixel_l2", "adaptive_l2", "nearest_third", "finding_features")
    return config
