"""Stable Diffusion models: read, written, and as the bundle that every command works on."""

from memjax.interop.stable_diffusion.bundle import make_bundle
from memjax.interop.stable_diffusion.converting import convert
from memjax.interop.stable_diffusion.loading import load
from memjax.interop.stable_diffusion.pipeline import Pipeline
from memjax.interop.stable_diffusion.saving import save
from memjax.interop.stable_diffusion.tiny import tiny_pipeline

__all__ = ["Pipeline", "convert", "load", "make_bundle", "save", "tiny_pipeline"]
