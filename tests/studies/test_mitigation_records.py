"""A repair measured: one pass over targets on a small network, the curve's numbers, the page."""

import csv
import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.condition import embeddings_of
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Bundle
from memjax.detectors import NoiseMagnitude, detect
from memjax.evaluate.similarity.resolution import small
from memjax.evaluate.statistics.bootstrap import Interval
from memjax.report.charts.mitigation_grid import Cell, PromptBand, repair_wall, shown_columns
from memjax.report.charts.tradeoff import legend_size, series, tradeoff_figure, tradeoff_table
from memjax.report.pages.mitigation import RepairStudy, repair_sentences, write_repair_page
from memjax.sampling import SamplingOptions
from memjax.studies.mitigation.records import (
    BASELINE,
    BEFORE,
    NAMED,
    TARGET,
    Arm,
    Measures,
    arm_summaries,
    measured,
)
from memjax.studies.mitigation.targets import repair_targets, trace_repair
from memjax.studies.problems import problem_of
from memjax.studies.store import Store
from memjax.studies.study import Study, detection_of, once_made, run_arms
from tests.closed_forms import SHAPE, Counting, noise, null_tokens, tokens, toy_eps, toy_params

SCHEDULE = ScheduleSpec(num_timesteps=200, beta_end=0.08).build()
SAMPLING = SamplingOptions(num_steps=4, clip_x0=None, guidance_scale=2.0)
COND = tokens(1, 3, padded=1)
X_T = noise(0, 2)


def bundle(eps_fn=toy_eps):
    return Bundle(
        eps_fn=eps_fn,
        params=toy_params(),
        schedule=SCHEDULE,
        sample_shape=SHAPE,
        encode=lambda rows: COND,
        null_cond=null_tokens(),
        decode=lambda x: jnp.tanh(x),
        describe=lambda row: ["BOS", "a", "b", "EOS"],
        info={},
    )


def test_states_and_null_are_computed_once_for_all_targets_and_prompts():
    batches = []

    def eps_fn(params, x, t, cond):
        batches.append(len(x))
        return toy_eps(params, x, t, cond)

    found = repair_targets(bundle(eps_fn), X_T, COND, SAMPLING, targets_rms=(0.3, 0.2), num_iters=3)
    # Traced once each: the null half at the noise, and the loop's body over prompts and noises.
    assert batches == [2, 6]
    assert found.after.shape == (2, 3)
    assert (found.after <= found.before + 1e-6).all()


def test_every_target_is_that_of_its_own_run():
    targets = (0.45, 0.3, 0.0)
    together = repair_targets(bundle(), X_T, COND, SAMPLING, targets_rms=targets, num_iters=4)
    for k, target in enumerate(targets):
        alone = repair_targets(bundle(), X_T, COND, SAMPLING, targets_rms=[target], num_iters=4)
        np.testing.assert_allclose(
            embeddings_of(together.conds[k]), embeddings_of(alone.conds[0]), atol=1e-6
        )
        np.testing.assert_array_equal(together.iterations[k], alone.iterations[0])
    assert together.reached[-1].all()  # target 0 asks for all updates
    np.testing.assert_array_equal(together.reached[0], together.after[0] <= 0.45)


def test_other_targets_and_rates_do_not_trace_again():
    counting = Counting(toy_eps)
    model = bundle(counting)
    repair_targets(model, X_T, COND, SAMPLING, targets_rms=(0.3,), num_iters=2)
    before = counting.traces
    repair_targets(
        model, X_T, COND, SAMPLING, targets_rms=(0.1,), num_iters=2, learning_rate=0.2,
        weight_decay=0.1, radius=3.0,
    )  # fmt: skip
    assert counting.traces == before


def test_a_trace_names_the_shapes_of_any_number_of_prompts():
    traced = trace_repair(bundle(), X_T, COND, 5, steps=1, num_iters=2, targets=3)
    assert tuple(traced.out_info.embeddings.shape) == (3, 5, 4, 3)


def sampled(chunk, arms, **more):
    """Runs the loop without real images to compare with; returns each arm's images."""
    detectors = {"noise_magnitude": NoiseMagnitude()}
    study = Study(bundle(), detectors, SAMPLING, None, chunk, **more)
    return study, run_arms(study, arms, 3)


def test_images_are_bytes_of_what_the_model_decodes():
    problem = problem_of(bundle(), [], COND, X_T, SAMPLING)
    study, parts = sampled(3, {"before": once_made(lambda: problem)})
    images = parts["before"][0].arrays["images"]
    assert images.dtype == np.uint8
    assert images.shape == (3, 2, *SHAPE)
    detection = detect(
        toy_eps, problem.params, X_T, COND, problem.null_cond, SCHEDULE, **SAMPLING.static()
    )
    expected = np.rint((np.tanh(detection.images) + 1) * 127.5)
    np.testing.assert_allclose(images, expected, atol=1)  # a half may round either way
    seen = detection_of(study, parts["before"])
    np.testing.assert_allclose(seen.per_step, detection.per_step, rtol=1e-6)
    assert seen.forward_evals == detection.forward_evals


