"""Files that people give, damaged at random: each is read, or refused in one sentence.

No traceback, nothing slower than ten seconds, no more than two GiB, and nothing written.
"""

import io
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.data.readers.chest_folders import write_chexpert, write_mimic, write_nih

pytestmark = pytest.mark.thorough

SECONDS = 8.0  # of trying, a kind of file
SLOWEST, MOST_BYTES = 10, 2 << 30
TOKENS = (
    *(b"1e999", b"NaN", b"-1", b"0", b"null", b"true", b'""', b"9" * 5000, b"[" * 20_000),
    *(b"\x00", b"\xff\xfe", b'"', b",", b"\n", b"\r", b"\t", b"{", b"}", b"../..", b"=1+1"),
    *("\u202e".encode(), "e\u0301".encode(), b"\xed\xa0\x80", b"4294967296", b"1e-400"),
)


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        make: Writes a good one into a folder; returns the files that may be damaged.
        read: Reads it from there.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """Changes, cuts, repeats, moves, or puts hostile words into some bytes, once to three times."""
    for _ in range(rng.integers(1, 4)):
        a, b = np.sort(rng.integers(0, len(data) + 1, 2)).tolist()
        near = min(b, a + int(rng.integers(1, 40)))
        word = TOKENS[rng.integers(len(TOKENS))]
        flipped = bytes([byte ^ (1 << int(rng.integers(8))) for byte in data[a : a + 1]])
        choices = (
            data[:a],
            data[:a] + data[b:],
            data[:a] + word + data[a:],
            data[:a] + word + data[near:],
            data[:near] + data[a:near] * 3 + data[near:],
            data[b:] + data[a:b] + data[:a],
            data[:a] + rng.bytes(near - a) + data[near:],
            data[:a] + flipped + data[a + 1 :],
        )
        data = choices[rng.integers(len(choices))]
    return data


def written(path: Path, data: bytes) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return [path]


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def of_prompts(name: str, text: str) -> Kind:
    from memjax.runs.prompts import read_prompts

    return Kind(
        lambda root: written(root / name, text.encode()),
        lambda root: read_prompts(str(root / name)),
    )


def of_table(kind: str, write: Callable[[Path], object]) -> Kind:
    from memjax.data.readers.kinds import read_kind
    from memjax.runs.defaults import default_config

    settings = {**default_config()["data"], "kind": kind, "seed": 0}

    def make(root: Path) -> list[Path]:
        write(root)
        tables = [p for p in root.rglob("*") if p.suffix in (".csv", ".txt", ".gz", ".json")]
        return [*tables, next(root.rglob("*.jpg"), None) or next(root.rglob("*.png"))]

    return Kind(make, lambda root: read_kind(root, kind, {**settings, "root": str(root)}))


def of_captions(name: str, text: str) -> Kind:
    from memjax.data.readers.folder import read_folder

    def make(root: Path) -> list[Path]:
        for i in range(3):
            written(root / f"{i}.png", encoded(Image.new("L", (8, 8), 60 * i + 9), "PNG"))
        return written(root / name, text.encode())

    return Kind(make, lambda root: read_folder(root, held_out_fraction=0.0))


def of_images(suffix: str) -> Kind:
    from memjax.data.images import load_image

    gray = np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8)
    data = encoded(Image.fromarray(gray), suffix)
    name = f"a.{suffix}"
    return Kind(
        lambda root: written(root / name, data), lambda root: load_image(root / name, 16, 1)
    )


def of_noise() -> Kind:
    from memjax.runs.prompts import initial_noise

    class Shaped(NamedTuple):
        sample_shape: tuple[int, int, int] = (8, 8, 1)

    def make(root: Path) -> list[Path]:
        np.save(root / "noise.npy", np.ones((2, 8, 8, 1), np.float32))
        return [root / "noise.npy"]

    return Kind(make, lambda root: initial_noise(str(root / "noise.npy"), Shaped(), 2, 0))


def of_models(model: Path, names: tuple[str, ...]) -> Kind:
    from memjax.interop import load

    def make(root: Path) -> list[Path]:
        shutil.copytree(model, root, dirs_exist_ok=True)
        files = [p for p in root.rglob("*") if p.name.endswith(names) and p.is_file()]
        assert files, names
        return files

    return Kind(make, load)


def of_runs(run: Path) -> Kind:
    from memjax.runs.model import load_model

    def make(root: Path) -> list[Path]:
        shutil.copytree(run / "checkpoints", root / "checkpoints", dirs_exist_ok=True)
        shutil.copy(run / "run.json", root)
        return [root / "run.json"]

    return Kind(make, load_model)


