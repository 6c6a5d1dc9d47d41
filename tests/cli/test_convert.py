"""memjax convert, as the terminal shows it."""

import json
import os

import jax
import numpy as np
import pytest

from memjax.cli import main as main_module
from memjax.cli.main import main
from memjax.interop import load
from tests.interop.stable_diffusion.pipelines import assert_same, folder, tiny


def convert(capsys, *arguments):
    code = main(["convert", *map(str, arguments)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out, said.err.splitlines()[-1] if said.err else ""


def test_a_folder(tmp_path, capsys):
    source, target = folder(tmp_path / "m"), tmp_path / "new" / "copy"
    code, out, _ = convert(capsys, f"--from={source}", f"--to={target}", "--dtype=float16")
    assert code == 0
    halves = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), tiny().params)
    assert_same(load(target, dtype="float16").params, halves)
    lines = out.splitlines()
    count = sum(leaf.size for leaf in jax.tree.leaves(tiny().params))
    assert lines[0] == f"diffusers folder {source}, prediction of eps"
    assert [line.split()[0] for line in lines[2:5]] == ["unet", "vae", "text_encoder"]
    assert lines[5].split() == ["all", f"{count:,}", f"{2 * count / 1e6:.1f}"]
    assert lines[-1] == f"written: {target}"
    assert os.listdir(tmp_path / "new") == ["copy"]
    assert json.loads((target / "memjax.json").read_text())["source"]["model"] == str(source)


def test_replacing_and_variants(tmp_path, capsys):
    source, target = folder(tmp_path / "m", "sd2"), tmp_path / "copy"
    flags = (f"--from={source}", f"--to={target}")
    assert convert(capsys, *flags, "--save_variant=fp16", "--dtype=float16")[0] == 0
    assert (target / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    code, _, error = convert(capsys, *flags)
    assert code == 2
    assert "choose a new name, or replace it with force=True (--force)" in error
    assert convert(capsys, *flags, "--force")[0] == 0
    assert_same(load(target).params, tiny("sd2").params)
    code, _, error = convert(capsys, f"--from={target}", f"--to={tmp_path / 'x'}", "--variant=fp16")
    assert code == 0  # parts without the variant give their plain files


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--to=copy",), "--from must be given"),
        (("--from=m",), "--to must be given"),
        (("--from=m", "--to=m"), "is the source m or lies in it"),
        (("--from=m", "--to=m/copy"), "is the source m or lies in it"),
        (("--from=m", "--to=copy.safetensors"), "is a file's name, expected a folder's"),
        (("--from=m", "--to=full"), "is there already and not empty"),
        (("--from=m", "--to=full", "--force"), "holds something else than a pipeline"),
        (("--from=m", "--to=copy", "--dtype=int8"), "dtype"),
        (("--from=m", "--to=copy", "--prediction=v"), "prediction was given for m"),
        (("--from=m", "--to=copy", "--weights=ema"), "weights was given for m"),
        (
            ("--from=run", "--to=x.safetensors", "--weights=ema", "--prediction=v"),
            "--prediction=v would change nothing: run is a memjax run, whose averaged weights",
        ),
        (("--from=none", "--to=copy"), "There is no folder or file none"),
        (("--from=model.ckpt", "--to=copy"), "pickled (.bin, .ckpt, .pt)"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "m")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02.")
    before = sorted(tmp_path.rglob("*"))
    code, out, error = convert(capsys, *flags)
    assert (code, out) == (2, "")
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("word", ["sd", "knn", "model"])
def test_a_word_stands_for_the_flag_of_bench(monkeypatch, word):
    assert main_module._with_flag("bench", [word, "--out=x"]) == [f"--what={word}", "--out=x"]
    assert main_module._with_flag("bench", ["--out=x", word]) == ["--out=x", word]
    assert main_module._with_flag("sample", [word]) == [word]