def test_each_arm_sees_every_prompt_once_whatever_the_chunk(tmp_path):
    problem, asked = problem_of(bundle(), [], COND, X_T, SAMPLING), []

    def arm(name, numbers):
        asked.append((name, numbers.tolist()))
        return problem.take(numbers), [{"number": int(n)} for n in numbers]

    arms = {name: functools.partial(arm, name) for name in "ab"}
    _, one = sampled(3, arms)
    store = Store(tmp_path, {"job": 1})
    _, two = sampled(2, arms, store=store)
    for name in arms:
        whole = [np.concatenate([p.arrays["images"] for p in parts[name]]) for parts in (one, two)]
        np.testing.assert_array_equal(*whole)
    chunks = [[0, 1], [2, 2]]  # the last prompt fills the last chunk
    assert asked[2:] == [(name, numbers) for numbers in chunks for name in arms]
    _, again = sampled(2, arms, store=store)
    assert len(asked) == 6  # nothing is made twice
    np.testing.assert_array_equal(again["a"][1].arrays["images"], two["a"][1].arrays["images"])


class Even:
    """A likeness that needs no images."""

    key, name = "sscd", "even (nothing is resized)"

    def rows(self, pictures):
        return pictures.reshape(len(pictures), -1)

    def compare(self, generated, references):
        return np.linspace(0, 1, len(generated)) + references[0, 0]


class Scores:
    name = "clip (nothing is resized)"

    def __call__(self, images, captions):
        assert images.dtype != np.uint8
        return np.asarray([len(text) / 100 for text in captions])


def test_measures_are_taken_where_there_is_something_to_measure():
    pictures, both = np.zeros((2, 3, 4, 4, 3), np.uint8), Measures([Even()], Scores())
    known = {"sscd": np.full((1, 5), 2)}
    first, second = measured(both, pictures, [None, known], ["ten signs!", None])
    assert first["likeness"] == {}
    assert first["clip"]["mean"] == pytest.approx(0.1)
    assert second == {
        "likeness": {"sscd": {"mean": 2.5, "min": 2.0, "max": 3.0, "each": [2, 2.5, 3]}}
    }
    assert both.names == {"sscd": Even.name, "clip": Scores.name}
    assert json.dumps([first, second])


ARMS = [
    Arm("before", "as asked", BEFORE),
    Arm("target-3", "target 3", TARGET, 3.0),
    Arm("target-1", "target 1", TARGET, 1.0),
    Arm("random_word-4", "random word, 4", BASELINE, 4.0),
]
HOSTILE = '<script>alert(1)</script> & "$x^2$" \u202e 漢字 <img src=x onerror=y>'


def records(clip=True, prompts=4):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(prompts):
        for place, arm in enumerate(ARMS):
            value = 0.8 - 0.2 * place + 0.1 * rng.normal()
            row = {
                "number": number,
                "id": f"p{number}{HOSTILE}",
                "arm": arm.key,
                "title": arm.title,
                "asked": HOSTILE,
                "magnitude": 3.0 - place,
                "first_step": 2.0,
                "likeness": {"sscd": {"mean": value, "min": value, "max": value, "each": [value]}},
            }
            if arm.kind == TARGET:
                row |= {"iterations": place, "reached": number > 0, "statistic": 1.0}
            if clip:
                score = 0.3 - 0.01 * place
                row["clip"] = {"mean": score, "min": score, "max": score, "each": [score]}
            rows.append(row)
    return rows


def test_summaries_are_means_over_prompts_with_ranges():
    rows = records()
    before, three, _, word = arm_summaries(ARMS, rows)
    values = [r["likeness"]["sscd"]["mean"] for r in rows if r["arm"] == "before"]
    assert before.likeness["sscd"].value == pytest.approx(np.mean(values))
    assert before.likeness["sscd"].low < np.mean(values) < before.likeness["sscd"].high
    assert three.reached == 0.75
    assert three.iterations == 1.0
    assert (word.iterations, word.reached, word.statistic) == (None, None, None)
    assert word.clip.value == pytest.approx(0.27)


