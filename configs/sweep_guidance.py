"""Guidance scale against copying: one trained model, sampled with more and more guidance.

Question: does classifier-free guidance amplify copying?
Papers: Ho and Salimans 2022, arXiv 2207.12598; Jain et al., arXiv 2411.16738 (guidance pulls every
noise to the memorized image).
Command: memjax sweep --config=sweep_guidance --workdir=runs/guidance
Time: about half an hour on two CPU cores, :quick five minutes (from the times of single runs).
Expected picture: the copy rate of memorized prompts rises from scale 0 (the model's unconditional
half) to 3 and stays high; prompts trained once are copied little at any scale.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import QUICK, arm, expectation, quick, sweep_config, watched


def get_config(arg: str = "") -> ConfigDict:
    """Returns the sweep; ``:quick`` keeps one seed, four scales and a shorter run."""
    if arg not in ("", QUICK):
        raise ValueError(f"sweep_guidance:{arg} is unknown, expected nothing or :{QUICK}.")
    steps = 300 if arg == QUICK else 600
    marker = watched(2 * steps)
    config = sweep_config(
        name=f"sweep_guidance{':' + arg if arg else ''}",
        title="Guidance scale, and what the model copies",
        question="Does classifier-free guidance amplify copying?",
        expected_time="about half an hour on two CPU cores, :quick five minutes",
        expected_picture="Copies of memorised prompts rise with the scale up to about 3.",
        factor="sampling.guidance_scale",
        factor_label="Guidance scale (0: unconditional half, 1: no guidance)",
        scale="linear",
    )
    config.base.train.steps = steps
    scales = (0.0, 1.0, 3.0, 6.0) if arg == QUICK else (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)
    config.arms = tuple(
        arm(f"scale_{s:g}", f"scale {s:g}", s, steps, sampling__guidance_scale=s, **marker)
        for s in scales
    )
    config.expectations = (
        expectation("guidance amplifies copying", "copy_rate_memorized", "scale_3", "scale_1"),
        expectation("a condition is needed to copy on demand", "copy_rate_memorized", "scale_1",
                    "scale_0"),
    )  # fmt: skip
    return quick(config) if arg == QUICK else config
