"""Repeats of an image against copying: how often must an image stand in the data?

Question: how often must an image stand in the training data before it is copied?
Papers: Carlini et al., arXiv 2301.13188 (duplicates are extracted); Somepalli et al. 2023, arXiv
2305.20086; Webster et al., arXiv 2303.12733 (de-duplication).
Command: memjax sweep --config=sweep_duplication --workdir=runs/duplication
Time: about an hour on two CPU cores, :quick ten minutes (from the times of single runs).
Expected picture: copies of the repeated images rise with the repeats; prompts trained once stay
low throughout.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import QUICK, arm, expectation, quick, sweep_config


def get_config(arg: str = "") -> ConfigDict:
    """Returns the sweep; ``:quick`` keeps one seed, three arms and shorter runs."""
    if arg not in ("", QUICK):
        raise ValueError(f"sweep_duplication:{arg} is unknown, expected nothing or :{QUICK}.")
    copies = (2, 10, 40) if arg == QUICK else (2, 5, 10, 20, 40)
    config = sweep_config(
        name=f"sweep_duplication{':' + arg if arg else ''}",
        title="Repeats of a picture, and whether it is copied",
        question="How often must a picture stand in the training data before it is copied?",
        expected_time="about an hour on two CPU cores, :quick ten minutes",
        expected_picture="Copies of repeated pictures rise with the number of repeats.",
        factor="data.phantoms.copies",
        factor_label="Repeats of each of 8 pictures, among 300 others",
        scale="log",
        headline=("copy_rate_memorized", "copy_rate_once", "auc_first_k"),
    )
    if arg == QUICK:
        config.base.train.steps = 400
    config.arms = tuple(
        arm(f"copies_{n}", f"{n} repeats", n, data__phantoms__copies=n) for n in copies
    )
    config.expectations = (
        expectation("copies rise with repeats", "copy_rate_memorized", trend="rises"),
        expectation("the detector needs the repeats", "auc_first_k", trend="rises"),
    )
    return quick(config) if arg == QUICK else config
