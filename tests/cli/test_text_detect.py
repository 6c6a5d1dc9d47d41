"""``memjax detect`` on a model that reads text: scores, parts that survive a kill, what fits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.commands import PATIENCE, held_elsewhere, memjax, read_rows, write_prompts

FAST = ("--steps=first", "--generations=2")
CAPTIONS = (
    "a photo of a cat",
    "a painting of a house, oil on canvas",
    "<script>alert('x')</script> & <b>bold</b>",
    "naïve café 😀😀 zürich",
    "שלום עולם مرحبا",
    "word " * 120,
    "\u202eevil\u202c \x1b[31m line\u2028end",
)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """The layout of the published prompt files: a caption and other fields, no id."""
    rows = [{"caption": c, "url": f"https://example.org/{i}"} for i, c in enumerate(CAPTIONS)]
    return write_prompts(tmp_path_factory.mktemp("prompts") / "text.jsonl", *rows)


def detect(model, prompts, out, *flags):
    done = memjax("detect", f"--model={model}", f"--prompts={prompts}", f"--out={out}", *flags)
    assert done.code == 0, done.err
    return read_rows(out), done


@pytest.fixture(scope="module")
def scored(text_model, prompts, tmp_path_factory):
    return detect(text_model, prompts, tmp_path_factory.mktemp("scores") / "s.jsonl", *FAST)


def scores_of(rows):
    return np.asarray([row["per_step"] for row in rows])


def test_rows_carry_their_fields_along_and_say_what_was_cut(scored, prompts):
    rows, done = scored
    assert [row["caption"] for row in rows] == list(CAPTIONS)
    assert [row["url"] for row in rows] == [row["url"] for row in read_rows(prompts)]
    assert [row["id"] for row in rows] == [f"prompt-{i:04d}" for i in range(len(CAPTIONS))]
    cut = [row["tokens_cut"] for row in rows]
    assert cut[5] > 0
    assert cut[0] == cut[1] == 0
    made = rows[0]["provenance"]
    assert made["prompts_cut"] == sum(n > 0 for n in cut)
    assert f"{made['prompts_cut']} of 7 captions are longer" in done.out
    assert all(row["score"] == pytest.approx(np.mean(row["per_step"]), abs=2e-6) for row in rows)


def test_provenance_says_the_schedulers_settings_and_no_folder(scored, text_model):
    made = scored[0][0]["provenance"]
    assert made["sampling"] == {
        "stepper": "ddim",
        "num_steps": 50,
        "guidance_scale": 7.5,
        "clip_x0": None,
        "spacing": "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
    }
    assert made["source"]["kind"] == "diffusers folder"
    assert made["model"] == made["source"]["model"] == text_model.name
    assert str(text_model.parent) not in json.dumps(made)
    assert made["forward_evals"] == 2 * (len(CAPTIONS) + 1)  # one unconditional pass a seed


def test_the_terminal_gets_no_control_signs(scored):
    assert "\x1b" not in scored[1].out
    assert "\u202e" not in scored[1].out


def test_the_scores_are_the_norms_of_the_difference(scored, text_model):
    """The same number from the parts themselves, prompt by prompt, without batches."""
    from memjax import interop

    bundle = interop.make_bundle(interop.load(text_model))
    noise = jax.random.normal(jax.random.key(0), (2, *bundle.sample_shape))
    t = np.full(2, 981)  # 49 · 20 + 1: leading spacing with an offset of 1
    predict = jax.jit(bundle.eps_fn)
    for row in scored[0][:3]:
        cond = jax.tree.map(lambda a: np.repeat(a, 2, 0), bundle.encode([row]))
        null = jax.tree.map(lambda a: np.repeat(a, 2, 0), bundle.null_cond)
        difference = predict(bundle.params, noise, t, cond) - predict(bundle.params, noise, t, null)
        norms = np.sqrt(np.sum(np.square(np.asarray(difference, np.float64)), axis=(1, 2, 3)))
        # float32 networks compiled in other batch sizes
        np.testing.assert_allclose(np.asarray(row["per_step"])[:, 0], norms, rtol=2e-5)


@pytest.mark.parametrize("chunk", [3, 100])
def test_the_number_evaluated_together_does_not_change_the_scores(
    chunk, scored, text_model, prompts, tmp_path
):
    rows, _ = detect(text_model, prompts, tmp_path / "s.jsonl", *FAST, f"--chunk={chunk}")
    np.testing.assert_allclose(scores_of(rows), scores_of(scored[0]), rtol=2e-5)
    assert not list(tmp_path.glob("*.parts"))


def test_one_program_is_compiled_whatever_the_number_of_prompts(text_model, tmp_path, monkeypatch):
    compiled = []
    lower = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda self, *a: compiled.append(1) or lower(self, *a)
    )
    many = write_prompts(tmp_path / "p.jsonl", *({"caption": f"cat {i}"} for i in range(41)))
    rows, _ = detect(text_model, many, tmp_path / "s.jsonl", *FAST)
    assert len(rows) == 41
    assert len(compiled) == 1


@pytest.mark.thorough
@pytest.mark.slow
def test_bfloat16_scores_are_close_and_kept_in_float32(scored, text_model, prompts, tmp_path):
    rows, _ = detect(text_model, prompts, tmp_path / "s.jsonl", *FAST, "--dtype=bfloat16")
    np.testing.assert_allclose(scores_of(rows), scores_of(scored[0]), rtol=0.1)
    assert not np.array_equal(scores_of(rows), scores_of(scored[0]))
    assert rows[0]["provenance"]["source"]["dtype"] == "bfloat16"


def test_noise_of_torch_is_turned_and_it_is_said_so(text_model, prompts, tmp_path):
    noise = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    np.save(tmp_path / "torch.npy", noise)
    np.save(tmp_path / "ours.npy", noise.transpose(0, 2, 3, 1))
    found = {
        name: detect(
            text_model,
            prompts,
            tmp_path / f"{name}.jsonl",
            *FAST,
            f"--initial_noise={tmp_path / name}.npy",
        )
        for name in ("torch", "ours")
    }
    assert scores_of(found["torch"][0]).tolist() == scores_of(found["ours"][0]).tolist()
    assert "[generations, channels, height, width]" in found["torch"][1].out
    assert "[generations, channels, height, width]" not in found["ours"][1].out


@pytest.mark.slow
def test_flags_choose_another_trajectory(text_model, prompts, tmp_path):
    flags = ("--steps=2", "--generations=1", "--num_steps=5", "--stepper=dpm-solver++")
    flags += ("--spacing=trailing", "--guidance_scale=3", "--steps_offset=0")
    rows, _ = detect(text_model, prompts, tmp_path / "s.jsonl", *flags)
    assert scores_of(rows).shape == (len(CAPTIONS), 1, 2)
    said = rows[0]["provenance"]["sampling"]
    assert (said["stepper"], said["spacing"], said["num_steps"]) == ("dpm-solver++", "trailing", 5)
    assert (said["guidance_scale"], said["steps_offset"]) == (3.0, 0)


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_prompts_and_loses_none(
    scored, text_model, prompts, tmp_path, monkeypatch
):
    from memjax.detectors import Probe

    measure, sizes = Probe.__call__, []

    def tight(self, cond, compiled=None):
        sizes.append(len(cond.mask))
        if sizes[-1] > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 GiB")
        return measure(self, cond, compiled)

    monkeypatch.setattr(Probe, "__call__", tight)
    rows, _ = detect(text_model, prompts, tmp_path / "s.jsonl", *FAST)
    assert sizes == [7, 4, 2, 2, 2, 2]
    np.testing.assert_allclose(scores_of(rows), scores_of(scored[0]), rtol=2e-5)
    given = ("detect", f"--model={text_model}", f"--prompts={prompts}", "--chunk=5", *FAST)
    done = memjax(*given, f"--out={tmp_path / 'given.jsonl'}")
    assert done.code == 2
    assert "--chunk=5 prompts at once do not fit" in done.err
    assert not list(tmp_path.glob("given*"))


# Stopped and started again


def stop_after(monkeypatch, batches):
    """Lets a run keep so many parts and then fails, as a machine would."""
    from memjax.studies.store import Store

    keep, kept = Store.keep_rows, []

    def limited(self, rows, per_step):
        if len(kept) == batches:
            raise OSError("the machine went away")
        kept.append(len(rows))
        keep(self, rows, per_step)

    monkeypatch.setattr(Store, "keep_rows", limited)


@pytest.fixture
def stopped(text_model, prompts, tmp_path, monkeypatch):
    """A run that was stopped after two parts of two prompts."""
    out = tmp_path / "s.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        done = memjax(
            "detect",
            f"--model={text_model}",
            f"--prompts={prompts}",
            f"--out={out}",
            *FAST,
            "--chunk=2",
        )
    assert done.code == 2
    assert not out.exists()
    assert len(list((tmp_path / "s.jsonl.parts").glob("part-*.npz"))) == 2
    return out


def test_a_stopped_run_goes_on_with_any_chunk(stopped, scored, text_model, prompts):
    rows, done = detect(text_model, prompts, stopped, *FAST, "--chunk=3")
    assert "4 of 7 prompts were scored by an earlier run" in done.out
    assert [row["id"] for row in rows] == [row["id"] for row in scored[0]]
    np.testing.assert_allclose(scores_of(rows), scores_of(scored[0]), rtol=2e-5)
    assert not stopped.with_name("s.jsonl.parts").exists()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--guidance_scale=3",), "guidance_scale 7.5 -> 3.0"),
        (("--seed=1",), "another noise"),
        (("--steps=2",), "steps first -> 2"),
        (("--dtype=bfloat16",), "dtype"),
    ],
)
def test_changed_settings_are_refused(flags, word, stopped, text_model, prompts):
    before = sorted(p.name for p in stopped.parent.rglob("*"))
    done = memjax(
        "detect", f"--model={text_model}", f"--prompts={prompts}", f"--out={stopped}", *FAST, *flags
    )
    assert done.code == 2
    for expected in (word, "--restart", "another --out"):
        assert expected in done.err
    assert sorted(p.name for p in stopped.parent.rglob("*")) == before


@pytest.mark.slow
def test_changed_prompts_are_refused_and_restart_discards(stopped, text_model, tmp_path):
    other = write_prompts(tmp_path / "p.jsonl", *({"caption": f"dog {i}"} for i in range(7)))
    arguments = ("detect", f"--model={text_model}", f"--prompts={other}", f"--out={stopped}", *FAST)
    done = memjax(*arguments)
    assert done.code == 2
    assert "another prompts" in done.err
    assert memjax(*arguments, "--restart").code == 0
    assert [row["caption"] for row in read_rows(stopped)] == [f"dog {i}" for i in range(7)]


def test_a_damaged_part_is_scored_again(stopped, scored, text_model, prompts):
    part = min(stopped.with_name("s.jsonl.parts").glob("part-*.npz"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0xFF
    part.write_bytes(data[:-30])
    rows, done = detect(text_model, prompts, stopped, *FAST)
    assert "is damaged" in done.out
    np.testing.assert_allclose(scores_of(rows), scores_of(scored[0]), rtol=2e-5)


def test_a_part_of_another_run_is_not_taken(stopped, scored, text_model, prompts):
    """Copied by hand, say: its fingerprint tells."""
    part = min(stopped.with_name("s.jsonl.parts").glob("part-*.npz"))
    with np.load(part) as arrays:
        np.savez(
            part, rows=arrays["rows"], per_step=arrays["per_step"] + 1, fingerprint=np.asarray("x")
        )
    rows, _ = detect(text_model, prompts, stopped, *FAST)
    np.testing.assert_allclose(scores_of(rows), scores_of(scored[0]), rtol=2e-5)


@pytest.mark.slow
def test_a_killed_process_goes_on_and_no_row_comes_twice(text_model, tmp_path):
    """A real process, really killed while it scores, and the same command once more."""
    count = 400
    file = write_prompts(tmp_path / "p.jsonl", *({"caption": f"cat {i}"} for i in range(count)))
    arguments = [f"--model={text_model}", f"--prompts={file}", f"--out={tmp_path / 's.jsonl'}"]
    command = [sys.executable, "-m", "memjax", "detect", *arguments, *FAST, "--chunk=1"]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "MEMJAX_KEEP_MEMORY": "0",
    }
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    parts = tmp_path / "s.jsonl.parts"
    deadline = time.monotonic() + PATIENCE
    while len(list(parts.glob("part-*.npz"))) < 5:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    kept = len(list(parts.glob("part-*.npz")))
    assert 5 <= kept < count
    assert not (tmp_path / "s.jsonl").exists()
    done = memjax("detect", *arguments, *FAST)
    assert done.code == 0, done.err
    assert f"{kept} of {count} prompts were scored by an earlier run" in done.out
    rows = read_rows(tmp_path / "s.jsonl")
    assert [row["caption"] for row in rows] == [f"cat {i}" for i in range(count)]
    assert not parts.exists()
    whole, _ = detect(text_model, file, tmp_path / "whole.jsonl", *FAST)
    np.testing.assert_allclose(scores_of(rows), scores_of(whole), rtol=2e-5)


def test_two_processes_do_not_share_one_output(text_model, prompts, tmp_path):
    with held_elsewhere(tmp_path / ".s.jsonl.lock"):
        done = memjax(
            "detect",
            f"--model={text_model}",
            f"--prompts={prompts}",
            f"--out={tmp_path / 's.jsonl'}",
            *FAST,
        )
    assert done.code == 2
    assert "in use by another run" in done.err


# What goes wrong


@pytest.mark.slow
def test_a_score_that_is_not_finite_is_refused(text_model, prompts, tmp_path):
    from memjax import interop

    pipeline = interop.load(text_model)
    last = jax.tree.map(lambda a: a * 1e25, pipeline.unet_params["conv_out"])
    broken = {**pipeline.unet_params, "conv_out": last}
    folder = interop.save(pipeline._replace(unet_params=broken), tmp_path / "loud")
    done = memjax(
        "detect",
        f"--model={folder}",
        f"--prompts={prompts}",
        f"--out={tmp_path / 's.jsonl'}",
        *FAST,
    )
    assert done.code == 2
    assert "not finite" in done.err
    assert not list(tmp_path.glob("s.jsonl*"))


ROWS = {
    "labels only": ({"labels": {"Edema": "positive"}}, "reads text", "'caption'"),
    "neither": ({"url": "x"}, "neither 'labels' nor 'caption'", '"caption": "'),
    "a number": ({"caption": 3}, "caption 3", "text in quotes"),
    "half a sign": ({"caption": "bad \ud800"}, "half a character", "ud800"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_cannot_be_read_is_one_sentence(name, text_model, tmp_path):
    row, *words = ROWS[name]
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(row) + "\n")
    done = memjax(
        "detect", f"--model={text_model}", f"--prompts={file}", f"--out={tmp_path / 's.jsonl'}"
    )
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    for word in words:
        assert word in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_field_called_prompt_is_a_caption_where_there_is_no_other(text_model, tmp_path):
    file = write_prompts(
        tmp_path / "p.jsonl", {"prompt": "a cat"}, {"caption": "a cat", "prompt": "a dog"}
    )
    rows, _ = detect(text_model, file, tmp_path / "s.jsonl", *FAST)
    assert [row["caption"] for row in rows] == ["a cat", "a cat"]
    assert rows[0]["score"] == pytest.approx(rows[1]["score"], rel=2e-5)


def test_random_labels_stand_in_for_no_text(text_model, prompts, tmp_path):
    done = memjax(
        "detect",
        f"--model={text_model}",
        f"--prompts={prompts}",
        f"--out={tmp_path / 's.jsonl'}",
        "--null=random_labels",
    )
    assert done.code == 2
    assert "conditioned on text" in done.err


@pytest.mark.slow
def test_a_companion_may_be_another_text_model(scored, text_model, prompts, tmp_path):
    """The companion is the model itself here, so the scores are the same."""
    shutil.copytree(text_model, tmp_path / "other")
    flags = ("--null=companion", f"--companion={tmp_path / 'other'}")
    rows, _ = detect(text_model, prompts, tmp_path / "s.jsonl", *FAST, *flags)
    np.testing.assert_allclose(scores_of(rows), scores_of(scored[0]), rtol=2e-5)


@pytest.mark.slow
def test_negatives_give_a_threshold_and_a_verdict(text_model, prompts, tmp_path):
    negatives = write_prompts(tmp_path / "n.jsonl", *({"caption": f"dog {i}"} for i in range(5)))
    flags = (f"--negatives={negatives}", "--target_fpr=0.3")
    rows, _ = detect(text_model, prompts, tmp_path / "s.jsonl", *FAST, *flags)
    summary = json.loads((tmp_path / "s.summary.json").read_text())
    assert (summary["num_memorized"], summary["num_other"]) == (len(CAPTIONS), 5)
    assert all(row["flagged"] == (row["score"] > summary["threshold"]) for row in rows)
