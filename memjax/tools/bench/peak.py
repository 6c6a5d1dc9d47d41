"""What the machine computes at most: the yardstick of every rate of ``memjax bench``."""

from typing import Any

import jax

from memjax.core.chips import chip_of
from memjax.runtime.devices import measured_peak

_SIDE, _TRIES = 1024, 3


class Probe:
    """Looks at this process's first device; for a :class:`~memjax.tools.bench.worker.Worker`.

    Args:
        side: Rows and columns of the product that is measured.
    """

    def __init__(self, side: int = _SIDE) -> None:
        self._side = side

    def facts(self) -> dict[str, Any]:
        """Returns platform, device and its operations a second, with where they come from.

        The chip table's where it knows the device (dense bfloat16, whatever is computed in), else
        the best of a few measurements of one plain product in float32, with all threads.
        """
        device = jax.devices()[0]
        chip = chip_of(device.device_kind)
        if chip is not None:
            peak, source = chip.flops, f"{chip.name}, bfloat16, by its maker's table"
        else:
            peak = max(measured_peak("float32", self._side) for _ in range(_TRIES))
            source = f"measured, a {self._side} x {self._side} product in float32"
        return {
            "platform": device.platform,
            "device": device.device_kind,
            "flops_per_second": peak,
            "source": source,
        }
