"""Which kind of copy: of the prompt's own image, of another one, or of a template with a free part?

Many captions of one product share a template whose carpet or phone case varies: a generation copies
the template, not the caption's own image. It is compared where a mask says that the template's
instances are the same.

References:
    Webster 2023, arXiv 2305.08694 (matching, retrieved and template verbatims). Its sums of squares
    over 256×256×3 values, 2,500 and 3,000, are given here as the RMS that they stand for.
"""

import enum
import math

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from memjax.evaluate.similarity.measures import check_shapes
from memjax.evaluate.similarity.resolution import Pictures, as_unit

_VALUES = 256 * 256 * 3
MATCHING = math.sqrt(2500 / _VALUES)  # 0.113, also of a template where its mask is 1
RETRIEVED = math.sqrt(3000 / _VALUES)  # 0.124
_SAME = 0.03  # largest difference of a pixel, summed over three channels, where instances agree


class Verbatim(enum.StrEnum):
    """What a prompt's generations copy."""

    TEMPLATE = "template"
    MATCHING = "matching"
    RETRIEVED = "retrieved"
    NONE = "none"


def template_mask(
    a: Pictures, b: Pictures, *, same: float = _SAME, opening: int = 3
) -> Bool[np.ndarray, "h w"]:
    """Returns where two instances of a template agree, without isolated pixels.

    Args:
        a: ``[h, w, c]``, in [-1, 1] or bytes.
        b: Likewise.
        same: Largest difference in [0, 1] units, summed over three channels; images of another
            number of channels are weighted to three.
        opening: Pixels a side of the square that must fit into the mask (erosion, then dilation).

    Raises:
        ValueError: If shapes differ.
    """
    check_shapes(np.asarray(a)[None], np.asarray(b)[None])
    gap = np.abs(as_unit(a).astype(np.float64) - as_unit(b)) / 2
    agree = 3 * gap.mean(axis=-1) < same
    return np.asarray(ndimage.binary_opening(agree, np.ones((opening, opening))))


def masked_rms(
    generated: Pictures, templates: Pictures, masks: Float[np.ndarray, "t h w"]
) -> Float[np.ndarray, "g t"]:
    """Returns ``√(Σ m² (x − t)² / Σ m)`` of each generation and template; inf where no mask is set.

    Args:
        generated: ``[g, h, w, c]``, in [-1, 1] or bytes.
        templates: ``[t, h, w, c]``.
        masks: In [0, 1]; 1 everywhere gives the plain RMS.

    Raises:
        ValueError: If shapes differ.
    """
    check_shapes(generated, templates)
    masks = np.asarray(masks, np.float64)
    if masks.shape != np.asarray(templates).shape[:3]:
        raise ValueError(
            f"masks have shape {masks.shape}, expected one a template, "
            f"{np.asarray(templates).shape[:3]}."
        )
    out = np.empty((len(generated), len(templates)))
    for k, (template, mask) in enumerate(zip(as_unit(templates), masks, strict=True)):
        gap = (as_unit(generated).astype(np.float64) - template) / 2
        weight = mask.sum() * gap.shape[-1]
        total = np.einsum("ghwc,hw->g", gap**2, mask**2)
        out[:, k] = np.sqrt(total / weight) if weight else np.inf
    return out


def verbatim_label(
    generated: Pictures,
    own: Pictures,
    *,
    templates: Pictures | None = None,
    masks: Float[np.ndarray, "t h w"] | None = None,
    retrieved: Pictures | None = None,
    matching_at: float = MATCHING,
    retrieved_at: float = RETRIEVED,
) -> tuple[Verbatim, Float[np.ndarray, " g"]]:
    """Returns what a prompt's generations copy, and each one's RMS to what it copies.

    One generation is enough. Templates are looked at first: a generation of a template may be near
    the prompt's own image, too.

    Args:
        generated: ``[g, h, w, c]``: the generations of one prompt.
        own: Training images of the prompt; may be empty.
        templates: ``[t, h, w, c]``; None for none.
        masks: Of the templates, see :func:`template_mask`.
        retrieved: Other training images; None for none.
        matching_at: RMS below which a generation copies its own image, or a template.
        retrieved_at: RMS below which it copies another training image.

    Raises:
        ValueError: If shapes differ, there is no generation, or templates come without masks.

    .. note:: The distances hold in [0, 1] units at 256 pixels a side in the paper; thresholds at
        32 pixels, or on films that are all alike, need a background of real held-out images.
    """
    if not len(generated):
        raise ValueError("there is no generated picture: give at least one.")
    if (templates is None) != (masks is None):
        raise ValueError("templates and masks go together: give both, one mask a template.")
    looks = [
        (Verbatim.TEMPLATE, templates, masks, matching_at),
        (Verbatim.MATCHING, own, None, matching_at),
        (Verbatim.RETRIEVED, retrieved, None, retrieved_at),
    ]
    nearest = np.full(len(generated), np.inf)
    for kind, images, mask, limit in looks:
        if images is None or not len(images):
            continue
        whole = np.ones(np.asarray(images).shape[:3]) if mask is None else mask
        distance = masked_rms(generated, images, whole).min(axis=1)
        if (distance < limit).any():
            return kind, distance
        nearest = np.minimum(nearest, distance)
    return Verbatim.NONE, nearest
