"""Training steps against copying, and where training and held-out loss part.

Question: from which step on does a model copy, and would early stopping have prevented it?
Papers: arXiv 2505.16959 (the losses part when memorizing begins); Dar et al., arXiv 2402.01054
(over-training raises memorization).
Command: memjax sweep --config=sweep_steps --workdir=runs/steps
Time: about three quarters of an hour on two CPU cores, :quick five minutes (from single runs).
Expected picture: copies of repeated images come early and rise; the loss on held-out images
parts from the training loss later, when images trained once begin to be learnt by heart.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import QUICK, arm, expectation, quick, sweep_config, watched

STEPS = (100, 200, 300, 400, 600, 800, 1000, 1200)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the sweep; ``:quick`` keeps one seed and a run of half the length."""
    if arg not in ("", QUICK):
        raise ValueError(f"sweep_steps:{arg} is unknown, expected nothing or :{QUICK}.")
    steps = STEPS[:5] if arg == QUICK else STEPS
    config = sweep_config(
        name=f"sweep_steps{':' + arg if arg else ''}",
        title="Training steps, and what the model copies",
        question="From which step on does a model copy, and would early stopping prevent it?",
        expected_time="about three quarters of an hour on two CPU cores, :quick five minutes",
        expected_picture="Copies rise with the steps; held-out and training loss part on the way.",
        factor="step",
        factor_label="Training steps",
        scale="linear",
    )
    marker = watched(steps[-1])
    config.arms = tuple(arm(f"step_{s}", f"{s} steps", s, s, **marker) for s in steps)
    config.expectations = (
        expectation("copies rise with training", "copy_rate_mix", trend="rises"),
        expectation("the gap between held-out and training loss widens", "loss_gap",
                    trend="rises"),
    )  # fmt: skip
    return quick(config) if arg == QUICK else config
