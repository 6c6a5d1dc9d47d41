"""Which generated images copy a training image; see :func:`copies`."""

from memjax.studies.copies.comparing import Comparison
from memjax.studies.copies.study import Copies, copies

__all__ = ["Comparison", "Copies", "copies"]
