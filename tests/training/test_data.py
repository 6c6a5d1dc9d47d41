"""The data of a run by kind: what is trained, held out, conditioned on and drawn anew."""

import json

import numpy as np
import pytest

from memjax.cli.config_fields import base_config
from memjax.data.labels.space import FINDINGS, NEGATIVE, POSITIVE
from memjax.data.phantoms.folder import write_phantoms
from memjax.runs.config import plain
from memjax.training.data import KINDS, batches_of, policies_of, prepare_data

PHANTOMS = {"seed": 2, "size": 32, "num_images": 40, "num_held_out": 12, "num_duplicated": 2}
PHANTOMS |= {"copies": 3, "lateral_fraction": 0.1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "CheXpert-v1.0-small"
    write_phantoms(folder, **PHANTOMS)
    return folder


def settings(**changes):
    return {"seed": 0, **plain(base_config().data), **changes}


def test_phantoms_and_their_folder_are_the_same_data(root, tmp_path):
    drawn = prepare_data(tmp_path, **settings(phantoms=PHANTOMS))
    read = prepare_data(tmp_path, **settings(kind="chexpert", root=str(root)))
    assert drawn.label_space == read.label_space
    assert [r._replace(path="") for r in drawn.train] == [r._replace(path="") for r in read.train]
    assert drawn.root == str(tmp_path / "data" / "CheXpert-v1.0-small")
    assert {r.patient for r in read.train}.isdisjoint(r.patient for r in read.held_out)


def test_an_old_run_without_the_new_fields_is_read_as_before(root, tmp_path):
    new = settings(kind="chexpert", root=str(root))
    added = ("uncertainty", "rows_with", "class_fields", "max_words", "vocabulary_size")
    added += ("tfds_name", "tfds_dir", "digits", "augment")
    old = {name: value for name, value in new.items() if name not in added}
    before, after = prepare_data(tmp_path, **old), prepare_data(tmp_path, **new)
    assert (before.train, before.held_out) == (after.train, after.held_out)
    assert before.label_space == after.label_space


def test_digits_have_class_slots_only(tmp_path):
    data = prepare_data(tmp_path, **settings(kind="digits", size=8))
    assert [slot.name for slot in data.label_space.slots] == ["Digit", "Stroke", "Slant"]
    assert list(tmp_path.iterdir()) == []
    arguments = {"batch_size": 4, **settings(kind="digits", size=8)}
    first, again = (next(batches_of(data, **arguments)(3)) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.labels.shape == (4, 3)
    assert (first.labels > 0).all()


def test_augmented_images_are_of_the_same_rows(tmp_path):
    plainly = settings(kind="digits", size=8)
    data = prepare_data(tmp_path, **plainly)
    amounts = {"rotate": 10.0, "shift": 0.1, "zoom": 0.0, "flip": False}
    moved = {**plainly, "augment": amounts}
    old = {name: value for name, value in plainly.items() if name != "augment"}
    usual, before, after = (
        next(batches_of(data, batch_size=16, **given)(3)) for given in (plainly, old, moved)
    )
    np.testing.assert_array_equal(usual.image, before.image)
    np.testing.assert_array_equal(usual.row, after.row)
    np.testing.assert_array_equal(usual.labels, after.labels)
    assert (usual.image != after.image).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("policy", ["ones", '{"*": "ones"}', {"*": "ones"}])
def test_a_policy_settles_uncertain_labels(root, tmp_path, policy):
    data = prepare_data(tmp_path, **settings(kind="chexpert", root=str(root), uncertainty=policy))
    plainly = prepare_data(tmp_path, **settings(kind="chexpert", root=str(root)))
    before = np.array([r.findings for r in plainly.train])
    after = np.array([r.findings for r in data.train])
    assert (before == 3).any()
    np.testing.assert_array_equal(after, np.where(before == 3, POSITIVE, before))


def test_resampled_labels_are_drawn_anew_and_nothing_else_moves(root, tmp_path):
    given = settings(kind="chexpert", root=str(root), uncertainty="resample(0.5)")
    data = prepare_data(tmp_path, **given)
    stream = batches_of(data, **{**given, "batch_size": len(data.train)})(0)
    first, second = next(stream), next(stream)
    uncertain = np.array([r.findings for r in data.train])[:, : len(FINDINGS)] == 3
    drawn = [batch.labels[np.argsort(batch.row)][:, :14] for batch in (first, second)]
    assert set(np.unique(drawn[0][uncertain])) <= {NEGATIVE + 1, POSITIVE + 1}
    np.testing.assert_array_equal(drawn[0][~uncertain], drawn[1][~uncertain])
    assert (drawn[0][uncertain] != drawn[1][uncertain]).any()


def test_rows_with_a_finding_are_kept(root, tmp_path):
    given = settings(kind="chexpert", root=str(root), rows_with=["Edema"])
    data = prepare_data(tmp_path, **given)
    column = FINDINGS.index("Edema")
    assert {r.findings[column] for r in [*data.train, *data.held_out]} == {POSITIVE}


def test_policies_are_text_json_or_a_mapping():
    assert policies_of("ones") == policies_of({"*": "ones"}) == policies_of('{"*":"ones"}')
    assert policies_of(json.dumps({"Edema": "zeros"}))["Edema"].kind == "zeros"


def test_every_kind_of_the_default_comment_is_known():
    assert KINDS == (
        "phantoms", "chexpert", "nih", "mimic", "folder", "scenes", "tfds", "digits",
    )  # fmt: skip