def test_the_table_has_one_row_an_arm_and_its_ranges():
    table = tradeoff_table(arm_summaries(ARMS, records()))
    assert table["arm"] == [arm.key for arm in ARMS]
    assert table["strength"] == [None, 3.0, 1.0, 4.0]
    assert {len(column) for column in table.values()} == {4}
    for name in ("sscd", "clip_score", "magnitude_all_steps"):
        for value, low, high in zip(
            table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True
        ):
            assert low <= value <= high
    assert "clip_score" not in tradeoff_table(arm_summaries(ARMS, records(clip=False)))


def test_a_legend_makes_room_for_long_names():
    short = ["as asked", "embedding optimized, by target", "random word"]
    assert legend_size(short, 4.1) == (2, pytest.approx(0.12 + 0.4))
    long = [*short, "x" * 36 + "\n" + "y" * 30]
    assert legend_size(long, 9.0) == (2, pytest.approx(0.12 + 0.6))
    assert legend_size(long, 4.1) == (1, pytest.approx(0.12 + 1.0))


def test_mitigations_by_name_are_series_of_their_own():
    arms = [*ARMS, *(Arm(c, f"long {'name ' * 40}, {c}", NAMED) for c in "ab")]
    rows = records()
    rows += [{**r, "arm": c} for r in rows if r["arm"] == "before" for c in "ab"]
    summaries = arm_summaries(arms, rows)
    assert tradeoff_table(summaries)["kind"][-2:] == [NAMED, NAMED]
    named = [name for name in series(summaries) if name.startswith("long")]
    assert len(named) == 2  # neither joined to the targets nor, being cut alike, to each other
    assert tradeoff_figure(summaries, {"sscd": "x"}).startswith(b"\x89PNG")


def test_a_figure_needs_likeness_and_does_without_clip():
    names = {"sscd": "x" * 300}
    assert tradeoff_figure(arm_summaries(ARMS, records()), names).startswith(b"\x89PNG")
    assert tradeoff_figure(arm_summaries(ARMS, records(clip=False)), names).startswith(b"\x89PNG")
    bare = [{**row, "likeness": {}} for row in records()]
    assert tradeoff_figure(arm_summaries(ARMS, bare), names) is None


def study(rows, **changes):
    fields = {
        "model": f"a {HOSTILE} model",
        "generations": 1,
        "summaries": arm_summaries(ARMS, rows),
        "records": rows,
        "names": {"sscd": f"sscd {HOSTILE}", "clip": "clip"},
        "method": {"method": "embedding_first_step", "steps": "0"},
        "notes": [HOSTILE],
        "provenance": {"model": HOSTILE, "seed": 0},
        **changes,
    }
    return RepairStudy(**fields)


def wall():
    cells = [Cell("as asked", np.full((8, 8, 3), 90, np.uint8), ["SSCD 0.71"])]
    return repair_wall([PromptBand(HOSTILE, cells)])


def test_a_page_shows_hostile_captions_as_text_and_holds_its_images(tmp_path):
    page = write_repair_page(tmp_path, study(records()), [wall()]).read_text()
    for tag in ("<script", "<img src=x", "onerror=y>"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.split("</style>")[1]
    with open(tmp_path / "figures/tradeoff.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == [arm.key for arm in ARMS]
    assert (tmp_path / "figures/wall-1.png").is_file()


def test_sentences_say_before_and_the_least_of_the_repairs():
    said = " ".join(repair_sentences(study(records())))
    assert said.startswith("4 prompts, 1 images each")
    assert "the least of the repairs, target 1" in said
    assert "0.300 (0.300 to 0.300) before" in said
    assert "1.00 (1.00 to 1.00) with target 1" in said
    bare = [{**r, "likeness": {}, "clip": {}} for r in records(prompts=1)]
    assert "CLIP" not in " ".join(repair_sentences(study(bare)))


def test_a_wall_shows_the_repairs_first_and_all_prompts_as_asked():
    assert shown_columns(1, 0, 4, True) == ([0, 1], 3)
    assert shown_columns(5, 0, 4, True) == ([0, 1, 2, 3, 4, 5], 1)
    columns, generations = shown_columns(9, 5, 4, False)
    assert (columns[0], columns[1], columns[-1], generations) == (0, 1, 9, 1)
    assert len(columns) == 7
    assert shown_columns(2, 3, 2, True)[0] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="no image was given"):
        repair_wall([])


def test_images_of_a_wall_are_small_bytes():
    kept = small(np.zeros((2, 640, 640, 3), np.uint8) + 7)
    assert kept.shape == (2, 320, 320, 3)
    assert np.ptp(kept) == 0
    assert kept[0, 0, 0, 0] == 7


def test_an_interval_without_width_is_written_like_any_other():
    summary = arm_summaries(ARMS[:1], records())[0]
    assert isinstance(summary.clip, Interval)
    assert summary.clip.low == pytest.approx(summary.clip.high)
