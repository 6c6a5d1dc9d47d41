"""The whole question on phantoms: conditions, guidance and training steps, three seeds.

Papers: Wen et al., ICLR 2024 (the magnitude); Dar et al., arXiv 2402.01054 (memorized patients).
Question: does the magnitude go along with likeness to the training data, with and without
guidance, whatever the model is told, and from which step on?
Command: memjax sweep --config=sweep_validation --workdir=runs/validation
Time: an hour and a half on two CPU cores, :quick twelve minutes (from single runs).
Expected picture: see sweep_conditions, sweep_guidance and sweep_steps, whose runs it shares.
"""

from ml_collections import ConfigDict

from memjax.cli.config_fields import QUICK, sweep_config


def get_config(arg: str = "") -> ConfigDict:
    """Returns the sweep of sweeps; ``:quick`` takes the quick variant of each."""
    if arg not in ("", QUICK):
        raise ValueError(f"sweep_validation:{arg} is unknown, expected nothing or :{QUICK}.")
    names = ("sweep_conditions", "sweep_guidance", "sweep_steps")
    config = sweep_config(
        name=f"sweep_validation{':' + arg if arg else ''}",
        title="Memorisation of phantoms, validated",
        question="Does the warning signal go along with likeness to the training data?",
        expected_time="an hour and a half on two CPU cores, :quick twelve minutes",
        parts=tuple(f"{name}:{arg}" if arg else name for name in names),
    )
    config.seeds = (0,) if arg == QUICK else (0, 1, 2)
    return config
