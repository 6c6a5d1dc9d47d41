import numpy as np
import pytest

from memjax.data.labels.space import (
    BLANK,
    FINDINGS,
    IGNORED,
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    chexpert_label_space,
)
from memjax.data.labels.uncertainty import (
    Policy,
    apply_policies,
    keep_rows,
    likeliest,
    parse_policies,
    resample_table,
)
from memjax.data.pipeline import make_batches
from memjax.data.readers.chexpert import read_chexpert
from memjax.data.records import Record, encode_records, labels_of

SPACE = chexpert_label_space()
EDEMA, ATELECTASIS = FINDINGS.index("Edema"), FINDINGS.index("Atelectasis")
ALL_STATES = (BLANK, NEGATIVE, POSITIVE, UNCERTAIN)


def record(**states):
    findings = [states.get(name.replace(" ", "_"), BLANK) for name in FINDINGS]
    return Record("x.jpg", "patient1", "study1", "AP", "Male", 60, True, tuple(findings))


def each_state():
    return [record(Edema=state, Atelectasis=state) for state in ALL_STATES]


@pytest.mark.parametrize(
    ("policy", "becomes"),
    [
        ("ones", POSITIVE),
        ("zeros", NEGATIVE),
        ("multiclass", UNCERTAIN),
        ("ignore", IGNORED),
        ("resample(0.2)", UNCERTAIN),
    ],
)
def test_only_uncertain_labels_of_the_named_finding_change(policy, becomes):
    changed = apply_policies(each_state(), {"Edema": policy})
    assert [r.findings[EDEMA] for r in changed] == [BLANK, NEGATIVE, POSITIVE, becomes]
    assert [r.findings[ATELECTASIS] for r in changed] == list(ALL_STATES)


def test_the_default_changes_nothing(phantom_root):
    records = read_chexpert(phantom_root)[0]
    assert apply_policies(records, "multiclass") == records
    assert apply_policies(records, None) == records
    assert resample_table(records, SPACE, "multiclass") is None
    np.testing.assert_array_equal(
        encode_records(apply_policies(records, "multiclass"), SPACE), encode_records(records, SPACE)
    )


def test_an_ignored_label_is_the_null_token_in_data_and_prompts():
    (ignored,) = apply_policies([record(Edema=UNCERTAIN, Pneumonia=POSITIVE)], "ignore")
    ids = encode_records([ignored], SPACE)[0]
    assert ids[EDEMA] == 0
    assert ids[FINDINGS.index("Pneumonia")] == POSITIVE + 1
    assert (np.delete(ids, EDEMA) > 0).all()
    np.testing.assert_array_equal(SPACE.encode(labels_of(ignored, SPACE)), ids)


def test_an_ignored_label_is_no_target_of_the_classifier():
    from memjax.evaluate.features.finding_classifier import finding_targets

    (ignored,) = apply_policies([record(Edema=UNCERTAIN, Pneumonia=POSITIVE)], "ignore")
    targets = finding_targets([ignored])[0]
    assert targets[EDEMA] == -1
    assert targets[FINDINGS.index("Pneumonia")] == 1
    assert targets[FINDINGS.index("Fracture")] == 0


def test_policies_per_finding_and_the_star():
    parsed = parse_policies({"Edema": "ones", "consolidation": " Resample( 0.3 ) ", "*": "ignore"})
    assert set(parsed) == set(FINDINGS)
    assert parsed["Edema"] == Policy("ones")
    assert parsed["Consolidation"] == Policy("resample", 0.3)
    assert parsed["Fracture"].kind == "ignore"
    assert parse_policies({"Edema": "ones"})["Fracture"].kind == "multiclass"
    assert parse_policies("resample")["Edema"] == Policy("resample", 0.5)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("once", ["'once'", "did you mean 'ones'", "zeros, multiclass"]),
        ("resample(1.5)", ["'resample(1.5)'", "probability", "0 to 1"]),
        ("resample(x)", ["'resample(x)'", "0 to 1"]),
        ("resample(nan)", ["0 to 1"]),
        ("ones(0.5)", ["only resample takes a number", "'ones'"]),
        ({"Oedema": "ones"}, ["'Oedema' is not a finding", "did you mean 'Edema'"]),
        ({"Edema": "ignored it"}, ["'Edema'", "'ignored it'"]),
        (3, ["uncertainty is 3", "expected one policy"]),
    ],
)
def test_mistakes_are_one_sentence_with_the_way_out(spec, words):
    with pytest.raises(ValueError, match=r"uncertainty|finding") as caught:
        apply_policies([], spec)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_the_table_holds_a_chance_where_a_label_is_open():
    table = resample_table(each_state(), SPACE, {"Edema": "resample(0.25)"})
    assert table.dtype == np.float32
    assert table.shape == (4, SPACE.num_tokens)
    assert np.argwhere(~np.isnan(table)).tolist() == [[3, EDEMA]]
    assert table[3, EDEMA] == np.float32(0.25)