def of_metrics() -> Kind:
    from memjax.training.logging import read_metrics

    lines = "".join(json.dumps({"step": i, "loss": 1.5, "seconds": 0.1}) + "\n" for i in range(9))
    return Kind(
        lambda root: written(root / "metrics.jsonl", lines.encode()),
        lambda root: read_metrics(root / "metrics.jsonl"),
    )


def of_patients() -> Kind:
    from memjax.studies.copies.patients import read_patients

    return Kind(
        lambda root: written(root / "table.csv", b"file_name,patient\na.png,1\nb.png,2\n"),
        lambda root: read_patients(str(root / "table.csv")),
    )


PROMPTS = {
    "prompts.jsonl": '{"id": "a", "caption": "a cat"}\n{"caption": "two", "seed": 3}\n',
    "prompts.csv": 'id,caption,score\na,a cat,3\nb,"a, b",4\n',
    "prompts.txt": "a cat\na dog\nß é 好\n",
    "prompts.json": '[{"caption": "a cat"}, {"caption": "a dog"}]',
}
CAPTIONS = {
    "metadata.jsonl": '{"file_name": "0.png", "text": "a"}\n{"file_name": "1.png", "text": "b"}\n',
    "metadata.csv": "file_name,text,repeats\n0.png,a,2\n1.png,b,1\n",
    "0.txt": "a photo of a cat\n",
}
KINDS: dict[str, Callable[..., Kind]] = {
    **{name: lambda n=name, t=text: of_prompts(n, t) for name, text in PROMPTS.items()},
    **{name: lambda n=name, t=text: of_captions(n, t) for name, text in CAPTIONS.items()},
    "chexpert": lambda: of_table("chexpert", write_chexpert),
    "nih": lambda: of_table("nih", write_nih),
    "mimic": lambda: of_table("mimic", write_mimic),
    **{suffix: lambda k=suffix: of_images(k) for suffix in ("png", "jpeg", "tiff", "webp")},
    "noise": of_noise,
    "metrics": of_metrics,
    "patients": of_patients,
}
OF_MODELS = {
    "settings": (".json",),
    "weights": (".safetensors",),
    "words": ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
}


def listing(root: Path) -> list[tuple[str, int]]:
    return sorted((str(p.relative_to(root)), p.stat().st_size) for p in root.rglob("*"))


def too_slow(signum: int, frame: object) -> None:
    raise AssertionError(f"nothing came back for {SLOWEST} s")


def check(kind: Kind, root: Path, seed: int) -> int:
    """Damages one file after the other until the time is over; returns how many."""
    files = kind.make(root)
    good = {path: path.read_bytes() for path in files}
    kind.read(root)  # the good one is read; what is loaded once is no part of the figures
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, too_slow)
    end, tries = time.monotonic() + SECONDS, 0
    try:
        while time.monotonic() < end:
            rng = np.random.default_rng([seed, tries])
            path = files[rng.integers(len(files))]
            path.write_bytes(damaged(rng, good[path]))
            there = listing(root)
            signal.alarm(SLOWEST)
            try:
                kind.read(root)
            except (ValueError, OSError) as error:
                said = str(error)
                assert said, (path.name, tries)
                assert "\n" not in said.strip(), (path.name, tries, said)
                assert len(said) < 2000, (path.name, tries, said)
            except AssertionError:
                raise
            except BaseException as error:
                raise AssertionError(f"{path.name}, try {tries}: {error!r}") from error
            finally:
                signal.alarm(0)
            assert listing(root) == there, (path.name, tries)
            path.write_bytes(good[path])
            tries += 1
    finally:
        signal.signal(signal.SIGALRM, old)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MOST_BYTES
    return tries


@pytest.mark.parametrize("name", list(KINDS))
def test_damaged_files_are_read_or_refused_in_a_sentence(name, tmp_path):
    assert check(KINDS[name](), tmp_path, int(os.environ.get("MEMJAX_SEED", "0"))) > 20


@pytest.mark.parametrize("name", list(OF_MODELS))
def test_damaged_models_are_loaded_or_refused_in_a_sentence(name, text_model, tmp_path):
    assert check(of_models(text_model, OF_MODELS[name]), tmp_path, 1) > 5


def test_damaged_records_of_runs_are_opened_or_refused_in_a_sentence(run, tmp_path):
    assert check(of_runs(run), tmp_path, 2) > 5
