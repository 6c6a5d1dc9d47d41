"""From a label space to pure functions, and a run folder opened again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.process import eps_from_v
from memjax.data.records import LabelSpace, Slot, chexpert_label_space
from memjax.training.network import build_network, make_bundle, prompt_ids, prompt_labels
from memjax.training.run import label_space_of, open_run, read_run_file, write_run_file

SPACE = LabelSpace(
    (
        Slot("Edema", ("blank", "negative", "positive", "uncertain")),
        Slot("View", ("AP", "PA", "LL", "RL", "lateral", "unknown")),
    )
)
UNET = {
    "block_out_channels": [8],
    "attention_blocks": [False],
    "layers_per_block": 1,
    "mid_attention": False,
    "num_heads": 1,
    "cross_attention_dim": 4,
    "norm_num_groups": 4,
    "pooled_condition": True,
    "zero_init_out": False,
}
SECTIONS = ("data", "model", "diffusion", "train", "sampling", "audit")


def network(**changes):
    return build_network(SPACE, **{"size": 8, "unet": UNET, **changes})


@pytest.fixture(scope="module")
def trained():
    net = network()
    return net, net.module.init_params(jax.random.key(0))


def bundle_of(trained, cond_dropout):
    return make_bundle(*trained, SPACE, cond_dropout=cond_dropout, info={"kind": "test"})


def test_network_is_built_from_lists_and_hashes_by_value():
    net = network(channels=3)
    assert net.module.sample_shape == (8, 8, 3)
    assert net.module.label_sizes == (5, 7)
    assert net.eps_fn is net.predict_fn
    assert net.eps_fn == network(channels=3).eps_fn
    assert hash(net.encode_fn) == hash(network(channels=3).encode_fn)
    assert net.encode_fn != network(size=16).encode_fn


def test_a_v_network_is_turned_into_eps(trained):
    _, params = trained
    net = network(prediction="v", schedule={"name": "cosine"})
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    t = jnp.asarray([10, 900])
    cond = net.encode_fn(params, jnp.zeros((2, 2), jnp.int32))
    v = net.predict_fn(params, x, t, cond)
    expected = eps_from_v(net.schedule, x, t, v)
    np.testing.assert_allclose(net.eps_fn(params, x, t, cond), expected, rtol=1e-6, atol=1e-6)
    assert not np.allclose(v, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction": "x0"}, r"prediction is 'x0', expected one of"),
        ({"schedule": {"name": "sigmoid"}}, r"schedule name is 'sigmoid'"),
        ({"size": 7, "unet": {**UNET, "patch_size": 2}}, r"image size 7 is not divisible by 2"),
        ({"unet": {**UNET, "norm_num_groups": 3}}, r"block_out_channels\[0\] is 8"),
        ({"unet": {**UNET, "dtype": "int8"}}, r"dtype is 'int8'"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        network(**changes)


def test_prompt_rows_become_ids():
    rows = [
        {"labels": {"Edema": "positive", "view": "PA"}},
        {"labels": {}},
        {"caption": "Frontal AP view: edema (uncertain)"},
        {"labels": {"Edema": 0}, "caption": "not looked at"},
    ]
    ids = prompt_ids(rows, SPACE)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[3, 2], [1, 6], [4, 1], [2, 6]]  # id 0 is the null of a slot
    assert prompt_ids([], SPACE).shape == (0, 2)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "p7", "labels": {"Edma": 1}}, r"prompt p7: .*'Edma'.*did you mean 'Edema'"),
        ({"labels": {"Edema": "yes"}}, r"prompt 2: Edema has the value 'yes'"),
        ({"labels": ["Edema"]}, r"prompt 2: labels is \['Edema'\], expected names and values"),
        ({"caption": "sideways view"}, r"prompt 2: 'sideways view' is not understood"),
        ({"id": "p7"}, r"prompt p7: the row has neither 'labels' nor 'caption'"),
    ],
)
def test_a_wrong_row_is_named(row, words):
    with pytest.raises(ValueError, match=words):
        prompt_ids([{"labels": {}}, row], SPACE)


def test_labels_come_before_the_caption():
    labels = {"Edema": 1}
    assert prompt_labels({"labels": labels, "caption": "x"}) is labels
    assert prompt_labels({"labels": None, "caption": "Lateral view"}) == {"view": "lateral"}


def test_a_bundle_encodes_describes_and_clips(trained):
    net, params = trained
    bundle = bundle_of(trained, 0.1)
    row = {"labels": {"Edema": "positive", "view": "PA"}}
    cond = bundle.encode([row, {"labels": {}}])
    expected = net.encode_fn(params, jnp.asarray([[3, 2], [1, 6]]))
    np.testing.assert_array_equal(cond.embeddings, expected.embeddings)
    null = net.encode_fn(params, jnp.zeros((1, 2), jnp.int32))
    np.testing.assert_array_equal(bundle.null_cond.embeddings, null.embeddings)
    assert not np.allclose(cond.embeddings[1:], null.embeddings)  # blank is not the null
    assert bundle.describe(row) == ["BOS", "Edema: positive", "View: PA"]
    assert bundle.sample_shape == (8, 8, 1)
    assert bundle.decode(np.asarray([-3.0, 0.5, 2.0])).tolist() == [-1.0, 0.5, 1.0]


def test_there_is_no_null_condition_where_none_was_trained(trained):
    assert bundle_of(trained, 0.0).null_cond is None
    free = bundle_of(trained, 1.0)
    assert free.null_cond is None
    net, params = trained
    null = net.encode_fn(params, jnp.zeros((1, 2), jnp.int32))
    cond = free.encode([{"labels": {"Edema": "positive"}}])  # it never saw a condition
    np.testing.assert_array_equal(cond.embeddings, null.embeddings)


def config():
    return {name: {} for name in SECTIONS}


def test_run_file_keeps_configuration_and_label_space(tmp_path):
    space = chexpert_label_space(num_markers=1, marker_vocabulary=("K3", "Ä9"))
    write_run_file(tmp_path, config(), space, data={"train": 3})
    record = read_run_file(tmp_path)
    assert label_space_of(record) == space
    assert record["config"] == config()
    assert record["data"] == {"train": 3}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-5],
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"label_space"', '"labels"'),
        lambda text: text.replace('"train": {}', '"train": 3'),
        lambda text: text.replace('"audit"', '"review"'),
        lambda text: json.dumps([text]),
    ],
)
def test_a_damaged_run_file_is_refused_with_the_way_out(tmp_path, change):
    write_run_file(tmp_path, config(), SPACE)
    file = tmp_path / "run.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=r"run\.json is damaged .*: restore it .*memjax train"):
        open_run(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not a memjax run \(it holds no run\.json\): pass"):
        open_run(tmp_path)
    write_run_file(tmp_path, config(), SPACE)
    with pytest.raises(ValueError, match=r"holds no good checkpoint \(none found\): pass"):
        open_run(tmp_path)


WORDS = ("dog", "(other)", "(none)")
GENERIC = LabelSpace(
    (
        Slot("Digit", ("3", "9")),
        Slot("Word 1", WORDS, "words"),
        Slot("Word 2", WORDS, "words"),
    )
)


def test_a_shared_table_survives_the_run_file(tmp_path):
    write_run_file(tmp_path, config(), GENERIC)
    record = read_run_file(tmp_path)
    assert record["label_space"] == [
        ["Digit", ["3", "9"]],
        ["Word 1", list(WORDS), "words"],
        ["Word 2", [], "words"],
    ]
    assert label_space_of(record) == GENERIC


def test_a_network_of_words_has_one_row_a_word():
    net = build_network(GENERIC, size=8, unet=UNET)
    assert net.module.label_tables == ("", "words", "words")
    params = net.module.init_params(jax.random.key(0))
    assert params["tokens"]["table"].shape == (3 + 4, 4)
    assert network().module.label_tables == ()


def test_prompts_of_classes_and_captions_become_ids():
    rows = [
        {"labels": {"Digit": 9, "caption": "A dog!"}},
        {"caption": "dog cat dog"},
        {"labels": {"digit": "3"}},
    ]
    assert prompt_ids(rows, GENERIC).tolist() == [[2, 2, 1], [0, 1, 2], [1, 3, 3]]
    with pytest.raises(ValueError, match=r"prompt 1: Digit has no value '4'.*expected one of '3'"):
        prompt_ids([{"labels": {"Digit": 4}}], GENERIC)
    with pytest.raises(ValueError, match=r"'Digt' is not known .*'Digit'\?\); .*'caption'\."):
        prompt_ids([{"labels": {"Digt": 4}}], GENERIC)