def test_prompts_take_what_is_drawn_oftener():
    records = each_state()[3:]
    policies = {"Edema": "resample(0.6)", "Atelectasis": "resample(0.4)"}
    (likely,) = likeliest(records, policies)
    assert (likely.findings[EDEMA], likely.findings[ATELECTASIS]) == (POSITIVE, NEGATIVE)


def test_rows_with_a_finding():
    records = each_state()
    assert keep_rows(records, ()) == records
    assert keep_rows(records, ("edema", "Fracture")) == [records[2]]
    assert len(keep_rows(apply_policies(records, "ones"), ["Edema"])) == 2
    with pytest.raises(ValueError, match=r"None of 4 rows is positive for Fracture"):
        keep_rows(records, ("Fracture",))
    with pytest.raises(ValueError, match="did you mean 'Fracture'"):
        keep_rows(records, ("Fractur",))
    with pytest.raises(ValueError, match=r"rows_with holds '\*'"):
        keep_rows(records, ("*",))


NUM = 23
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 4, 4, 1), dtype=np.uint8)
LABELS = np.tile(np.array([4, 1, 4], np.int32), (NUM, 1))
CHANCE = np.full((NUM, 3), np.nan, np.float32)
CHANCE[::2, 0], CHANCE[:, 2] = 0.3, 0.8


def take(num, **options):
    stream = make_batches(
        IMAGES, LABELS, **{"batch_size": 8, "seed": 3, "resample": CHANCE, **options}
    )
    return [next(stream) for _ in range(num)]


def jitter(image, rng):
    return image + rng.normal(size=image.shape).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 5])
def test_draws_depend_on_seed_and_position_alone(count, start):
    whole = take(12)
    shares = np.arange(8).reshape(-1, count).T  # in turn, as little contiguous as can be
    parts = [take(4, start_step=start, positions=places) for places in shares]
    for step in range(4):
        joined = np.stack([part[step].labels for part in parts], 1).reshape(8, 3)
        np.testing.assert_array_equal(joined, whole[start + step].labels)
    assert any((a.labels != b.labels).any() for a, b in zip(whole, take(12, seed=4), strict=True))


def test_the_order_and_every_pixel_stay_as_they_were():
    for with_draws, without in zip(
        take(9, augment=jitter), take(9, augment=jitter, resample=None), strict=True
    ):
        np.testing.assert_array_equal(with_draws.row, without.row)
        np.testing.assert_array_equal(with_draws.image, without.image)
        np.testing.assert_array_equal(without.labels, LABELS[without.row])


def test_a_label_is_drawn_anew_each_epoch_at_its_rate():
    batches = take(120, batch_size=NUM)
    labels = np.concatenate([b.labels for b in batches])
    rows = np.concatenate([b.row for b in batches])
    assert set(np.unique(labels[:, 2])) == {NEGATIVE + 1, POSITIVE + 1}
    np.testing.assert_array_equal(labels[:, 1], 1)
    np.testing.assert_array_equal(labels[rows % 2 == 1, 0], 4)
    for column, chosen, rate in ((0, rows % 2 == 0, 0.3), (2, rows >= 0, 0.8)):
        drawn = labels[chosen, column] == POSITIVE + 1
        sigma = np.sqrt(rate * (1 - rate) / len(drawn))
        assert abs(drawn.mean() - rate) < 4 * sigma
    # Two epochs agree on a row's label as often as independent draws do: 0.8² + 0.2² = 0.68.
    epochs = labels[np.lexsort((np.arange(len(rows)), rows)), 2].reshape(NUM, 120)
    agree = epochs[:, 1:] == epochs[:, :-1]
    assert abs(agree.mean() - 0.68) < 4 * np.sqrt(0.68 * 0.32 / agree.size)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (CHANCE[:5], r"resample has shape \(5, 3\) for labels of shape \(23, 3\)"),
        (np.full((NUM, 3), 1.5, np.float32), r"resample holds 1\.5; expected chances"),
    ],
)
def test_tables_that_do_not_fit_are_named(table, words):
    with pytest.raises(ValueError, match=words):
        take(1, resample=table)


def test_certain_draws_are_what_ones_and_zeros_give():
    sure = np.where(np.isnan(CHANCE), np.nan, [[1.0, np.nan, 0.0]]).astype(np.float32)
    for batch in take(6, resample=sure):
        np.testing.assert_array_equal(batch.labels[:, 2], NEGATIVE + 1)
        np.testing.assert_array_equal(
            batch.labels[:, 0], np.where(batch.row % 2 == 0, POSITIVE + 1, 4)
        )
