"""Every number of every command has a range, and what is refused is refused without jax."""

import importlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from memjax.cli import config_fields
from memjax.cli.main import COMMANDS
from memjax.core.names import MOST_SEED
from memjax.mitigations import MITIGATIONS
from memjax.runs.config import check_config, check_sweep, find_config, plain
from memjax.runs.outputs import safe_names
from memjax.runs.prompts import initial_noise
from tests.commands import memjax

WITH_FLAGS = [c for c in COMMANDS if c != "doctor"]
SIGNED = {"guidance_scale"}  # may be negative
ENDLESS = {"radius"}  # may be infinite


def numeric_flags(command):
    sys.modules.pop(f"memjax.cli.{command}", None)
    values = importlib.import_module(f"memjax.cli.{command}").FLAGS
    kinds = (flags.IntegerParser, flags.FloatParser)
    return [n for n in values if "." not in n and isinstance(values[n].parser, kinds)], values


@pytest.mark.parametrize("command", WITH_FLAGS)
def test_every_numeric_flag_refuses_what_is_no_number_of_its_range(command):
    names, values = numeric_flags(command)
    for name in names:
        parser = values[name].parser
        assert None not in (parser.lower_bound, parser.upper_bound), name
        wrong = ["nan", str(10**30)] + ["-1"] * (name not in SIGNED)
        wrong = [w for w in wrong if not (name in ENDLESS and w[0] == "1")]
        for value in wrong + ["inf"] * (name not in ENDLESS):
            done = memjax(command, f"--{name}={value}")
            assert done.code == 2, (name, value)
            assert name in done.err, (name, value, done.err)
            assert "Traceback" not in done.err


def leaves(value, name=""):
    for key, field in value.items():
        if isinstance(field, dict):
            yield from leaves(field, f"{name}{key}.")
        elif field is None or (isinstance(field, int | float) and not isinstance(field, bool)):
            yield f"{name}{key}"


def changed(config, name, value):
    config = json.loads(json.dumps(config))
    section = config
    *path, last = name.split(".")
    for part in path:
        section = section[part]
    section[last] = value
    return config


@pytest.mark.parametrize("kind", ["base", "fine_tune"])
def test_every_number_of_a_configuration_has_a_range(kind):
    config = plain(getattr(config_fields, f"{kind}_config")())
    config["audit"]["options"]["mitigate_steps"] = [0]
    check_config(config)
    for name in leaves(config):
        low = {"parallel.data": -2, "sampling.guidance_scale": -1e3}
        low = (low | {"train.filter_threshold": -1e10}).get(name, -1)
        for value in (math.nan, math.inf, -math.inf, low):
            with pytest.raises(ValueError, match=f"{name}=" if value == value else "nan"):
                check_config(changed(config, name, value))


def test_every_number_of_a_sweep_has_a_range():
    sweep = plain(config_fields.sweep_config())
    check_sweep(sweep)
    for name in leaves({"measure": sweep["measure"]}):
        with pytest.raises(ValueError, match=name):
            check_sweep(changed(sweep, name, math.nan))
    for seed in (-1, MOST_SEED + 1):
        with pytest.raises(ValueError, match="seeds="):
            check_sweep({**sweep, "seeds": [0, seed]})


def test_bundled_configurations_are_within_their_ranges():
    from memjax.cli.config import load_config
    from memjax.runs.config import bundled_configs

    for name in bundled_configs():
        config = plain(load_config(name))
        (check_sweep if "arms" in config else check_config)(config)


def test_a_sweep_given_to_train_is_named():
    done = memjax("train", "--config=sweep_guidance", "--workdir=out")
    assert done.code == 2
    assert "memjax sweep" in done.err


DATA = {
    "data.channels=2": ("1 (grayscale) or 3 (color)",),
    "data.square=oval": ("'oval'", "crop, pad, stretch"),
    "data.root=nowhere": ("data.root=nowhere is no folder", "--config.data.root"),
}


@pytest.mark.parametrize("field", DATA)
def test_data_that_cannot_be_read_are_refused_before_anything_is_drawn(field, tmp_path):
    kind = "--config.data.kind=folder"
    words = ("train", "--config=phantoms_demo", f"--workdir={tmp_path / 'out'}", kind)
    done = memjax(*words, f"--config.{field}")
    assert done.code == 2
    for word in DATA[field]:
        assert word in done.err
    assert not list(tmp_path.iterdir())


IGNORED = {
    "held_out": ("audit", "--model=m", "--held_out=d"),
    "target_fpr": ("detect", "--model=m", "--prompts=p", "--out=o", "--target_fpr=0.1"),
    "insertions": ("mitigate", "--model=m", "--prompts=p", "--out=o", "--insertions=2"),
    "learning_rate": (
        *("mitigate", "--model=m", "--prompts=p", "--out=o"),
        *("--method=embedding_noise", "--learning_rate=0.1"),
    ),
    "generations": (
        *("fit", "--config=phantoms_demo", "--topology=v5e:2x4"),
        "--generations=2",
    ),
    "attribution": (
        *("explain", "--model=m", "--prompts=p", "--out=o", "--attribution=grad_norm"),
        "--explanation=token_significance:attribution=integrated",
    ),
}


@pytest.mark.parametrize("name", IGNORED)
def test_a_flag_that_would_change_nothing_is_refused(name):
    done = memjax(*IGNORED[name])
    assert done.code == 2
    assert f"--{name}=" in done.err
    assert "would change nothing" in done.err


