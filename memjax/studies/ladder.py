"""The rungs of the similarity ladder that a configuration names, built over a run's images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memjax.evaluate.features.copy_encoder import (
    CopyEncoder,
    load_copy_encoder,
    save_copy_encoder,
    train_copy_encoder,
)
from memjax.evaluate.features.finding_classifier import Judge
from memjax.evaluate.similarity.ladder import (
    COPY_ENCODER,
    FINDING_FEATURES,
    CalibratedRung,
    Rung,
    calibrate_ladder,
    copy_rung,
    feature_rung,
    finding_rung,
    pixel_rungs,
)
from memjax.runtime.json import text_digest
from memjax.studies.prompts.draw import Gallery
from memjax.studies.store import content_digest


def build_rungs(
    names: Sequence[str],
    gallery: Gallery,
    judge: Judge | None,
    *,
    seed: int,
    encoder: Mapping[str, Any],
    published: Sequence[str] = (),
    keep: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Rung], CopyEncoder | None]:
    """Returns the rungs in the order they are named, and the copy encoder if one was trained.

    Args:
        names: See :func:`check_rungs`; a rung that these images are too small for is left out,
            and so is the finding classifier's without one.
        gallery: Real images.
        judge: The finding classifier.
        seed: Of the copy encoder.
        encoder: Arguments of :func:`~memjax.evaluate.features.copy_encoder.train_copy_encoder`.
        published: ``NAME=PATH`` of weights the user has, see :mod:`memjax.studies.published`.
        keep: File of the trained copy encoder: read if it is there, else written.
        say: Told what is being done.
    """
    by_name = {rung.name: rung for rung in pixel_rungs(gallery.train.shape[1:])}
    trained = None
    if COPY_ENCODER in names:
        trained = _copy_encoder(gallery, seed, encoder, keep, say)
        by_name[COPY_ENCODER] = copy_rung(trained)
    if judge is not None:
        by_name[FINDING_FEATURES] = finding_rung(judge)
    rungs = [by_name[name] for name in names if name in by_name]
    return [*rungs, *(published_rung(entry) for entry in published)], trained


def _copy_encoder(
    gallery: Gallery,
    seed: int,
    encoder: Mapping[str, Any],
    keep: Path | None,
    say: Callable[[str], None],
) -> CopyEncoder:
    made_of = text_digest(
        [
            *(content_digest(images) for images in (gallery.train, gallery.held_out)),
            seed,
            dict(encoder),
        ]
    )
    if keep is not None and keep.is_file():
        try:
            return load_copy_encoder(keep, gallery.train.shape[1:], made_of)
        except ValueError as error:
            say(f"{str(error).split(';')[0]}: it is made anew")
    say("training the copy encoder")
    trained = train_copy_encoder(
        gallery.train,
        gallery.held_out,
        strata=gallery.strata,
        held_strata=gallery.held_strata,
        patients=gallery.patients,
        held_patients=gallery.held_patients,
        seed=seed,
        **encoder,
    )
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        save_copy_encoder(keep, trained, made_of)
    return trained


def published_rung(entry: str) -> Rung:
    """Returns the rung of ``NAME=PATH``, weights the user has."""
    from memjax.studies.published import feature_fn

    name, _, path = entry.partition("=")
    if not path:
        raise ValueError(f"{entry!r} is not NAME=PATH: write for example sscd=weights.pt.")
    return feature_rung(feature_fn(name, path), name=name)


def calibrated(rungs: Sequence[Rung], gallery: Gallery) -> dict[str, CalibratedRung]:
    """Returns the rungs with their background of held-out images."""
    return calibrate_ladder(
        rungs,
        gallery.train,
        held_out=gallery.held_out,
        train_patients=gallery.patients,
        held_patients=gallery.held_patients,
        held_strata=gallery.held_strata,
    )
