"""Where the time of a run goes: waiting for data, computing, saving, making samples."""

import contextlib
import time
from collections.abc import Iterator

DATA, CHECKPOINT, SAMPLES = "data", "checkpoint", "samples"
OTHERS = (DATA, CHECKPOINT, SAMPLES)


class Clock:
    """Adds up the seconds of named parts; what belongs to none of them is computing."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(OTHERS, 0.0)
        self._since = time.monotonic()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what happens inside as that part."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[name] += time.monotonic() - began

    def take(self) -> dict[str, float]:
        """Returns the seconds since the last call, part by part, and starts anew."""
        now = time.monotonic()
        spent, whole = self._spent, now - self._since
        self._spent, self._since = dict.fromkeys(OTHERS, 0.0), now
        compute = max(whole - sum(spent.values()), 0.0)
        named = {f"{name}_seconds": seconds for name, seconds in spent.items()}
        return {"seconds": whole, "compute_seconds": compute, **named}
