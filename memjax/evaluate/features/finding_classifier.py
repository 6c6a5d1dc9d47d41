"""Is the finding that was asked for in the image? A small classifier of our own says so.

It is trained from scratch on the run's own training images, duplicates removed, and trusted only
for findings it recognizes on held-out patients. Its columns are findings (``Edema``), values of a
class label, one against the rest (``Digit: 9``), and words of the captions (``Word: dog``).
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from memjax.core.types import Array, Params
from memjax.data.labels.of_data import class_slots
from memjax.data.labels.space import UNKNOWN
from memjax.data.labels.words import words_of
from memjax.data.records import FINDINGS, NEGATIVE, POSITIVE, Record
from memjax.evaluate.statistics.roc import auc, roc_curve
from memjax.models.classifier import FindingClassifier
from memjax.models.initial import draw_params

MIN_AUC = 0.8
_MIN_EACH = 4
_WORD = "Word: "
_MOST_WORDS = 24
_RAREST, _COMMONEST = 0.02, 0.6


class Judge(NamedTuple):
    """A trained classifier with one operating point per finding.

    Attributes:
        module: The network.
        params: Its weights.
        names: Names of its outputs.
        threshold: Probability at which a finding counts as seen.
        held_out_auc: AUC on held-out images; NaN where there were too few of either kind.
        reliable: Findings whose held-out AUC reaches 0.8; only these are judged.
    """

    module: FindingClassifier
    params: Params
    names: tuple[str, ...]
    threshold: Float[np.ndarray, " f"]
    held_out_auc: Float[np.ndarray, " f"]
    reliable: Bool[np.ndarray, " f"]

    def probabilities(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n f"]:
        """Returns the probability of each finding in each image."""
        return _probabilities(self.module, self.params, images)

    def agreement(
        self, images: Float[np.ndarray, "n h w c"], asked: Int[np.ndarray, "n f"]
    ) -> Float[np.ndarray, " n"]:
        """Returns, per image, the share of the reliable findings asked for that are as asked.

        Args:
            images: Images in [-1, 1].
            asked: 1 asked for, 0 asked to be absent, −1 not mentioned.

        Returns:
            Shares in [0, 1]; NaN where nothing that can be judged was asked.
        """
        seen = self.probabilities(images) > self.threshold
        judged = (asked >= 0) & self.reliable
        right = judged & (seen == (asked == 1))
        count = judged.sum(axis=1)
        return np.where(count > 0, right.sum(axis=1) / np.maximum(count, 1), np.nan)


@partial(jax.jit, static_argnums=0)
def _sigmoid(module: FindingClassifier, params: Params, images: Array) -> Array:
    logits: Any = module.apply({"params": params}, images)
    return jax.nn.sigmoid(logits)


def _probabilities(module, params, images, chunk: int = 256) -> np.ndarray:
    out = []
    for start in range(0, len(images), chunk):
        part = np.asarray(images[start : start + chunk], np.float32)
        padded = np.concatenate([part, np.zeros((chunk - len(part), *part.shape[1:]), np.float32)])
        out.append(np.asarray(_sigmoid(module, params, padded))[: len(part)])
    return np.concatenate(out)


def _augmented(key: Array, images: Array) -> Array:
    """Shifts by up to a sixteenth of the side, changes contrast a little, adds faint noise."""
    shift_key, gain_key, noise_key = jax.random.split(key, 3)
    pad = max(images.shape[1] // 16, 1)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    offsets = jax.random.randint(shift_key, (len(images), 2), 0, 2 * pad + 1)
    shape = images.shape[1:]

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), shape)

    images = jax.vmap(crop)(padded, offsets)
    gain = 1.0 + 0.1 * jax.random.normal(gain_key, (len(images), 1, 1, 1))
    return images * gain + 0.05 * jax.random.normal(noise_key, images.shape)


def train_judge(
    images: Float[np.ndarray, "n h w c"],
    targets: Int[np.ndarray, "n f"],
    held_images: Float[np.ndarray, "m h w c"],
    held_targets: Int[np.ndarray, "m f"],
    names: tuple[str, ...],
    *,
    seed: int = 0,
    steps: int = 400,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    width: int = 16,
) -> Judge:
    """Trains the classifier and calibrates it on held-out images.

    Args:
        images: Training images in [-1, 1], duplicates removed.
        targets: 1 present, 0 absent, −1 unknown (left out of the loss).
        held_images: Images of other patients.
        held_targets: Their findings.
        names: Names of the findings.
        seed: Decides initial weights, order and augmentation.
        steps: Training steps.
        batch_size: Images a step.
        learning_rate: Peak of a cosine schedule.
        width: Channels of the first layer.

    .. note:: What fewer than four distinct training images show is also learned from held-out
        ones, see :func:`lend_rare`: a class that the model knows from one repeated image could
        not be judged otherwise. The model under audit never sees them.
    """
    images, targets, held_images, held_targets = lend_rare(
        images, targets, held_images, held_targets
    )
    module = FindingClassifier(len(names), width=width)
    key = jax.random.key(seed)
    init_key, loop_key = jax.random.split(key)
    params = draw_params(module, init_key, jnp.zeros((1, *images.shape[1:])))
    tx = optax.adamw(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=1e-2)
    known = targets >= 0
    rate = np.clip((targets == 1).sum(0) / np.maximum(known.sum(0), 1), 0.02, 0.98)
    balance = jnp.asarray(np.stack([0.5 / (1 - rate), 0.5 / rate]), jnp.float32)

    def loss_fn(params, key, x, y):
        logits = module.apply({"params": params}, _augmented(key, x))
        target = jnp.maximum(y, 0).astype(jnp.float32)
        weight = jnp.where(y < 0, 0.0, jnp.where(y == 1, balance[1:], balance[:1]))
        losses = optax.sigmoid_binary_cross_entropy(logits, target)
        return jnp.sum(weight * losses) / jnp.maximum(jnp.sum(weight), 1e-6)

    @jax.jit
    def step(params, opt_state, index, x, y):
        key = jax.random.fold_in(loop_key, index)
        grads = jax.grad(loss_fn)(params, key, x, y)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    rng = np.random.default_rng(seed)
    for index in range(steps):
        rows = rng.integers(0, len(images), batch_size)
        params, opt_state = step(params, opt_state, index, images[rows], targets[rows])
    return _calibrated(module, params, names, held_images, held_targets)


def lend_rare(
    images: Float[np.ndarray, "n h w c"],
    targets: Int[np.ndarray, "n f"],
    held_images: Float[np.ndarray, "m h w c"],
    held_targets: Int[np.ndarray, "m f"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Moves every second held-out image of what training hardly shows over to training.

    Hardly: fewer than four training images show it, and at least sixteen held-out ones do.

    Returns:
        Training images and targets, held-out images and targets; the very arrays that came
        where nothing is rare.
    """
    shown, held = targets == 1, held_targets == 1
    rare = (shown.sum(axis=0) < _MIN_EACH) & (held.sum(axis=0) >= 4 * _MIN_EACH)
    if not rare.any():
        return images, targets, held_images, held_targets
    lent = np.zeros(len(held_images), bool)
    for column in np.flatnonzero(rare):
        lent[np.flatnonzero(held[:, column])[::2]] = True
    return (
        np.concatenate([images, held_images[lent]]),
        np.concatenate([targets, held_targets[lent]]),
        held_images[~lent],
        held_targets[~lent],
    )


