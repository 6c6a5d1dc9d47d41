"""A few hundred to a few thousand chest films of any layout, at 64 pixels.

Papers: Salimans and Ho 2022, arXiv 2202.00512, §4 (v-prediction); Dar et al. 2024, arXiv 2402.01054
(augmentation against memorization); Wen et al., ICLR 2024 (detection).
Command: memjax train --config=radiographs_small --config.data.kind=nih --config.data.root=DIR \\
    --workdir=runs/films
Time: 19 minutes on two CPU cores with AVX-512 that did other work too (42 images/s), for 403 films.
Expect: samples with lungs, ribs and heart, without a grid of patches; single films may be copied,
so run memjax audit --model=runs/films afterwards. :augmented moves every film anew, in
about 18 minutes there.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import base_config

_ARGUMENTS = ("", "augmented", "short")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; ``:augmented`` moves films, ``:short`` is for tests."""
    if arg not in _ARGUMENTS:
        raise ValueError(f"radiographs_small:{arg} is unknown, expected one of {_ARGUMENTS}.")
    config = base_config()
    config.data.update(kind="nih", root="", size=64, num_markers=0, on_corrupt="skip")
    config.model.update(block_out_channels=(48, 96), patch_size=2, refine_channels=8)
    config.diffusion.prediction = "v"
    config.train.update(steps=1500, batch_size=32, learning_rate=2e-3)
    if arg == "augmented":
        config.data.augment.update(rotate=5.0, shift=0.05, zoom=0.05)
    if arg == "short":
        config.data.update(kind="phantoms", size=16)
        config.data.phantoms.update(num_images=60, num_held_out=56, num_duplicated=3, copies=20)
        config.data.augment.update(rotate=5.0, shift=0.05, zoom=0.05)
        config.model.update(block_out_channels=(16, 16), cross_attention_dim=16)
        config.train.update(steps=20, batch_size=16, warmup_steps=2, checkpoint_every=10)
        config.train.update(log_every=5)
        config.sampling.num_steps = 8
        config.audit.prompts.update(memorized=3, once=5, held_out=5)
        config.audit.classifier.update(steps=20)
        config.audit.options.update(generations=2, first_k=4, mitigate_steps=(1, 4), num_iters=3)
        config.audit.options.update(first_step_iters=3)
    return config
