"""Which images does a model give back, judged by its own generations; see :func:`extract`."""

from memjax.studies.extraction.real import Real, read_real
from memjax.studies.extraction.study import Extraction, ExtractOptions, extract

__all__ = ["ExtractOptions", "Extraction", "Real", "extract", "read_real"]
