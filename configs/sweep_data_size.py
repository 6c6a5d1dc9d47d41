"""Number of training images against copying: the same network, ever more images.

Question: how many training images does it take before single images are no longer copied?
Papers: Yoon et al., ICML 2023 SPIGM workshop; Gu et al., arXiv 2310.02664; Kadkhodaie et al., arXiv
2310.02557 (a network generalises from a certain number of images on).
Command: memjax sweep --config=sweep_data_size --workdir=runs/data_size
Time: over an hour on two CPU cores, :quick ten minutes (from the times of single runs).
Expected picture: the share of images trained once that are copied falls as there are more.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import QUICK, arm, expectation, quick, sweep_config


def get_config(arg: str = "") -> ConfigDict:
    """Returns the sweep; ``:quick`` keeps one seed, three sizes and shorter runs."""
    if arg not in ("", QUICK):
        raise ValueError(f"sweep_data_size:{arg} is unknown, expected nothing or :{QUICK}.")
    sizes = (16, 64, 256) if arg == QUICK else (16, 64, 256, 1024)
    config = sweep_config(
        name=f"sweep_data_size{':' + arg if arg else ''}",
        title="Number of training pictures, and what the model copies",
        question="How many pictures does it take before single pictures are no longer copied?",
        expected_time="over an hour on two CPU cores, :quick ten minutes",
        expected_picture="Copies of pictures trained once fall as their number rises.",
        factor="data.phantoms.num_images",
        factor_label="Different training pictures (each shown equally often)",
        scale="log",
        headline=("copy_rate_once", "copy_rate_third_once", "loss_gap"),
    )
    config.base.train.steps = 400 if arg == QUICK else 1200
    config.base.data.phantoms.update(num_duplicated=0, copies=1)
    # The calibrated rule looks at as many neighbors as there are, at most 50.
    config.arms = tuple(
        arm(f"images_{n}", f"{n} pictures", n, data__phantoms__num_images=n) for n in sizes
    )
    config.expectations = (
        expectation("copies fall with more pictures", "copy_rate_third_once", trend="falls"),
        expectation("the loss gap closes with more pictures", "loss_gap", trend="falls"),
    )
    return quick(config) if arg == QUICK else config
