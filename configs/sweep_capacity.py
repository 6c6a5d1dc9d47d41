"""Width of the network against copying.

Question: does a larger network copy more?
Papers: Gu et al., arXiv 2310.02664; Dutt et al., arXiv 2405.19458 (capacity regularises
memorization).
Command: memjax sweep --config=sweep_capacity --workdir=runs/capacity
Time: about an hour on two CPU cores, :quick ten minutes (from the times of single runs).
Expected picture: copies of repeated images rise with the width, fastest among the small networks.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import QUICK, arm, expectation, quick, sweep_config


def get_config(arg: str = "") -> ConfigDict:
    """Returns the sweep; ``:quick`` keeps one seed, three widths and shorter runs."""
    if arg not in ("", QUICK):
        raise ValueError(f"sweep_capacity:{arg} is unknown, expected nothing or :{QUICK}.")
    widths = (8, 16, 32) if arg == QUICK else (8, 16, 32, 48)
    config = sweep_config(
        name=f"sweep_capacity{':' + arg if arg else ''}",
        title="Width of the network, and what it copies",
        question="Does a larger network copy more?",
        expected_time="about an hour on two CPU cores, :quick ten minutes",
        expected_picture="Copies of repeated pictures rise with the width.",
        factor="model.block_out_channels",
        factor_label="Channels of the first level",
        scale="log",
    )
    if arg == QUICK:
        config.base.train.steps = 400
    config.arms = tuple(
        arm(f"width_{w}", f"{w} channels", w, model__block_out_channels=(w, 2 * w)) for w in widths
    )
    config.expectations = (
        expectation("copies rise with capacity", "copy_rate_mix", trend="rises"),
    )
    return quick(config) if arg == QUICK else config
