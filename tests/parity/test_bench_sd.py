"""Both sides of ``memjax bench --what=sd`` compute the same, at the tiny size."""

import numpy as np
import pytest

from memjax.tools.bench.stable_diffusion.memjax_side import SdMemjaxSide
from memjax.tools.bench.stable_diffusion.run import difference
from memjax.tools.bench.stable_diffusion.task import SdSettings

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

from memjax.tools.bench.stable_diffusion.torch_side import SdTorchSide  # noqa: E402

SETTINGS = SdSettings(size="tiny", prompts=3, generations=2, iterations=3, chunk=2)


@pytest.fixture(scope="module")
def sides():
    return SdMemjaxSide(SETTINGS), SdTorchSide(SETTINGS, threads=1)


def test_the_networks_are_the_same(sides):
    ours, theirs = (side.facts() for side in sides)
    assert ours["parameters"] == theirs["parameters"]


@pytest.mark.parametrize("case", ["forward", "detect"])
def test_predictions_and_magnitudes_are_equal(sides, case):
    values = {}
    for name, side in zip(("memjax", "torch"), sides, strict=True):
        side.warm(case)
        values[name] = getattr(side, case)()
    assert values["memjax"].shape == values["torch"].shape
    assert difference(case, values, SETTINGS) < 2e-5  # float32 through some twenty layers


def test_optimised_embeddings_are_equal(sides):
    """AdamW's first step is the sign of the gradient, so where that is nearly 0 they may part."""
    values = {}
    for name, side in zip(("memjax", "torch"), sides, strict=True):
        side.warm("mitigate")
        values[name] = side.mitigate()
    assert difference("mitigate", values, SETTINGS) < 1e-3
    start = sides[0].inputs.prompts[:1]
    np.testing.assert_array_equal(values["memjax"][:, 0], start[:, 0])  # BOS
    assert np.abs(values["memjax"] - start).max() > 0.1
