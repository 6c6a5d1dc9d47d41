"""Stable Diffusion models: read, written, and as the bundle that every command works on."""

from memjax.interop.bundle import make_bundle
from memjax.interop.converting import convert
from memjax.interop.loading import load
from memjax.interop.pipeline import Pipeline
from memjax.interop.saving import save
from memjax.interop.tiny import tiny_pipeline

__all__ = ["Pipeline", "convert", "load", "make_bundle", "save", "tiny_pipeline"]
