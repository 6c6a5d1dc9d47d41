"""What a model is told about an image, against what it copies; with and without guidance.

Question: does telling a model more about each training image make it copy more?
Papers: Somepalli et al. 2023, arXiv 2305.20086 (captions drive copying); Gu et al., arXiv
2310.02664 (unique labels); Dar et al., arXiv 2402.01054 (the two percentages).
Command: memjax sweep --config=sweep_conditions --workdir=runs/conditions
Time: about an hour on two CPU cores, :quick ten minutes (from the times of single runs).
Expected picture: rates rise from no condition over findings, and findings with age and sex, to a
marker that no other image has; the arm without guidance copies less than the same condition with
guidance.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import QUICK, arm, expectation, quick, sweep_config, watched

PERSON = {"data__num_markers": 0, "data__use_view": False}
FINDINGS = {**PERSON, "data__use_age": False, "data__use_sex": False}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the sweep; ``:quick`` keeps one seed, four arms and half the steps."""
    if arg not in ("", QUICK):
        raise ValueError(f"sweep_conditions:{arg} is unknown, expected nothing or :{QUICK}.")
    steps = 300 if arg == QUICK else 600
    # The run of sweep_steps, looked at where the other arms end.
    marker = watched(2 * steps)
    config = sweep_config(
        name=f"sweep_conditions{':' + arg if arg else ''}",
        title="What the model is told, and what it copies",
        question="Does telling a model more about each picture make it copy more?",
        expected_time="about an hour on two CPU cores, :quick ten minutes",
        expected_picture="Rates rise with every detail that the condition holds; the arm without "
        "guidance copies less than the same condition with guidance.",
        factor="condition",
        factor_label="What the condition holds",
    )
    config.base.train.steps = steps
    free = {"train__cond_dropout": 0.0, "sampling__guidance_scale": 1.0}
    config.arms = (
        arm("unconditional", "nothing", "nothing", train__cond_dropout=1.0, **FINDINGS),
        arm("findings", "findings", "findings", **FINDINGS),
        arm("person", "findings, age, sex", "findings, age, sex", **PERSON),
        arm("no_guidance", "all, no guidance", "all, no guidance", **free),
        arm("marker", "all and a unique marker", "all and a unique marker", steps, **marker),
    )
    config.expectations = (
        expectation("conditional > unconditional", "copy_rate_mix", "findings", "unconditional"),
        expectation("unique marker > findings", "copy_rate_mix", "marker", "findings"),
        expectation("guidance amplifies copying", "copy_rate_mix", "marker", "no_guidance"),
    )
    kept = ("unconditional", "findings", "no_guidance", "marker")
    return quick(config, kept) if arg == QUICK else config
