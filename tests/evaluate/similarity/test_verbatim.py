"""Template, matching and retrieved verbatims: sums written out, the order, and masks."""

import numpy as np
import pytest

from memjax.evaluate.similarity.verbatim import (
    MATCHING,
    RETRIEVED,
    Verbatim,
    masked_rms,
    template_mask,
    verbatim_label,
)

RNG = np.random.default_rng(0)


def images(n, side=12, channels=3):
    return RNG.uniform(-1, 1, (n, side, side, channels)).astype(np.float32)


def near(image, rms):
    """An image at that RMS in [0, 1] units everywhere."""
    return np.asarray(image + 2 * rms * RNG.choice([-1, 1], image.shape), np.float32)


def test_distances_are_the_published_sums_in_other_units():
    generated, templates = images(3, 16), images(2, 16)
    masks = RNG.random((2, 16, 16))
    found = masked_rms(generated, templates, masks)
    for i, j in np.ndindex(3, 2):
        x, t = (generated[i].astype(np.float64) + 1) / 2, (templates[j].astype(np.float64) + 1) / 2
        m = np.repeat(masks[j][..., None], 3, axis=-1)
        published = ((t * m - x * m) ** 2).sum() / m.mean()
        assert found[i, j] == pytest.approx(np.sqrt(published / x.size), rel=1e-6)


def test_thresholds_are_the_published_sums_at_256_pixels():
    assert pytest.approx(2500) == MATCHING**2 * 256 * 256 * 3
    assert pytest.approx(3000) == RETRIEVED**2 * 256 * 256 * 3


def test_a_template_counts_before_the_own_image_and_that_before_others():
    own, template, other = images(1), images(1), images(1)
    mask = np.zeros((1, 12, 12))
    mask[:, :, :6] = 1
    varied = images(1)
    varied[:, :, :6] = template[:, :, :6]
    given = {"templates": template, "masks": mask, "retrieved": other}
    for kind, generated in (
        (Verbatim.TEMPLATE, np.concatenate([images(2), varied, own])),
        (Verbatim.MATCHING, np.concatenate([images(2), near(own, 0.1), other])),
        (Verbatim.RETRIEVED, np.concatenate([images(2), near(other, 0.12)])),
        (Verbatim.NONE, np.concatenate([near(own, 0.115), near(other, 0.125)])),
    ):
        assert verbatim_label(generated, own, **given)[0] is kind
    assert verbatim_label(own, own[:0])[0] is Verbatim.NONE
    _, distance = verbatim_label(near(own, 0.05), own)
    assert distance == pytest.approx([0.05], abs=1e-6)


def test_the_mask_is_where_instances_agree_without_isolated_pixels():
    a = images(1)[0]
    b = a.copy()
    b[:, 6:] = images(1)[0][:, 6:]
    b[3, 9] = a[3, 9]  # alone: opened away
    mask = template_mask(a, b)
    assert mask[:, :6].all()
    assert not mask[:, 6:].any()
    grey = template_mask(a[..., :1], a[..., :1] + np.float32(0.019))  # 3 × .0095 < .03
    assert grey.all()
    assert not template_mask(a, a + np.float32(0.021)).any()
    assert np.isinf(masked_rms(a[None], b[None], np.zeros((1, 12, 12)))).all()


def test_what_does_not_fit_is_refused():
    own = images(1)
    with pytest.raises(ValueError, match="there is no generated picture"):
        verbatim_label(own[:0], own)
    with pytest.raises(ValueError, match="templates and masks go together"):
        verbatim_label(own, own, templates=own)
    with pytest.raises(ValueError, match="expected one shape"):
        verbatim_label(own, images(1, 8))
    with pytest.raises(ValueError, match=r"masks have shape \(1, 3, 3\)"):
        masked_rms(own, own, np.ones((1, 3, 3)))
