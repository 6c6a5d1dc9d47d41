"""What of a training step does not change during a run."""

import dataclasses

from memjax.training.losses import check_prediction
from memjax.training.memorization_filter import MODES


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What does not change during a run.

    Attributes:
        prediction: What the network outputs, ``eps`` or ``v``.
        cond_dropout: Probability that an example's condition is dropped; 0 = no null condition
            is trained, 1 = unconditional.
        ema_decay: Decay of the weights' moving average.
        ema_warmup: Use ``min(decay, (1 + n)/(10 + n))`` after ``n`` updates.
        snr_gamma: γ of min-SNR loss weights, or None for none.
        filter_threshold: τ of the memorisation filter: None (off), a number, or one number per
            equal bucket of timesteps, cleanest first.
        filter_mode: ``kept`` (mean over the kept) or ``all`` (sum of the kept over the batch).
        filter_rms: Compare the magnitude divided by ``√d`` with τ.
        filter_decay: Decay of the per-row moving average of the magnitude.
        null_label: The id of every slot's null.
    """

    prediction: str = "eps"
    cond_dropout: float = 0.1
    ema_decay: float = 0.999
    ema_warmup: bool = True
    snr_gamma: float | None = None
    filter_threshold: float | tuple[float, ...] | None = None
    filter_mode: str = "kept"
    filter_rms: bool = False
    filter_decay: float = 0.9
    null_label: int = 0

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        for name in ("cond_dropout", "ema_decay", "filter_decay"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}, expected a number in [0, 1].")
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            raise ValueError(f"snr_gamma is {self.snr_gamma}, expected a positive number or None.")
        if self.filter_mode not in MODES:
            raise ValueError(f"filter_mode is {self.filter_mode!r}, expected one of {MODES}.")
        if isinstance(self.filter_threshold, list):
            object.__setattr__(self, "filter_threshold", tuple(self.filter_threshold))
        if self.filter_threshold == ():
            raise ValueError("filter_threshold is empty, expected a number, numbers or None.")