def test_a_run_becomes_one_file_and_says_so(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    done = memjax("convert", f"--from={tmp_path}", f"--to={tmp_path / 'out'}")
    assert done.code == 2
    for word in ("is a memjax run", ".safetensors", "--to="):
        assert word in done.err
    given = f"--to={tmp_path / 'out.safetensors'}"
    done = memjax("convert", f"--from={tmp_path}", given, "--variant=fp16")
    assert "--variant=fp16 would change nothing" in done.err


def test_fields_of_methods_are_in_range():
    from memjax.mitigations import MITIGATIONS

    for field, value in (("scale", "-1"), ("scale", "inf"), ("scale", "1e30"), ("scale", "nan")):
        with pytest.raises(ValueError, match=f"{field} is"):
            MITIGATIONS.parse(f"embedding_noise:{field}={value}")


class Model:
    sample_shape = (4, 4, 1)


def test_a_header_that_promises_terabytes_takes_no_memory(tmp_path):
    path = tmp_path / "noise.npy"
    head = {"descr": "<f4", "fortran_order": False, "shape": (4, 10**6, 10**6, 1)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        file.write(b"\0" * 64)
    with pytest.raises(ValueError, match=r"cannot be read as \.npy"):
        initial_noise(str(path), Model, 4, 0)
    several = tmp_path / "noise.npz"
    np.savez(several, a=np.zeros(3))
    with pytest.raises(ValueError, match="several arrays"):
        initial_noise(str(several), Model, 4, 0)
    good = np.zeros((4, 4, 4, 1), np.float32)
    np.save(tmp_path / "good.npy", good)
    np.testing.assert_array_equal(initial_noise(str(tmp_path / "good.npy"), Model, 4, 0), good)


def test_noise_that_no_memory_holds_is_said_with_its_size():
    with pytest.raises(ValueError, match=r"--generations=1000000000000 .*GiB"):
        initial_noise("", Model, 10**12, 0)


def test_names_of_files_are_cut_by_bytes():
    ids = ["肺" * 80, "肺" * 80 + "b", "𝒳" * 100, "a" * 300]
    names = safe_names(ids)
    assert len(set(names)) == 4
    assert all(len(f"{name}_100.png".encode()) <= 255 for name in names)


def test_the_home_folder_is_found_behind_an_equals_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    done = memjax("detect", "--model=m", "--prompts=~/none.jsonl", "--out=o")
    assert f"{tmp_path}/none.jsonl is not a file" in done.err


@pytest.mark.parametrize("command", ["sample", "explain", "mitigate"])
def test_a_file_where_a_folder_is_written_is_refused_first(command, tmp_path):
    (tmp_path / "file").write_text("keep me")
    done = memjax(command, "--model=m", "--prompts=p", f"--out={tmp_path / 'file'}")
    assert f"--out={tmp_path / 'file'} is a file" in done.err


HEAVY = ("jax", "flax", "optax", "orbax", "transformers", "matplotlib", "scipy", "sklearn")
MISTAKES = {
    "a command that is not there": ("detct",),
    "a flag that is not there": ("detect", "--promts=x"),
    "a word instead of a flag": ("train", "phantoms_demo"),
    "no number": ("detect", "--generations=four"),
    "a rate that is no number": ("mitigate", "--learning_rate=nan"),
    "a configuration that is not there": ("train", "--config=phantom_demo", "--workdir=o"),
    "a field that is not there": (
        *("train", "--config=phantoms_demo", "--workdir=o", "--config.train.step=3"),
    ),
    "an impossible field": (
        *("train", "--config=phantoms_demo", "--workdir=o", "--config.train.cond_dropout=2"),
    ),
    "nothing given": ("mitigate",),
    "a file that is not there": ("detect", "--model=m", "--prompts=nowhere.jsonl", "--out=o"),
    "a sweep to train": ("train", "--config=sweep_guidance", "--workdir=o"),
    "a seed too large": ("sample", "--seed=4294967296"),
}
SCRIPT = """
import io, json, contextlib, sys
from memjax.cli.main import main
out = {}
for name, words in json.load(sys.stdin).items():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = main(words)
    found = [m for m in sys.argv[1:] if m in sys.modules]
    out[name] = [code, found]
print(json.dumps(out))
"""


@pytest.mark.slow
def test_help_and_refusals_load_nothing_heavy():
    helps = {f"help {c}": (c, "--help") for c in COMMANDS}
    asked = {**helps, **MISTAKES}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *HEAVY],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    for name, (code, loaded) in json.loads(done.stdout).items():
        assert code == (0 if name.startswith("help") else 2), name
        assert not loaded, (name, loaded)


def test_configurations_by_path_may_hold_spaces(tmp_path):
    path = tmp_path / "my own" / "mine.py"
    path.parent.mkdir()
    path.write_text(find_config("phantoms_demo").read_text())
    words = ("train", f"--config={path}", "--workdir=o", "--config.train.steps=0")
    assert "train.steps=0 (expected 1" in memjax(*words).err


def test_scores_below_zero_may_be_thresholds_and_targets():
    config = plain(config_fields.base_config())
    check_config(changed(config, "train.filter_threshold", -50.0))
    text = "embedding_optimization:detector=(flipd):target=-5"
    assert MITIGATIONS.parse(text).target == -5.0


def test_a_sweep_made_of_others_refuses_what_it_would_drop(tmp_path):
    asked = ("sweep", "--config=sweep_validation", f"--workdir={tmp_path / 'w'}", "--plan")
    done = memjax(*asked, "--config.base.train.steps=7")
    assert done.code == 2
    assert "--config.base.train.steps would change nothing" in done.err
    assert memjax(*asked, "--config.seeds=(1,)").code == 0


def test_flags_of_an_optimization_are_refused_without_one(tmp_path):
    asked = ("mitigate", "--model=m", "--prompts=p", "--out=o", "--method=embedding_noise")
    done = memjax(*asked, "--target=1")
    assert done.code == 2
    assert "--target=1" in done.err