def _calibrated(module, params, names, images, targets) -> Judge:
    """Chooses each finding's threshold where TPR − FPR is largest on held-out images."""
    scores = _probabilities(module, params, images)
    aucs, thresholds = np.full(len(names), np.nan), np.full(len(names), 0.5)
    for f in range(len(names)):
        rows = targets[:, f] >= 0
        positive = targets[rows, f] == 1
        if positive.sum() < _MIN_EACH or (~positive).sum() < _MIN_EACH:
            continue
        aucs[f] = auc(scores[rows, f], positive)
        curve = roc_curve(scores[rows, f], positive)
        best = int(np.argmax(curve.tpr - curve.fpr))
        thresholds[f] = np.clip(curve.thresholds[best] - 1e-6, 0.0, 1.0)
    with np.errstate(invalid="ignore"):
        reliable = aucs >= MIN_AUC
    return Judge(module, params, tuple(names), thresholds, aucs, reliable)


def target_names(records: Sequence[Record]) -> tuple[str, ...]:
    """Names the columns that suit a data set.

    Radiographs have the findings; other images the values of their class labels and, where they
    have captions, the most frequent words that stand in 2 to 60 % of them.
    """
    slots = class_slots(records)
    captions = [record.caption for record in records if record.caption]
    chest = any(r.view or any(r.findings) for r in records) or not (slots or captions)
    names = list(FINDINGS) if chest else []
    names += [f"{slot.name}: {value}" for slot in slots for value in slot.values]
    names = [name for name in names if not name.endswith(f": {UNKNOWN}")]
    if not chest and captions:
        names += [_WORD + word for word in _telling_words(captions)]
    return tuple(names)


def _telling_words(captions: Sequence[str]) -> list[str]:
    counts = Counter(word for caption in captions for word in set(words_of(caption)))
    low, high = _RAREST * len(captions), _COMMONEST * len(captions)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [w for w, n in ranked if low <= n <= high and len(w) > 2][:_MOST_WORDS]


def finding_targets(
    records: Sequence[Record], names: Sequence[str] = FINDINGS
) -> Int[np.ndarray, "n f"]:
    """Returns classifier targets: 1 present, 0 absent, −1 unknown.

    A blank finding counts as absent, an uncertain or ignored one as unknown; a class label that a
    record lacks as unknown; a word that its caption does not have as absent.

    References:
        Irvin et al. 2019, arXiv 1901.07031, §2 (unmentioned is treated as negative).
    """
    states = _states(records)
    table = np.select([states == POSITIVE, (states > POSITIVE) | (states < 0)], [1, -1], 0)
    return _columns(records, names, table, absent=0)


def asked_findings(
    records: Sequence[Record], names: Sequence[str] = FINDINGS
) -> Int[np.ndarray, "n f"]:
    """Returns what a prompt asks for: 1 present, 0 absent, −1 not mentioned.

    Of a class label only the value asked for is: that a 9 is no 3 says nothing more, and would
    count eight right answers for a wrong digit.
    """
    states = _states(records)
    table = np.select([states == POSITIVE, states == NEGATIVE], [1, 0], -1)
    return _columns(records, names, table, absent=-1)


def _states(records: Sequence[Record]) -> Int[np.ndarray, "n 14"]:
    return np.asarray([r.findings for r in records], np.int32).reshape(-1, len(FINDINGS))


def _columns(
    records: Sequence[Record], names: Sequence[str], table: np.ndarray, absent: int
) -> Int[np.ndarray, "n f"]:
    out = np.full((len(records), len(names)), absent, np.int32)
    rows = [(dict(record.classes), set(words_of(record.caption))) for record in records]
    for column, name in enumerate(names):
        slot, _, value = name.partition(": ")
        if name in FINDINGS:
            out[:, column] = table[:, FINDINGS.index(name)]
            continue
        for row, (classes, words) in enumerate(rows):
            if name.startswith(_WORD):
                shown = value in words
            elif slot not in classes:
                out[row, column] = -1
                continue
            else:
                shown = classes[slot] == value
            if shown:
                out[row, column] = 1
    return out
