"""CLIP score: does an image show what its caption says?

References:
    Hessel et al. 2021, arXiv 2104.08718, Eq. 1 (here the plain cosine, without its factor 2.5 and
    its cut at 0); Radford et al. 2021, arXiv 2103.00020.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.types import Array, Params
from memjax.evaluate.features.base import in_chunks
from memjax.evaluate.features.published import Preprocessing


class Tokenizer(Protocol):
    """Captions to token ids of one length."""

    def encode(self, texts: Sequence[str]) -> Any: ...


class ClipParts(Protocol):
    """What a CLIP model is made of, as :func:`memjax.interop.clip.load.load_clip` returns it.

    Attributes:
        name: Name of the weights.
        text: Text tower: ids → features with ``projected``.
        text_params: Its weights.
        vision: Image tower: normalized images → projected features.
        vision_params: Its weights.
        tokenizer: ``encode(texts) → Tokens(ids, cut)``.
        preprocessing: ``(size, mean, std, resample)``: resize the short side, cut the center.
    """

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> Any: ...

    @property
    def text_params(self) -> Params: ...

    @property
    def vision(self) -> Any: ...

    @property
    def vision_params(self) -> Params: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def preprocessing(self) -> tuple[int, tuple[float, ...], tuple[float, ...], str]: ...


class ClipScore:
    """``cos(image features, caption features)`` of each image with its caption.

    Attributes:
        name: Weights and preprocessing; stands in every output.
        preprocessing: What happens to images first.

    .. note:: Give the caption *as it was asked*, after a mitigation too: the score then says what
        the mitigation cost. Images are resized as floats; pipelines on 8-bit files round to whole
        gray levels after the resize, which moves a pixel by at most half a level. Scores of
        different weights cannot be compared.
    """

    def __init__(self, model: ClipParts, *, batch_size: int = 8):
        """Takes the towers of a CLIP model.

        Args:
            model: Anything with the fields of :class:`ClipParts`.
            batch_size: Images, or captions, at a time; one program is compiled for each size of
                image.
        """
        self._model, self._batch = model, batch_size
        self._params = jax.device_put((model.text_params, model.vision_params))
        self.preprocessing = clip_preprocessing(model.preprocessing)
        self.name = f"{model.name} ({self.preprocessing.label})"
        self._known: dict[str, np.ndarray] = {}

    def __call__(
        self, images: Float[np.ndarray, "n h w c"], captions: Sequence[str]
    ) -> Float[np.ndarray, " n"]:
        """Returns the cosine of each image (in [-1, 1]) with the caption of the same place.

        Raises:
            ValueError: If there is not one caption an image, or no image.
        """
        images = np.asarray(images)
        if images.ndim != 4 or len(images) != len(captions) or not len(images):
            raise ValueError(
                f"images have shape {images.shape} and there are {len(captions)} captions, "
                "expected [n, height, width, channels] with n ≥ 1 and one caption each."
            )
        rows = self._texts(captions)
        score = np.einsum("nd,nd->n", self.image_features(images), rows)
        return score.astype(np.float32)

    def image_features(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Returns images as unit rows in the space that texts and images share."""
        tower = partial(_image_rows, self._model.vision, self.preprocessing, self._params[1])
        return in_chunks(tower, images, self._batch)

    def _texts(self, captions: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Unit rows of captions; each different caption is encoded once for all calls."""
        new = [text for text in dict.fromkeys(captions) if text not in self._known]
        for start in range(0, len(new), self._batch):
            part = new[start : start + self._batch]
            padded = [*part, *([""] * (self._batch - len(part)))]
            ids = np.asarray(self._model.tokenizer.encode(padded).ids, np.int32)
            rows = np.asarray(_text_rows(self._model.text, self._params[0], ids))
            self._known |= dict(zip(part, rows, strict=False))
        return np.stack([self._known[text] for text in captions])


def clip_preprocessing(
    settings: tuple[int, tuple[float, ...], tuple[float, ...], str],
) -> Preprocessing:
    """Returns CLIP's preprocessing, named after what it does.

    Args:
        settings: ``(size, mean, std, resample)``; ``resample`` is ``bicubic`` or ``bilinear``.

    Raises:
        ValueError: If the interpolation is another.
    """
    size, mean, std, resample = settings
    methods: dict[str, Any] = {"bicubic": "cubic", "bilinear": "linear"}
    if str(resample) not in methods:
        raise ValueError(
            f"CLIP's images are resized by {resample!r}, expected bicubic or bilinear."
        )
    numbers = ", ".join(f"{value:.4g}" for value in mean)
    label = f"short side {size} {resample}, center crop {size}, CLIP mean {numbers}"
    return Preprocessing(
        label,
        int(size),
        crop=int(size),
        method=methods[str(resample)],
        mean=tuple(float(v) for v in mean),
        std=tuple(float(v) for v in std),
    )


def _unit(rows: Array) -> Array:
    norm = jnp.linalg.norm(rows.astype(jnp.float32), axis=-1, keepdims=True)
    return rows.astype(jnp.float32) / jnp.maximum(norm, 1e-12)


@partial(jax.jit, static_argnums=(0, 1))
def _image_rows(tower: Any, preprocessing: Preprocessing, params: Params, images: Array) -> Array:
    return _unit(tower.apply({"params": params}, preprocessing(images)))


@partial(jax.jit, static_argnums=0)
def _text_rows(tower: Any, params: Params, ids: Array) -> Array:
    return _unit(tower.apply({"params": params}, ids).projected)
