"""Which generated images copy a training image; see :func:`copies`."""

from memjax.studies.copies.study import Comparison, Copies, copies

__all__ = ["Comparison", "Copies", "copies"]
