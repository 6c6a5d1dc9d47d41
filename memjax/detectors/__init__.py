"""Statistics that say how memorized a condition is. Works with jax alone: no flax needed."""

from memjax.core.registry import Registry
from memjax.core.types import Detector
from memjax.detectors.attention_entropy import AttentionEntropy, AttentionEntropyChange
from memjax.detectors.base import Detection, fit_threshold, null_or_refuse, reduce_steps
from memjax.detectors.noise_magnitude import NoiseMagnitude
from memjax.detectors.run import (
    DEFAULT_DETECTORS,
    Probe,
    detect,
    first_step_statistics,
    prepare,
    steps_needed,
    trajectory_statistics,
)

DETECTORS: Registry[Detector] = Registry(
    "detector",
    {
        "noise_magnitude": "memjax.detectors.noise_magnitude:NoiseMagnitude",
        "sharpness": "memjax.detectors.sharpness:Sharpness",
        "hessian_difference": "memjax.detectors.sharpness:HessianDifference",
        "score_change": "memjax.detectors.score_change:ScoreChange",
        "anisotropy": "memjax.detectors.anisotropy:Anisotropy",
        "condition_jacobian": "memjax.detectors.condition_jacobian:ConditionJacobian",
        "flipd": "memjax.detectors.flipd:Flipd",
        "p_laplacian": "memjax.detectors.p_laplacian:PLaplacian",
        "trajectory_decomposition": (
            "memjax.detectors.trajectory_decomposition:TrajectoryDecomposition"
        ),
        "update_norm": "memjax.detectors.update_norm:UpdateNorm",
        "denoising_confidence": "memjax.detectors.denoising_confidence:DenoisingConfidence",
        "attention_entropy": "memjax.detectors.attention_entropy:AttentionEntropy",
        "attention_entropy_change": "memjax.detectors.attention_entropy:AttentionEntropyChange",
        "basin_exit": "memjax.detectors.basin_exit:BasinExit",
        "bright_ending": "memjax.detectors.bright_ending:BrightEnding",
        "edge_consistency": "memjax.detectors.edge_consistency:EdgeConsistency",
        "seed_similarity": "memjax.detectors.seed_similarity:SeedSimilarity",
    },
)

__all__ = [
    "DEFAULT_DETECTORS",
    "DETECTORS",
    "AttentionEntropy",
    "AttentionEntropyChange",
    "Detection",
    "Detector",
    "NoiseMagnitude",
    "Probe",
    "detect",
    "first_step_statistics",
    "fit_threshold",
    "null_or_refuse",
    "prepare",
    "reduce_steps",
    "steps_needed",
    "trajectory_statistics",
]
