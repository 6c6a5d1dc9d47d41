"""Token significance as words: what a reader can see, the encoder's own tokens apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

END, PADDING = "EOS", "PAD"  # the first token, always at the same place, is BOS


class WordWeights(NamedTuple):
    """Weights of the tokens that stand for something in the prompt.

    Attributes:
        names: One a token.
        weights: Of each.
        specials: ``{"specials": {"EOS": ..., "PAD": ...}}``: the share of all weight but BOS's on
            the end token and on padding; empty where a prompt has neither.
    """

    names: list[str]
    weights: Float[np.ndarray, " w"]
    specials: dict[str, Any]


def word_weights(names: Sequence[str], weights: Float[np.ndarray, " l"]) -> WordWeights:
    """Sets BOS, the end token and padding apart.

    Args:
        names: One name a token, the first of them BOS's.
        weights: Significance of each.

    .. note:: A text encoder's end and padding tokens see the whole prompt, so that they carry much
        of the weight and say nothing about single words.
    """
    rest, values = list(names)[1:], np.asarray(weights)[1:]
    special = np.isin(rest, (END, PADDING))
    if not special.any():
        return WordWeights(rest, values, {})
    total = max(float(values.sum()), 1e-12)
    shares = {
        name: float(values[[n == name for n in rest]].sum()) / total for name in (END, PADDING)
    }
    kept = [name for name, out in zip(rest, special, strict=True) if not out]
    return WordWeights(kept, values[~special], {"specials": shares})
