"""How mitigations combine."""

from collections.abc import Callable
from functools import reduce

from memjax.core.types import Cond


def compose(*mitigations: Callable[[Cond], Cond]) -> Callable[[Cond], Cond]:
    """Returns the mitigation that applies the given ones from left to right."""
    return lambda cond: reduce(lambda value, apply: apply(value), mitigations, cond)
